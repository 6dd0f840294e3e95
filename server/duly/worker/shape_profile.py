"""For which shapes a provider is to compile, where it compiles for shapes.

TensorRT compiles at load for a range of shapes that it is given, and where it is given none, at the first frame of each
new one, which takes minutes. So each open extent has to be known at load: the batch has the sizes that are warmed, and
all others must be fixed, in the graph or in model.toml. One range holds all sizes, from a frame alone to the largest
batch, and it is tuned for the largest, since that is what a lane that is short of time runs.
"""

from collections.abc import Mapping
from contextlib import suppress

from duly.accelerators import Accelerator
from duly.models.spec import Input, ModelConfig
from duly.worker.errors import LoadError
from duly.worker.graph import Graph, GraphTensor
from duly.worker.graph_facts import GraphFacts, InputFacts
from duly.worker.inputs import plan_inputs
from duly.worker.plan import BATCH_SIZES
from duly.worker.providers import ProviderError

_PARTS = ("_min_shapes", "_opt_shapes", "_max_shapes")


def shape_options(
    row: Accelerator, facts: GraphFacts, config: ModelConfig, given: Mapping[str, object]
) -> dict[str, str]:
    """Returns the options that say for which shapes to compile; none where all shapes are fixed, or model.toml says
    them itself. `given`: the options there.

    Raises:
        ProviderError: an extent beside the batch is open, or model.toml says a range in part.
    """
    if not row.by_shape:
        return {}
    names = [row.shape_options + part for part in _PARTS] if row.shape_options else []
    said = [name for name in names if name in given]
    if said and len(said) < len(names):
        missing = ", ".join(name for name in names if name not in given)
        raise ProviderError(f"{row.provider}: options has {said[0]} and not {missing}; say all of them, or none")
    if said:
        return {}
    least: list[str] = []
    most: list[str] = []
    for name, of_input in facts.inputs.items():
        shape = _known_shape(row, name, of_input, config)
        if of_input.shape is None or -1 in of_input.shape:
            least.append(f"{name}:{_written(shape, 1)}")
            most.append(f"{name}:{_written(shape, _largest(config))}")
    if not least or not names:
        return {}
    return {names[0]: ",".join(least), names[1]: ",".join(most), names[2]: ",".join(most)}


def says_ranges(row: Accelerator, config: ModelConfig) -> bool:
    """Whether model.toml says itself for which shapes to compile, so that frames of open extents are its own matter."""
    return bool(row.shape_options) and any(
        provider.name == row.provider and row.shape_options + _PARTS[0] in provider.options
        for provider in config.providers
    )


def _largest(config: ModelConfig) -> int:
    """The largest batch that is run."""
    return 1 if config.batched is False else (config.batch_sizes or BATCH_SIZES)[-1]


def _written(shape: tuple[int, ...], size: int) -> str:
    return "x".join(str(size if extent < 0 else extent) for extent in shape)


def _known_shape(row: Accelerator, name: str, of_input: InputFacts, config: ModelConfig) -> tuple[int, ...]:
    """Returns the shape, in which no extent but the batch is open (-1)."""
    shape = of_input.shape
    if shape is None:
        raise ProviderError(
            f"{row.provider} compiles for shapes, and the graph does not say which its input '{name}' has; export it "
            "with shapes"
        )
    declared = next((each for each in config.inputs if name == (each.tensor or each.name)), None)
    batch = None if config.batched is False else config.batch_axis
    if batch is not None and declared is not None and declared.batch_axis is not None:
        batch = declared.batch_axis
    rest = [axis for axis in range(len(shape)) if axis != batch]
    if any(shape[axis] < 0 for axis in rest):
        stated = _stated(name, [shape[axis] for axis in rest], of_input.datatype, config, declared)
        shape = tuple(stated[rest.index(axis)] if axis in rest else extent for axis, extent in enumerate(shape))
    left = [axis for axis in rest if shape[axis] < 0]
    if left:
        how = f"say the shape of input '{name}' in model.toml, or export the graph with fixed extents"
        if row.shape_options:
            how += f", or give ranges of your own in options ({', '.join(row.shape_options + p for p in _PARTS)})"
        raise ProviderError(
            f"{row.provider} compiles for shapes, and dimension {left[0]} of the graph's input '{name}' is open: "
            f"frames of a new extent would wait until it has compiled; {how}"
        )
    return shape


def _stated(
    name: str, extents: list[int], datatype: str, config: ModelConfig, declared: Input | None
) -> tuple[int, ...]:
    """Returns the extents without the batch, with those that model.toml fixes: by shape, preprocessing or state."""
    stated: tuple[int, ...] | None = None
    state = next((each for each in config.states if each.input == name), None)
    if state is not None:
        stated = state.shape
    elif declared is not None and declared.reshape is not None:
        stated = declared.reshape
    elif declared is not None:
        with suppress(LoadError):  # which is told in full once the graph is open
            tensor = GraphTensor(name, datatype, ("N", *(None if extent < 0 else extent for extent in extents)))
            only = config.model_copy(update={"inputs": (declared,)})
            stated = plan_inputs(Graph({name: tensor}, {}), only)[0].reader.row_shape
    if stated is None or len(stated) != len(extents):
        return tuple(extents)
    return tuple(known if extent < 0 else extent for extent, known in zip(extents, stated, strict=True))
