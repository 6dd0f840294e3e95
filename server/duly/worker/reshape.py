"""Runs a graph whose tensors have other shapes than clients know, with as many elements.

The rest of the worker sees the shapes that clients know. Nothing is copied: it is the same memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from duly.models.spec import Input, ModelConfig, Output
from duly.worker.batch_axes import BoundBatch, Placed, Session
from duly.worker.dtypes import Array
from duly.worker.errors import LoadError, RunError
from duly.worker.graph import Graph, GraphTensor, extents


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The shape of one frame as clients know it and as the graph has it."""

    known: tuple[int, ...]
    own: tuple[int, ...]
    batched: bool
    """Whether the batch stands before it."""

    def to_graph(self, array: Array) -> Array:
        return array.reshape((*array.shape[:1], *self.own) if self.batched else self.own)

    def from_graph(self, array: Array) -> Array:
        try:
            return array.reshape((*array.shape[:1], *self.known) if self.batched else self.known)
        except ValueError:
            raise RunError(f"a result has shape {list(array.shape)}, which can't become {list(self.known)}") from None


class ReshapedSession:
    """A session as `Session`, and its graph, in the shapes that clients know."""

    def __init__(self, session: Session, graph: Graph, config: ModelConfig) -> None:
        """Raises LoadError where a `reshape` does not fit the graph."""
        self._session = session
        self._shapes: dict[str, _Shapes] = {}
        inputs = self._reshaped("input", graph.inputs, config.inputs, config)
        outputs = self._reshaped("output", graph.outputs, config.outputs, config)
        self.graph = Graph(graph.inputs | inputs, graph.outputs | outputs)

    def _reshaped(
        self, kind: str, tensors: Mapping[str, GraphTensor], declared: Sequence[Input | Output], config: ModelConfig
    ) -> dict[str, GraphTensor]:
        found = {}
        for index, each in enumerate(declared):
            tensor = tensors.get(each.tensor or each.name)
            if each.reshape is None or tensor is None:
                continue  # one that is not there is for `plan` to name
            place = f"{kind}[{index}].reshape"
            shapes = _shapes(each, tensor, config, place)
            self._shapes[tensor.name] = shapes
            found[tensor.name] = replace(tensor, shape=(*tensor.shape[: int(shapes.batched)], *shapes.known))
        return found

    def bind(
        self,
        size: int,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array | None],
        placed: Placed | None = None,
    ) -> BoundBatch:
        bound: dict[str, Array | None] = {
            name: self._shapes[name].to_graph(array) if array is not None and name in self._shapes else array
            for name, array in outputs.items()
        }
        return _ReshapedBinding(self._session.bind(size, self._to_graph(inputs), bound, placed), self)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        return self.from_graph(self._session.run(self._to_graph(inputs), outputs))

    def _to_graph(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {
            name: self._shapes[name].to_graph(array) if name in self._shapes else array
            for name, array in arrays.items()
        }

    def from_graph(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The same arrays in the shapes that clients know. Raises RunError."""
        return {
            name: self._shapes[name].from_graph(array) if name in self._shapes else array
            for name, array in arrays.items()
        }


class _ReshapedBinding:
    def __init__(self, binding: BoundBatch, session: ReshapedSession) -> None:
        self._binding = binding
        self._session = session

    def run(self) -> dict[str, Array]:
        return self._session.from_graph(self._binding.run())


def reshapes(config: ModelConfig) -> bool:
    """Whether any tensor has another shape in the graph."""
    declared: tuple[Input | Output, ...] = (*config.inputs, *config.outputs)
    return any(each.reshape is not None for each in declared)


def _shapes(declared: Input | Output, tensor: GraphTensor, config: ModelConfig, place: str) -> _Shapes:
    assert declared.reshape is not None
    known, own = declared.shape, declared.reshape
    if known is None or min(known, default=0) < 0 or prod(known) != prod(own):
        shape = "shape, which is missing" if known is None else f"shape, {list(known)}"
        raise LoadError(f"{place}: {list(own)} should have as many elements as {shape}, all of whose extents are fixed")
    if declared.batch_axis or config.batch_axis or (isinstance(declared, Input) and declared.preprocess):
        raise LoadError(f"{place}: does not go with batch_axis and preprocess; say those of the graph's own shape")
    batched = len(tensor.shape) == len(own) + 1 and config.batched is not False
    inner = extents(tensor.shape)[int(batched) :]
    if len(inner) != len(own) or any(has not in (-1, wanted) for has, wanted in zip(inner, own, strict=True)):
        batch = " behind the batch" if config.batched is not False else ""
        shape_of_graph = [extent if extent is not None else -1 for extent in tensor.shape]
        raise LoadError(f"{place}: {list(own)}{batch} is not what the graph's '{tensor.name}' has, {shape_of_graph}")
    return _Shapes(known, own, batched)
