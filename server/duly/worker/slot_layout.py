"""Where the tensors of a batch lie within an area of a slot. Both sides of the channel compute it here."""

from collections.abc import Sequence
from itertools import accumulate

ALIGN_BYTES = 64
"""The rows of a tensor begin at a cache line, which also suits ONNX Runtime's widest vector kernels."""


def layout(bytes_max: Sequence[int], batch_max: int) -> tuple[tuple[int, ...], int]:
    """Returns the offset of every tensor's first row, and the size of the whole area, all in bytes.

    Row i of tensor k lies at `bases[k] + i * bytes_max[k]`. The rows of a tensor whose size is fixed are therefore
    contiguous: the area itself is the batch that the model reads.
    """
    sizes = (-(-batch_max * size // ALIGN_BYTES) * ALIGN_BYTES for size in bytes_max)
    *bases, total = accumulate(sizes, initial=0)
    return tuple(bases), total
