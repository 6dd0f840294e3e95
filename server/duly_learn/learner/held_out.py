"""Which labelled frames are kept back from every trainer, to judge versions by."""

import hashlib

from duly.sampling.sample import Sample

BLOCK_FRAMES = 8
"""Frames are held out in blocks of so many neighbours of a stream, which are alike."""


def block_of(stream: str, frame_id: int) -> tuple[str, int]:
    """Returns the block of a frame: frames of one are alike, and are held out together or not at all."""
    return stream, frame_id // BLOCK_FRAMES


def held_out(sample: Sample, share: float, seed: int) -> bool:
    """Whether a frame is kept back from every trainer, for good: it follows from its stream and number alone."""
    block = f"{seed}:{sample.stream}:{sample.frame_id // BLOCK_FRAMES}"
    drawn = int.from_bytes(hashlib.blake2b(block.encode(), digest_size=8).digest(), "big")
    return drawn < share * 2**64
