"""A loaded graph's inputs and outputs as plain data, and the words that the worker's files share."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
"""NumPy's element types by the protocol's names."""


class LoadError(Exception):
    """A model can't be loaded; the message names the file relative to the repository, the place and what would do."""


class RunError(Exception):
    """A batch can't be run; the message is for people and holds no path."""


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """One input or output of a graph."""

    name: str
    kind: str
    """A key of DTYPES, or what the graph says where it is none, such as "seq(tensor(float))"."""
    shape: tuple[int | str | None, ...]
    """With the batch dimension; a name or None: not fixed. Empty: a scalar, or not even the rank is known."""


@dataclass(frozen=True, slots=True)
class Graph:
    inputs: dict[str, GraphTensor]
    outputs: dict[str, GraphTensor]


def extents(shape: tuple[int | str | None, ...]) -> tuple[int, ...]:
    """The shape with -1 for every dimension that is not fixed."""
    return tuple(extent if isinstance(extent, int) else -1 for extent in shape)


def is_fixed(shape: tuple[int, ...]) -> bool:
    return all(extent >= 0 for extent in shape)
