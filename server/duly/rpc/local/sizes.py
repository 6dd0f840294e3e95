"""How much shared memory a local stream gets."""

import mmap

from duly.models.spec import Signature
from duly.rpc.local.areas import ALIGNMENT
from duly.rpc.local.layout import HEAD_BYTES
from duly.streams.limits import Limits

FRAMES_USUAL = 256
"""So many frames of the largest size have room where the client states nothing and they are small."""
SPARE_BYTES = 4096
"""What clients count for a frame beside its data, and do not need here."""
FRAME_AREA_BYTES = 16 << 20
"""The memory for frames of a local stream, where its client states nothing and no single frame needs more."""
OUTCOMES_USUAL = 64
OUTCOME_AREA_BYTES_MIN, OUTCOME_AREA_BYTES_MAX = 256 << 10, 4 << 20
"""The memory for outcomes of a local stream: for OUTCOMES_USUAL of the largest results, within these bounds. A result
that is larger than a quarter of it comes in pieces."""


def frame_area_bytes(signature: Signature, limits: Limits, stated_bytes: int) -> int:
    """Returns the size of the memory for frames. `stated_bytes`: what the client asks for; 0: nothing."""
    one = sum(_aligned(spec.bytes_max) for spec in signature.inputs)
    one = min(one, limits.frame.frame_bytes_max + ALIGNMENT * len(signature.inputs)) + SPARE_BYTES
    usual = max(one, min(FRAMES_USUAL * one, FRAME_AREA_BYTES))
    return _pages(min(stated_bytes, limits.stream.bytes_in_flight_max) if stated_bytes else usual)


def outcome_area_bytes(signature: Signature, greeting_bytes: int) -> int:
    """Returns the size of the memory for outcomes. `greeting_bytes`: what must have room at its beginning."""
    one = sum(_aligned(spec.bytes_max) for spec in signature.outputs)
    usual = min(max(OUTCOMES_USUAL * one, OUTCOME_AREA_BYTES_MIN), OUTCOME_AREA_BYTES_MAX)
    return _pages(max(usual, HEAD_BYTES + _aligned(greeting_bytes)))


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def _pages(size_bytes: int) -> int:
    return -(-max(size_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
