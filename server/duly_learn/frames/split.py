"""Divides frames into those that a model is fitted to and those that judge it, so that neighbours are not on both
sides.

A frame of a camera is nearly the one before it. Were both sides drawn frame by frame, each held-out frame would have
its twin among the others, and whatever learns by heart would look good. So each stream is cut into blocks of frames
that follow one another, and whole blocks are held out; where two sides meet, frames to fit to are left out.
"""

import random
from collections.abc import Sequence
from itertools import pairwise

from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame

BLOCKS = 10
"""A stream is cut into so many blocks, or one for each frame where it has fewer."""
NEIGHBOURS_NS = 1_000_000_000
"""Frames of a stream that are closer than this are neighbours, and show about the same."""
NEIGHBOURS_MAX = 10
"""So many frames in a row count as neighbours at most: as many as a recording without times of its own has a second."""


def split(frames: Sequence[LearnFrame], held_out: float, seed: int) -> tuple[list[LearnFrame], list[LearnFrame]]:
    """Returns the frames to fit to and those held out, each in the order in which they came.

    Frames to fit to that are NEIGHBOURS_NS or less from a block that is held out are on neither side, at each end of a
    block at most a quarter of it.

    `held_out`: about which share is held out, above 0 and below 1. Raises LearnError where there are too few frames for
    one on either side.
    """
    blocks: list[list[int]] = []
    borders: list[tuple[list[int], list[int]]] = []
    for ordered in streams_of(frames):
        parts = cut(ordered, min(BLOCKS, len(ordered)))
        blocks += parts
        borders += pairwise(parts)
    random.Random(seed).shuffle(blocks)
    judged = chosen(blocks, held_out * len(frames), len(frames))
    near = near_held_out(frames, borders, judged)
    return (
        [frame for index, frame in enumerate(frames) if index not in judged and index not in near],
        [frame for index, frame in enumerate(frames) if index in judged],
    )


def streams_of(frames: Sequence[LearnFrame]) -> list[list[int]]:
    """Returns the places of each stream's frames, in the order of time. Raises LearnError where there are fewer than
    two frames.
    """
    if len(frames) < 2:
        raise LearnError(f"{len(frames)} frame: at least two are needed, one to fit to and one to judge by")
    streams: dict[str, list[int]] = {}
    for index, frame in enumerate(frames):
        streams.setdefault(frame.stream, []).append(index)
    return [sorted(indices, key=lambda index: (frames[index].when_ns, index)) for indices in streams.values()]


def cut(indices: Sequence[int], count: int) -> list[list[int]]:
    """Cuts a stream into so many blocks, which are about as long as one another."""
    bounds = [len(indices) * nth // count for nth in range(count + 1)]
    return [list(indices[low:high]) for low, high in pairwise(bounds)]


def chosen(blocks: Sequence[Sequence[int]], wanted: float, count: int) -> set[int]:
    """Returns the frames of the first blocks that have about `wanted` frames together, at least one and not all
    `count`.
    """
    judged: set[int] = set()
    for block in blocks:
        if judged and len(judged) + len(block) / 2 > wanted:
            break
        if len(judged) + len(block) < count:
            judged.update(block)
    return judged


def near_held_out(
    frames: Sequence[LearnFrame], borders: Sequence[tuple[Sequence[int], Sequence[int]]], judged: set[int]
) -> set[int]:
    """Returns the frames that are not judged and are neighbours of some that are. `borders`: blocks that meet."""
    near: set[int] = set()
    for before, after in borders:
        if before[0] in judged and after[0] not in judged:
            near.update(_near(frames, after, before[-1]))
        elif before[0] not in judged and after[0] in judged:
            near.update(_near(frames, before[::-1], after[0]))
    return near


def _near(frames: Sequence[LearnFrame], block: Sequence[int], edge: int) -> list[int]:
    """The frames of a block, the nearest first, that are neighbours of one beside it. Equal times are none."""
    there = frames[edge].when_ns
    return [index for index in block[: len(block) // 4] if 0 < abs(frames[index].when_ns - there) <= NEIGHBOURS_NS]


def in_order(frames: Sequence[LearnFrame]) -> list[int]:
    """Returns the places of the frames, stream by stream and in each by time."""
    return sorted(range(len(frames)), key=lambda index: (frames[index].stream, frames[index].when_ns, index))


def neighbours(frames: Sequence[LearnFrame]) -> list[int]:
    """Returns for each frame the number of its block of neighbours: frames of one stream within NEIGHBOURS_NS, of which
    there are NEIGHBOURS_MAX at most. Where several frames of a stream have the same time none is known, and each is
    alone.
    """
    found = [0] * len(frames)
    block: list[int] = []
    number = -1
    for index in in_order(frames):
        frame = frames[index]
        goes_on = (
            0 < len(block) < NEIGHBOURS_MAX
            and frames[block[0]].stream == frame.stream
            and frames[block[-1]].when_ns < frame.when_ns < frames[block[0]].when_ns + NEIGHBOURS_NS
        )
        if not goes_on:
            block, number = [], number + 1
        block.append(index)
        found[index] = number
    return found


def alike_by_time(frames: Sequence[LearnFrame]) -> float:
    """Returns how many frames count as one, where nothing but their times tells: as many as are neighbours."""
    return len(frames) / len(set(neighbours(frames)))
