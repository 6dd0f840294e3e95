"""Says which extents a frame must have where a graph leaves them open and does not run on a made-up frame.

Exporters leave more open than a graph can take: the channels of a picture, the features of a row. ONNX Runtime's error
has the extents that did not fit and those that would have. They are tried one after another, so that what the author is
told to write has run.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from math import isqrt, prod

from duly.models.spec import TensorSpec

TRIES_MAX = 40
"""So many extents are tried for a graph that does not say its own."""
_EXTENT_MAX = 1 << 20
_CHANNELS = (3, 1)
_GROUPED = re.compile(r"kernel channels: (\d+) group: (\d+)")


def say_shape(
    specs: Sequence[TensorSpec],
    tried: Sequence[tuple[int, ...]],
    reason: str,
    runs: Callable[[Sequence[TensorSpec]], bool],
) -> str:
    """Gives the line of model.toml that says the extents which the graph leaves open, after a made-up frame failed.

    Args:
        specs: the inputs.
        tried: the shapes that the made-up frame had.
        reason: what ONNX Runtime said.
        runs: says whether a made-up frame of inputs like these runs.

    It is the end of a sentence; empty where nothing is open.
    """
    opened = [index for index, spec in enumerate(specs) if -1 in spec.shape and not spec.encodings]
    if not opened:
        return ""
    tries = ((index, shape) for index in opened for shape in _candidates(specs[index].shape, reason))
    for _, (index, shape) in zip(range(TRIES_MAX), tries, strict=False):
        changed = list(specs)
        changed[index] = specs[index].model_copy(update={"shape": shape})
        if runs(changed):
            name = json.dumps(specs[index].name, ensure_ascii=False)
            return f"{_open(specs[index], tried[index])}: input = [{{ name = {name}, shape = {list(shape)} }}]"
    spec = specs[opened[0]]
    example = [f"N{axis}" if extent < 0 else str(extent) for axis, extent in enumerate(spec.shape)]
    return f"{_open(spec, tried[opened[0]])}: shape = [{', '.join(example)}], with the extents that a frame has"


def _open(spec: TensorSpec, tried: tuple[int, ...]) -> str:
    shape = list(spec.shape)
    return f"; the graph leaves {shape} of '{spec.name}' open, {list(tried)} was tried; say more under [[input]]"


def _candidates(shape: tuple[int, ...], reason: str) -> Iterator[tuple[int, ...]]:
    """Gives shapes with one of the open extents fixed, then with all of them, from the numbers in the reason."""
    numbers = [number for text in re.findall(r"\d+", reason) if 0 < (number := int(text)) <= _EXTENT_MAX]
    if grouped := _GROUPED.search(reason):
        numbers.insert(0, int(grouped[1]) * int(grouped[2]))
    likely = list(dict.fromkeys([*numbers, *_CHANNELS]))
    axes = [axis for axis, extent in enumerate(shape) if extent < 0]
    for number in likely[: TRIES_MAX // 2]:
        for axis in axes:
            yield tuple(number if each == axis else extent for each, extent in enumerate(shape))
    fixed = prod(extent for extent in shape if extent > 0)
    for number in likely:
        side = isqrt(number // fixed)
        if len(axes) == 2 and side > 1 and side * side * fixed == number:
            yield tuple(side if extent < 0 else extent for extent in shape)
