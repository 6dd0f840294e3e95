"""The inputs and outputs of a loaded graph as plain data."""

from dataclasses import dataclass


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


@dataclass(frozen=True, slots=True)
class Graph:
    inputs: dict[str, GraphTensor]
    outputs: dict[str, GraphTensor]


Axis = int | None
"""The dimension of a graph tensor that is the batch; None: it has none, and a frame is the whole tensor."""


def extents(shape: tuple[int | str | None, ...]) -> tuple[int, ...]:
    """The shape with -1 for every dimension that is not fixed."""
    return tuple(extent if isinstance(extent, int) else -1 for extent in shape)


def is_fixed(shape: tuple[int, ...]) -> bool:
    return all(extent >= 0 for extent in shape)
