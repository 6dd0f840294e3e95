"""What a live run amounts to: what became of the frames (see `duly_load.results.tally`), how early a sensor heard that
there will be no result, and what the harness itself did.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duly_load.results.histogram import Percentiles, encoded, percentiles_of
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun
from duly_load.results.tally import GOT_RESULT, Chosen, Results, RunOutcomes, fields_of, results_of

NEVER_SENT = (FrameOutcome.REFUSED, FrameOutcome.UNSENT)
_NO_REASON = (*GOT_RESULT, *NEVER_SENT, FrameOutcome.UNANSWERED)
"""Outcomes that are no reason from the target why there is no result."""


@dataclass(frozen=True, slots=True)
class BudgetLeft:
    """Shares of their budgets that frames had left when something came: the median, and what 99 of 100 had at least.
    Less than 0: it came after the deadline.
    """

    p50: float
    p1: float


@dataclass(frozen=True, slots=True)
class LiveResults(Results):
    """What became of the frames, and what the harness did."""

    reason_ms: Percentiles | None
    """The time from capture to an answer that gave the reason for no result: how early the sensor could act."""
    reason_left: BudgetLeft | None
    """The share of the budget that was left then."""
    lag_ms: Percentiles | None
    """The lag with which the generator sent."""
    blocked_ms: Percentiles | None
    """The time for which the target then did not take the frame."""
    batch_frames: dict[int, int]
    """Frames by the size of the batch in which they ran, as far as the target reports it."""
    server_cpu_us_per_frame: float | None
    """CPU time of the target's processes for each frame that was sent, warm-up and all; None: it is not known."""
    joules_per_frame: float | None
    """Energy that the machine took for each frame that was sent, warm-up and all; None: it is not known."""
    energy_words: str
    """The same in words, with what took it, or why it is not known."""
    problems: tuple[str, ...]
    """Why the run is invalid; empty: it is valid."""
    latency_hdr: str
    lag_hdr: str
    """The encoded histograms of latency and lag, see `duly_load.results.histogram`."""

    @property
    def batch_size_mean(self) -> float | None:
        """The mean over batches; None where the target does not report it."""
        batches = sum(frames / size for size, frames in self.batch_frames.items())
        return sum(self.batch_frames.values()) / batches if batches else None


def measure(run: LiveRun) -> LiveResults:
    """The results of a run; of an invalid one too, for who wants to know why it is."""
    outcomes, record = outcomes_of(run), run.record
    counted = outcomes.counted
    outcome, latency_ns, batch_size = record.outcome[counted], record.latency_ns[counted], record.batch_size[counted]
    gave_reason = ~np.isin(outcome, _NO_REASON) & (latency_ns > 0)
    sent = counted[~np.isin(outcome, NEVER_SENT)]
    sizes, frames = np.unique(batch_size[batch_size > 0], return_counts=True)
    budgets_ns = run.schedule.budgets_ns[run.schedule.frames.stream_id[counted]]
    return LiveResults(
        **fields_of(results_of(outcomes)),
        reason_ms=percentiles_of(latency_ns[gave_reason]),
        reason_left=_left(1 - latency_ns[gave_reason] / budgets_ns[gave_reason]),
        lag_ms=percentiles_of(record.lag_ns[sent]),
        blocked_ms=percentiles_of(record.blocked_ns[sent]),
        batch_frames=dict(zip(sizes.tolist(), frames.tolist(), strict=True)),
        server_cpu_us_per_frame=_cpu_us_per_frame(run),
        joules_per_frame=run.energy.a_frame(_sent(run)),
        energy_words=run.energy.words(_sent(run)),
        problems=run.problems,
        latency_hdr=encoded(latency_ns[np.isin(outcome, GOT_RESULT)]),
        lag_hdr=encoded(record.lag_ns[sent]),
    )


def outcomes_of(run: LiveRun) -> RunOutcomes:
    record = run.record
    claimed: Chosen | None = record.claimed if np.any(record.claimed) else None
    warm_ns, end_ns = round(run.scenario.warm_s * 1e9), round(run.scenario.duration_s * 1e9)
    return RunOutcomes(run.schedule, warm_ns, end_ns, record.outcome, record.latency_ns, claimed)


def _left(shares: NDArray[np.float64]) -> BudgetLeft | None:
    return BudgetLeft(*np.percentile(shares, [50, 1]).tolist()) if len(shares) else None


def _sent(run: LiveRun) -> int:
    """The frames that were sent, warm-up and all."""
    return int(np.sum(~np.isin(run.record.outcome, NEVER_SENT)))


def _cpu_us_per_frame(run: LiveRun) -> float | None:
    sent = _sent(run)
    return run.server_cpu_s / sent * 1e6 if run.server_cpu_s is not None and sent else None
