"""What following the channels of a graph finds (graphs/channels): layers, ties, and what has an element for each."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Atoms = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Held:
    """The channels of a tensor: they lie along `axis`, and `atoms` has one number for each element there."""

    axis: int
    atoms: Atoms


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or a dense layer."""

    node: int
    """Its place among the graph's nodes."""
    name: str
    """What it is called in what is said."""
    tensor: str
    """What it reads."""
    output: str
    weight: str
    bias: str
    """Empty: it has none."""
    axis_in: int
    """The axis of the weight that goes over what it reads."""
    axis_out: int
    atoms_in: Atoms | None
    """None: what it reads has no channels of other layers."""
    atoms_out: Atoms


@dataclass(frozen=True, slots=True)
class Cut:
    """An initializer that has an element, along `axis`, for each of `atoms`."""

    initializer: str
    axis: int
    atoms: Atoms


@dataclass(frozen=True, slots=True)
class Count:
    """A number that says how many `atoms` there are: an element of an initializer, or an attribute `group`."""

    node: int
    initializer: str
    """Empty: it is the attribute."""
    position: int
    atoms: Atoms


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that can be taken out one by one, of layers whose channels are tied."""

    layers: tuple[int, ...]
    """The layers that compute them, by their places in `Channels.layers`."""
    classes: Atoms


@dataclass(slots=True)
class Channels:
    """What `follow` found."""

    layers: list[Layer] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    """Layers none of whose channels can be taken out, by their names, and why."""
    roots: Atoms = field(default_factory=lambda: np.zeros(0, np.int64))
    """The class of every atom."""
