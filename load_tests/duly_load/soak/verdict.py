"""What a soak says: does the server hold, and if not, why not.

It does not hold where memory, descriptors or threads of its processes grow while it is busy (see
`duly_load.soak.trend`), where its busy slices no longer do what they did at first (see `duly_load.soak.decline`), where
a frame of a client that behaves was never answered, failed, was called invalid or could not be sent, or its stream
broke off, where streams or frames are left when all clients are gone, or where it ended or no longer answers. Late,
expired, superseded and shed frames do not count against it by themselves: an overloaded server that says so holds.

Where nothing is against it, but no busy slice is valid, or those who misbehave did not, nobody can say that it holds.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from duly_load.results.outcomes import FrameOutcome
from duly_load.soak.decline import SLICES_MIN, Decline, compared, decline
from duly_load.soak.phases import Phase
from duly_load.soak.record import SliceResult, Soak
from duly_load.soak.run import left_over
from duly_load.soak.trend import Trend, Verdict, trend
from duly_load.soak.watch import Sample, Usage

MIB = 2**20
MEMORY_LIMIT_PER_H, MEMORY_LIMIT_SHARE_PER_H = MIB, 0.01
"""Bytes, and a share of what is held: the larger of the two is growth that somebody would care about."""
COUNT_LIMIT_PER_H = 1.0
"""The growth of descriptors or threads that somebody would care about."""
FAULTS = {
    FrameOutcome.UNANSWERED: "were never answered",
    FrameOutcome.FAILED: "failed",
    FrameOutcome.INVALID: "were called invalid",
    FrameOutcome.UNSENT: "could not be sent",
}
"""What no frame of a client that behaves should meet, in words."""


@dataclass(frozen=True, slots=True)
class Series:
    """One thing that is watched over time."""

    name: str
    unit: str
    value: Callable[[Usage], int | None]
    judged: bool
    """The server does not hold where this grows."""
    scale: float = 1.0
    """The divisor of values that are shown to people."""

    @property
    def is_memory(self) -> bool:
        return self.unit == "MiB"


SERIES = (
    Series("RSS", "MiB", lambda usage: usage.rss_bytes, True, MIB),
    Series("PSS", "MiB", lambda usage: usage.pss_bytes, False, MIB),
    Series("USS", "MiB", lambda usage: usage.uss_bytes, False, MIB),
    Series("descriptors", "", lambda usage: usage.descriptors, True),
    Series("threads", "", lambda usage: usage.threads, True),
)


@dataclass(frozen=True, slots=True)
class Growth:
    """A series of the server or the harness, and whether it grows."""

    of: str
    """Whose series it is: "server" or "harness"."""
    series: Series
    first: float
    """Medians of the first and the last tenth after the warm-up, of busy slices, in the unit of the samples."""
    last: float
    trend: Trend


class Holds(StrEnum):
    YES = "holds"
    NO = "does not hold"
    CANNOT_SAY = "cannot say"


@dataclass(frozen=True, slots=True)
class Judgement:
    against: tuple[str, ...]
    """Why it does not hold; empty: nothing was found."""
    doubts: tuple[str, ...]
    """Why that says nothing; empty: it does."""
    notes: tuple[str, ...]
    """What else to know before it is believed."""
    growth: tuple[Growth, ...]
    decline: Decline | None
    """How busy slices fell; None: there were too few of them."""

    @property
    def holds(self) -> Holds:
        if self.against:
            return Holds.NO
        return Holds.CANNOT_SAY if self.doubts else Holds.YES

    def to_json(self) -> dict[str, Any]:
        growth = [
            {"of": each.of, "series": each.series.name, "first": each.first, "last": each.last} | asdict(each.trend)
            for each in self.growth
        ]
        return {
            "verdict": self.holds,
            "against": self.against,
            "doubts": self.doubts,
            "notes": self.notes,
            "growth": growth,
            "busy": None if self.decline is None else asdict(self.decline),
        }


def judge(done: Soak) -> Judgement:
    growth = tuple(_growth(done))
    busy = decline(done.slices)
    against, doubts, notes = _against(done, growth, busy), _doubts(done), _notes(done, growth, busy)
    return Judgement(tuple(against), tuple(doubts), tuple(notes), growth, busy)


def values_of(samples: list[Sample], of: str, series: Series) -> tuple[list[float], list[float]]:
    """(times in s, values) of the samples that have it."""
    at_s, values = [], []
    for sample in samples:
        usage = sample.server if of == "server" else sample.harness
        value = None if usage is None else series.value(usage)
        if value is not None:
            at_s.append(sample.at_s)
            values.append(float(value))
    return at_s, values


def _growth(done: Soak) -> list[Growth]:
    # A busy server holds more than an idle one: that to and fro would hide for long whether it holds ever more.
    warm = [sample for sample in done.samples_in(Phase.BUSY) if sample.at_s >= done.warm_s]
    found = []
    for of in ("server", "harness"):
        for series in SERIES:
            at_s, values = (np.array(each) for each in values_of(warm, of, series))
            if not len(values):
                continue
            level = float(np.median(values))
            limit = max(MEMORY_LIMIT_PER_H, MEMORY_LIMIT_SHARE_PER_H * level) if series.is_memory else COUNT_LIMIT_PER_H
            tenth = max(1, len(values) // 10)
            first, last = float(np.median(values[:tenth])), float(np.median(values[-tenth:]))
            found.append(Growth(of, series, first, last, trend(at_s, values, limit)))
    return found


def _against(done: Soak, growth: tuple[Growth, ...], busy: Decline | None) -> list[str]:
    found = []
    if done.ended:
        found.append(f"it ended: {done.ended}")
    for each in growth:
        if each.of == "server" and each.series.judged and each.trend.verdict is Verdict.GROWS:
            found.append(f"its {each.series.name} grow{'s' if each.series.is_memory else ''} by {per_hour(each)}")
    if busy is not None and busy.fell:
        found.append(
            f"its busy slices no longer do what they did at first: {at_both_ends(busy)}; invalid slices are left out, "
            "but a machine that has become slower without that would look the same"
        )
    found += _faults(done, caused=False)
    for result in done.slices:
        if result.broken:
            found.append(
                f"slice {result.nth + 1}: streams of clients that behave broke off, {'; '.join(result.broken)}"
            )
    if done.before is not None and done.after is None and not done.ended:
        found.append("it no longer answers")
    if done.before is not None and done.after is not None:
        streams, frames = left_over(done.before, done.after)
        if streams or frames:
            found.append(f"{streams} streams and {frames} frames are left with it though all clients are gone")
    return found


def _faults(done: Soak, caused: bool) -> list[str]:
    """What frames of clients that behave met and should not; `caused`: by the harness itself."""
    found = []
    for outcome, words in FAULTS.items():
        met = [result for result in done.slices if _caused(done, result, outcome) is caused]
        counts = [times for result in met if (times := result.counts.get(outcome.name, 0))]
        if counts:
            found.append(f"{sum(counts)} frames of clients that behave {words}, in {len(counts)} slices")
    return found


def _caused(done: Soak, result: SliceResult, outcome: FrameOutcome) -> bool:
    """A frame fails whose worker the harness kills, which it does in busy slices alone."""
    return done.faults and result.phase is Phase.BUSY and outcome is FrameOutcome.FAILED


def _doubts(done: Soak) -> list[str]:
    if done.valid_in(Phase.BUSY):
        return [*done.doubts]
    return [f"not one of {len(done.in_phase(Phase.BUSY))} busy slices is valid", *done.doubts]


def _notes(done: Soak, growth: tuple[Growth, ...], busy: Decline | None) -> list[str]:
    found = [*done.notes]
    found += [f"{caused}; the scenario has faults" for caused in _faults(done, caused=True)]
    if done.interrupted:
        found.append("it was interrupted before its time")
    if invalid := done.invalid:
        found.append(
            f"{len(invalid)} of {len(done.slices)} slices are invalid and left out of its figures; "
            f"slice {invalid[0].nth + 1}, {invalid[0].phase}: {'; '.join(invalid[0].problems)}"
        )
    if not any(each.of == "server" for each in growth):
        found.append(f"whether memory, descriptors or threads of the server grow was not to be seen: {_unseen(done)}")
    for of in ("server", "harness"):
        short = [g.series.name for g in growth if g.of == of and g.trend.verdict is Verdict.TOO_SHORT]
        if short:
            found.append(f"too short to say whether these of the {of} grow: {', '.join(short)}")
    if busy is None:
        found.append(
            "too short to say whether busy slices still do what they did at first: "
            f"{len(compared(done.slices))} valid ones after the first, {2 * SLICES_MIN} are needed"
        )
    for each in growth:
        if each.of == "harness" and each.series.judged and each.trend.verdict is Verdict.GROWS:
            found.append(f"the harness's own {each.series.name} grew by {per_hour(each)}")
    return found


def _unseen(done: Soak) -> str:
    """Why nothing was seen of the server after the warm-up."""
    if not any(sample.server for sample in done.samples):
        return "its processes are not known (--pid), or on another machine"
    if all(sample.at_s < done.warm_s for sample in done.samples):
        return f"the soak was shorter than its warm-up of {done.warm_s:,.0f} s"
    if all(sample.at_s < done.warm_s for sample in done.samples_in(Phase.BUSY)):
        return f"there is no sample in a busy slice after the warm-up of {done.warm_s:,.0f} s"
    return f"it ended during the warm-up of {done.warm_s:,.0f} s"


def per_hour(growth: Growth) -> str:
    """`3.2 MiB an hour (2.9 to 3.6)`, for people."""
    found, scale = growth.trend, growth.series.scale
    if found.per_h is None or found.low_per_h is None or found.high_per_h is None:
        return "-"
    unit = f" {growth.series.unit}" if growth.series.unit else ""
    return (
        f"{found.per_h / scale:,.3g}{unit} an hour ({found.low_per_h / scale:,.3g} to {found.high_per_h / scale:,.3g})"
    )


def at_both_ends(busy: Decline) -> str:
    """`1,300.0 frames/s on time (8.67%) in the last 10, 15,000.0 (100.00%) in the first 10, medians`, for people."""
    return (
        f"{busy.last_per_s:,.1f} frames/s on time ({busy.last_ratio:.2%}) in the last {busy.slices}, "
        f"{busy.first_per_s:,.1f} ({busy.first_ratio:.2%}) in the first {busy.slices}, medians"
    )
