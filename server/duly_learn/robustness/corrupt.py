"""Runs a version on frames that are corrupted more and more."""

from dataclasses import replace

from duly_learn.frames.frame import Array, LearnFrame
from duly_learn.robustness.bench import Bench
from duly_learn.robustness.corruptions import SEVERITIES, corrupted, corruption_for
from duly_learn.robustness.inputs import Plain
from duly_learn.robustness.result import Level, Row

FRAMES_AT_ONCE = 32
"""So many corrupted frames are made and held at a time, of a model that keeps no state."""


def corruption_row(bench: Bench, name: str) -> Row | None:
    """Tests one corruption at all severities; None: it is for none of the inputs."""
    pairs = [
        (corruption, harmable)
        for harmable in bench.plain.harmable
        if (corruption := corruption_for(name, harmable.kind)) is not None
    ]
    if not pairs:
        return None
    first = pairs[0][0]
    levels = []
    for severity in SEVERITIES:
        chunks: list[Level] = []
        flagged_before = bench.model.flagged
        step = len(bench.plain.frames) if bench.model.signature.stateful else FRAMES_AT_ONCE
        for low in range(0, len(bench.plain.frames), step):
            indices = range(low, min(low + step, len(bench.plain.frames)))
            frames = [harmed(bench.plain, name, severity, index, bench.seed) for index in indices]
            chunks.append(bench.level(bench.outcomes(frames), indices))
        scores = tuple(score for chunk in chunks for score in chunk.scores)
        refused = sum(chunk.refused for chunk in chunks)
        flagged = bench.model.flagged - flagged_before
        levels.append(Level(str(severity), first.amounts[severity - 1], scores, refused, flagged))
    inputs = tuple(harmable.name for _, harmable in pairs)
    return Row(name, "corruption", inputs, first.unit, first.scale, tuple(levels))


def harmed(plain: Plain, name: str, severity: int, index: int, seed: int) -> LearnFrame:
    """Returns one frame with all inputs corrupted that the corruption is for."""
    frame = plain.frames[index]
    arrays: dict[str, Array] = {}
    for each in plain.harmable:
        if (corruption := corruption_for(name, each.kind)) is not None:
            array = plain.array(index, each.name)
            arrays[each.name] = corrupted(corruption, severity, array, each.extent, seed, index, each.name)
    return replace(frame, inputs={**frame.inputs, **arrays})
