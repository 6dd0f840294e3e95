"""How much a graph computes."""

import numpy as np
import onnx

from duly_learn.graphs.constants import arrays_of
from duly_learn.graphs.followed import Channels, Layer
from duly_learn.graphs.shapes import shapes_of


def work_of_pairs(model: onnx.ModelProto, channels: Channels) -> list[int]:
    """Returns, for each layer, the multiplications for one channel that it reads and one that it gives, of one frame.

    An extent that is open, such as the batch, counts as 1.
    """
    shapes, arrays = shapes_of(model), arrays_of(model)
    return [_pair(layer, shapes.get(layer.output, ()), arrays[layer.weight].shape) for layer in channels.layers]


def _pair(layer: Layer, given: tuple[int, ...], weight: tuple[int, ...]) -> int:
    kernel = int(np.prod([n for axis, n in enumerate(weight) if axis not in (layer.axis_in, layer.axis_out)]))
    axis = len(given) - 1 if layer.name.startswith("MatMul") else 1
    places = [abs(n) for at, n in enumerate(given) if at not in (0, axis)]
    return kernel * int(np.prod(places, dtype=np.int64))


def work_of(model: onnx.ModelProto, channels: Channels) -> int:
    """Returns the multiplications of all dense layers for one frame."""
    arrays = arrays_of(model)
    pairs = work_of_pairs(model, channels)
    return sum(
        pair * arrays[layer.weight].shape[layer.axis_in] * arrays[layer.weight].shape[layer.axis_out]
        for pair, layer in zip(pairs, channels.layers, strict=True)
    )
