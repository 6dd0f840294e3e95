"""Judges a candidate beside the original: on frames that neither it nor its calibration has seen, both in workers as
they serve.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import median

import numpy as np

from duly.agreement.alike import frames_alike
from duly.agreement.interval import interval
from duly.agreement.measures import Outputs
from duly.energy.meter import Meter
from duly.models.spec import Signature, Variant
from duly.models.version_settings import with_settings
from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.split import alike_by_time, in_order
from duly_learn.graphs.describe import size_bytes
from duly_learn.optimize.judged import Frame, Judged
from duly_learn.optimize.rule import Rule, refusals
from duly_learn.optimize.step import Candidate, OptimizeSource
from duly_learn.optimize.timing import compare
from duly_learn.running.model import FrameRefused, NotRunning, Refusal, RunningModel, running

ROUNDING_RELATIVE, ROUNDING_ABSOLUTE = 1e-3, 1e-4
"""Answers that differ by less are the same: the tolerances of check samples where model.toml states none."""
WORST_MAX = 4
"""So many frames with the lowest scores are shown of a candidate."""
ENERGY_NS = 1_000_000_000
"""So long frames are run to see what they take, where counters can be read."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What candidates are judged by."""

    source: OptimizeSource
    original: RunningModel
    signature: Signature | None
    """What a candidate must take and give; None: it has settings of its own, and any will do that its frames fit."""
    held_out: Sequence[LearnFrame]
    expected: Sequence[Outputs]
    """What the original gave for them."""
    rule: Rule


def judge(bench: Bench, judged: Judged, candidate: Candidate, told: Callable[[str], None]) -> None:
    """Fills in what is found out about the candidate, whose files lie in the folder of `judged`."""
    version = bench.source.version
    variant = Variant(name=judged.name, file=candidate.file)
    settings = with_settings(version.config, candidate.settings).model_copy(update={"variants": (variant,)})
    one = replace(version, folder=judged.folder.resolve(), config=settings)
    expected = None if candidate.settings else bench.signature
    judged.size_bytes = size_bytes(judged.folder / candidate.file)
    try:
        with running(one, threads=bench.source.threads, expected=expected) as model:
            judged.notes += [note for note in model.notes if note not in bench.original.notes]
            judged.warm_ns = {size: median(times) for size, times in model.times_ns.items()}
            _agree(bench, judged, model)
            told(f"{judged.name}: agreement {judged.agreement}")
            for size in bench.original.signature.batch_sizes:
                judged.times = {**judged.times, size: compare(bench.original, model, bench.held_out, size)}
            judged.joules, _ = joules_of(model, bench.held_out)
    except (NotRunning, FrameRefused) as error:
        judged.refusals.append(f"its worker does not run it: {error}")
        return
    judged.refusals += refusals(judged, bench.rule)


def joules_of(model: RunningModel, frames: Sequence[LearnFrame]) -> tuple[float | None, str]:
    """Returns joules a frame, None where they are not known, and why they are not, or what is not among them."""
    with Meter() as idle:
        pass
    if not idle.energy.by_device:
        return None, idle.energy.why_not
    count, until_ns = 0, time.monotonic_ns() + ENERGY_NS
    with Meter() as meter:
        while time.monotonic_ns() < until_ns:
            model.time_ns([frames[count % len(frames)]])
            count += 1
    return meter.energy.a_frame(count), meter.energy.why_not


def _agree(bench: Bench, judged: Judged, model: RunningModel) -> None:
    outcomes = model.outcomes(bench.held_out)
    frames: list[Frame] = []
    margins: list[float] = []
    same = True
    for index, (expected, outcome) in enumerate(zip(bench.expected, outcomes, strict=True)):
        if bench.held_out[index].warms_up:
            continue
        if isinstance(outcome, Refusal):
            frames.append(Frame(index, 0.0, str(outcome)))
            margins.append(-inf)
            same = False
        else:
            frames.append(Frame(index, bench.source.measure.of(expected, outcome)))
            margins.append(bench.source.measure.margin(expected, outcome))
            same = same and _differ_by_rounding(expected, outcome)
    judged.frames = frames
    worst = sorted(frames, key=lambda frame: frame.score)[:WORST_MAX]
    judged.worst = [(frame, _outputs(outcomes[frame.index])) for frame in worst if frame.score < 1]
    alike = _alike([bench.held_out[frame.index] for frame in frames], margins)
    judged.agreement = interval([frame.score for frame in frames], bench.rule.confidence, alike)
    judged.same = same


def _alike(frames: Sequence[LearnFrame], margins: Sequence[float]) -> float:
    """How many frames count as one: as margins tell, or, where they do not, their times."""
    return frames_alike([margins[index] for index in in_order(frames)]) or alike_by_time(frames)


def _outputs(outcome: Outputs | Refusal) -> Outputs | None:
    return None if isinstance(outcome, Refusal) else outcome


def _differ_by_rounding(expected: Outputs, got: Outputs) -> bool:
    for name, wanted in expected.items():
        given = got[name]
        if wanted.shape != given.shape:
            return False
        if np.issubdtype(wanted.dtype, np.floating):
            if not np.allclose(given, wanted, ROUNDING_RELATIVE, ROUNDING_ABSOLUTE, equal_nan=True):
                return False
        elif not np.array_equal(wanted, given):
            return False
    return True
