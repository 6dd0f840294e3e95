"""Frames of models that keep state: runs of them that follow one another, each from a state that is known.

A frame's answer follows from all frames before it. Run from the stream's beginning, or from a reset of the state on, a
run has the states that there were. Begun anywhere else it begins with a state that never was, and comes near to those
that there were after some frames: these are run and not judged.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.split import BLOCKS, chosen, cut, near_held_out, streams_of

WARM_UP_FRAMES = 32
"""After so many frames a state that began anywhere counts as known. Silero VAD then tells speech as it did in 98.7 % of
frames (docs/sampling.md)."""


def split_runs(frames: Sequence[LearnFrame], held_out: float, seed: int) -> tuple[list[LearnFrame], list[LearnFrame]]:
    """Returns the frames to fit to and those held out, as `split` does, but on each side every stream is a run.

    A stream is cut where its parts have room for a warm-up and as many frames more, and in two where there is no other.
    What begins at a cut is a stream of its own, whose first frames warm up: WARM_UP_FRAMES, or half of it where it is
    shorter.

    Raises LearnError where there are too few frames for one on either side.
    """
    streams = streams_of(frames)
    blocks: list[list[int]] = []
    borders: list[tuple[list[int], list[int]]] = []
    for indices in streams:
        parts = cut(indices, min(BLOCKS, max(len(indices) // (2 * WARM_UP_FRAMES), 2 if len(streams) == 1 else 1)))
        blocks += parts
        borders += pairwise(parts)
    random.Random(seed).shuffle(blocks)
    judged = chosen(blocks, held_out * len(frames), len(frames))
    left_out = near_held_out(frames, borders, judged)
    sides: tuple[dict[int, LearnFrame], dict[int, LearnFrame]] = {}, {}
    for indices in streams:
        for begin, run in _runs(indices, judged, left_out):
            warm_up = 0 if begin == 0 else min(WARM_UP_FRAMES, len(run) // 2)
            for nth, index in enumerate(run):
                frame = frames[index]
                if begin:
                    frame = replace(frame, stream=f"{frame.stream} from {begin}", warms_up=nth < warm_up)
                sides[index in judged][index] = frame
    return [sides[0][index] for index in sorted(sides[0])], [sides[1][index] for index in sorted(sides[1])]


def judging(frames: Sequence[LearnFrame]) -> int:
    """Returns how many of these frames are judged."""
    return sum(not frame.warms_up for frame in frames)


def _runs(indices: Sequence[int], judged: set[int], left_out: set[int]) -> list[tuple[int, list[int]]]:
    """Cuts the frames of a stream where the side changes. Returns each run with its place in the stream."""
    runs: list[tuple[int, list[int]]] = []
    side: bool | None = None
    for place, index in enumerate(indices):
        here = None if index in left_out else index in judged
        if here is not None:
            if here is not side:
                runs.append((place, []))
            runs[-1][1].append(index)
        side = here
    return runs
