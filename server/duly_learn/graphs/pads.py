"""The padding of convolutions and pools."""

from collections.abc import Sequence

import onnx

from duly_learn.graphs.constants import integers, word


def pads_of(
    node: onnx.NodeProto,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:
    """Returns the padding of a convolution or a pool: all begins, then all ends."""
    mode = word(node, "auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        return integers(node, "pads", (0,) * 2 * len(kernel)) if mode == "NOTSET" else (0,) * 2 * len(kernel)
    begins, ends = [], []
    for extent, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        missing = max(0, (-(-extent // stride) - 1) * stride + (k - 1) * dilation + 1 - extent)
        less, more = missing // 2, missing - missing // 2
        begins.append(less if mode == "SAME_UPPER" else more)
        ends.append(more if mode == "SAME_UPPER" else less)
    return (*begins, *ends)
