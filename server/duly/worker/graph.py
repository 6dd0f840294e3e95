"""The inputs and outputs of a loaded graph as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

MADE_UP_ELEMENTS_MAX = 1 << 22
"""A made-up tensor has no more elements than this because of extents that are open."""


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """One input or output of a graph."""

    name: str
    datatype: str
    """A key of DTYPES, or what the graph says where it is none, such as "seq(tensor(float))"."""
    shape: tuple[int | str | None, ...]
    """The extents with the batch dimension; a name or None stands for one that is not fixed. An empty shape is that of
    a scalar, or of a tensor whose rank is not known either."""
    as_declared: bool = True
    """False: an output that comes out otherwise than the graph declares, so that ONNX Runtime takes no buffer for it.
    """
    batched: bool = True
    """False: the graph's own tensor has no batch dimension, and a frame is the whole of it."""


@dataclass(frozen=True, slots=True)
class Graph:
    inputs: dict[str, GraphTensor]
    outputs: dict[str, GraphTensor]


Axis = int | None
"""The dimension of a graph tensor that is the batch; None: it has none, and a frame is the whole tensor."""


def extents(shape: tuple[int | str | None, ...]) -> tuple[int, ...]:
    """The shape with -1 for every dimension that is not fixed."""
    return tuple(extent if isinstance(extent, int) else -1 for extent in shape)


def made_up_shape(shape: Sequence[int], extent: int) -> tuple[int, ...]:
    """The shape with `extent` for every -1, or with less where the tensor would have too many elements."""
    while True:
        made_up = tuple(extent if each < 0 else each for each in shape)
        if extent <= 1 or prod(made_up) <= MADE_UP_ELEMENTS_MAX:
            return made_up
        extent //= 2


def is_fixed(shape: tuple[int, ...]) -> bool:
    return all(extent >= 0 for extent in shape)
