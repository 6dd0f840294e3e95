"""What a soak leaves behind: one entry for each slice, samples in between, how it ended. Each is small and goes to
`soak.jsonl` as soon as it is there, so that a soak that is killed after nine hours leaves nine hours.
"""

import contextlib
import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from duly_load.results.formats import finite, write_csv
from duly_load.results.measure import measure
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun
from duly_load.soak.crowd import Tallies
from duly_load.soak.phases import Phase
from duly_load.soak.watch import LoopLag, Sample, ServerStatistics, Usage

SAMPLES_MAX = 10_000
"""The most samples that are held, however long the soak."""


@dataclass(frozen=True, slots=True)
class SliceResult:
    """One phase of the load of clients that behave."""

    nth: int
    """The slice's number, counted from 0."""
    phase: Phase
    at_s: float
    """When it was over, since the soak began."""
    seed: int
    frames: int
    """The intended frames, including the warm-up; none in an idle slice."""
    counts: dict[str, int]
    """Frames by the name of their outcome, warm-up and all; those that did not occur are left out."""
    on_time_ratio: float
    """The share on time from the scenario's warm_s on, as all that follows; NaN where nothing was to be sent."""
    goodput_per_s: float
    """Frames on time per second."""
    p50_ms: float | None
    """Latency from capture; None: there was no result."""
    p99_ms: float | None
    lag_p99_ms: float | None
    """The generator's lag; None: nothing was sent."""
    broken: tuple[str, ...]
    """The first streams that broke off, and why."""
    problems: tuple[str, ...]
    """The reasons not to believe its figures; empty: there are none."""

    @property
    def unanswered(self) -> int:
        return self.counts.get(FrameOutcome.UNANSWERED.name, 0)


BROKEN_MAX = 5
"""The most streams that broke off that are listed for each slice."""


def result_of(run: LiveRun, index: int, phase: Phase, at_s: float) -> SliceResult:
    """What is kept of a run; the run itself is large."""
    results = measure(run)
    latency, lag = results.latency_ms, results.lag_ms
    outcome = run.record.outcome
    broken = [f"{ending.stream}: {ending.reason}" for ending in run.endings if not ending.refused]
    return SliceResult(
        index,
        phase,
        at_s,
        run.seed,
        len(outcome),
        {each.name: count for each in FrameOutcome if (count := int((outcome == each).sum()))},
        results.on_time_ratio,
        results.goodput_per_s,
        latency.p50 if latency else None,
        latency.p99 if latency else None,
        lag.p99 if lag else None,
        tuple(broken[:BROKEN_MAX]),
        run.problems,
    )


def without_frames(index: int, phase: Phase, at_s: float, seed: int, problems: tuple[str, ...] = ()) -> SliceResult:
    """A slice in which nothing was sent; `problems`: why, where something should have been."""
    return SliceResult(index, phase, at_s, seed, 0, {}, math.nan, 0.0, None, None, None, (), problems)


@dataclass(slots=True)
class Soak:
    """All of it. Bounded: a busy slice takes as long as the scenario at least, samples are thinned where they are
    many.
    """

    warm_s: float
    """Samples before this are no part of a trend: caches fill, pools grow to what they need."""
    slices: list[SliceResult] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    crowd: Tallies = field(default_factory=dict)
    before: ServerStatistics | None = None
    """What the server held before anybody came; None: it does not say."""
    after: ServerStatistics | None = None
    """What the server held when all were gone."""
    ended: str = ""
    """Why it ended before its time, other than that somebody wanted it to; empty: it did not."""
    interrupted: bool = False
    faults: bool = False
    """The scenario has some: frames fail since the harness breaks what computes them."""
    doubts: list[str] = field(default_factory=list)
    """Why it was not the soak that was asked for, in words."""
    notes: list[str] = field(default_factory=list)
    """What else went wrong in the harness, in words."""
    seen: int = 0
    """The number of samples, including those that were thinned out."""
    keep_each: int = 1
    """One of this many samples is held."""

    @property
    def invalid(self) -> list[SliceResult]:
        """Slices whose figures must not be believed. An idle one has none, and is neither valid nor invalid."""
        return [result for result in self.slices if result.problems]

    def in_phase(self, phase: Phase) -> list[SliceResult]:
        return [result for result in self.slices if result.phase is phase]

    def valid_in(self, phase: Phase) -> list[SliceResult]:
        """Busy or single."""
        return [result for result in self.in_phase(phase) if not result.problems]

    def samples_in(self, phase: Phase) -> list[Sample]:
        """The samples that lie in finished slices of the phase."""
        ends_s = [result.at_s for result in self.slices]
        indices = [bisect_left(ends_s, sample.at_s) for sample in self.samples]
        return [
            sample
            for sample, index in zip(self.samples, indices, strict=True)
            if index < len(self.slices) and self.slices[index].phase is phase
        ]

    def add(self, sample: Sample) -> None:
        """Where there are too many every other one goes, so that they span the whole soak at any time."""
        if self.seen % self.keep_each == 0:
            self.samples.append(sample)
        self.seen += 1
        if len(self.samples) > SAMPLES_MAX:
            self.samples = self.samples[::2]
            self.keep_each *= 2


class Log:
    """`soak.jsonl`: a JSON object a line, `{"kind": "begin" | "sample" | "slice" | "verdict", ...}`; what is in the
    file already stays there. Without a file it forgets. A number that is not finite is null.

    A disk that is full ends no soak: the first error is kept.
    """

    def __init__(self, file: Path | None) -> None:
        """Raises OSError."""
        self._lines = file.open("a", encoding="utf-8") if file is not None else None
        self.error = ""
        """The reason why lines are missing; empty: none is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            with contextlib.suppress(OSError):  # reported already when it could not be written
                self._lines.close()

    def begin(self, facts: dict[str, Any]) -> None:
        self._write("begin", facts)

    def sample(self, sample: Sample) -> None:
        self._write("sample", asdict(sample))

    def slice(self, result: SliceResult, crowd: Tallies) -> None:
        self._write("slice", asdict(result) | {"crowd": crowd})

    def verdict(self, facts: dict[str, Any]) -> None:
        self._write("verdict", facts)

    def _write(self, kind: str, facts: dict[str, Any]) -> None:
        if self._lines is not None:
            # In one piece: samples come from a thread of their own.
            line = json.dumps(finite({"kind": kind} | facts), allow_nan=False) + "\n"
            try:
                self._lines.write(line)
                self._lines.flush()
            except OSError as error:
                self.error = self.error or f"{self._lines.name} lacks lines: {error.strerror}"


def write_samples(file: Path, samples: Sequence[Sample]) -> None:
    """A row for each sample; a cell is empty where nothing was to be had. Raises OSError."""
    parts = (("server", Usage), ("harness", Usage), ("asked", ServerStatistics), ("loop_lag", LoopLag))
    columns = [(part, each.name) for part, of in parts for each in fields(of)]
    header = ["at_s", *(f"{part}_{name}" for part, name in columns)]
    rows = (
        [round(sample.at_s, 3), *(finite(getattr(getattr(sample, part), name, None)) for part, name in columns)]
        for sample in samples
    )
    write_csv(file, header, rows)
