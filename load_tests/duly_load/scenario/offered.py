"""The load of a scenario, simulated or live: sensors, how long, and when they send more or less."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from duly_load.scenario.arrivals import Table
from duly_load.scenario.parsing import twice
from duly_load.scenario.tables import STREAMS_MAX, AtLeastOne, LoadStep, Name, PositiveSeconds, Seconds, Sensor

FRAMES_MAX = 20_000_000
"""Frames of one run, all streams together."""
SESSIONS_MAX = 100_000
"""Times that streams open in one run. Times the longest run in ns, this still fits 63 bits."""


class Offered(Table):
    """What is sent when. Each kind of scenario adds who serves it."""

    name: Name
    duration_s: PositiveSeconds
    """With `warm_s`, which is not counted."""
    warm_s: Seconds = 0.0
    stream: Annotated[tuple[Sensor, ...], Field(max_length=STREAMS_MAX), AtLeastOne]
    load_step: Annotated[tuple[LoadStep, ...], Field(max_length=1024)] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> "Offered":
        if problems := [*self.problems()]:
            raise ValueError("\n".join(problems))
        return self

    def problems(self) -> Iterator[str]:
        """What is wrong with the tables as a whole: a line each, with its place."""
        yield from self._problems_of_times()
        yield from twice("stream", [name for stream in self.stream for name in stream.names])
        yield from self._problems_of_size()

    def _problems_of_times(self) -> Iterator[str]:
        end_s = self.duration_s
        if self.warm_s >= end_s:
            yield f"warm_s: should be less than duration_s, which is {end_s:g}, got {self.warm_s:g}"
        for nth, stream in enumerate(self.stream):
            to_s = end_s if stream.to_s is None else stream.to_s
            if to_s > end_s:
                yield f"stream[{nth}].to_s: should be at most duration_s, which is {end_s:g}, got {to_s:g}"
            elif stream.from_s >= to_s:
                yield f"stream[{nth}].from_s: should be less than to_s, which is {to_s:g}, got {stream.from_s:g}"
        for nth, step in enumerate(self.load_step):
            after_s = self.load_step[nth - 1].at_s if nth else -1.0
            if not after_s < step.at_s < end_s:
                yield (
                    f"load_step[{nth}].at_s: should be later than the step before and less than duration_s, "
                    f"which is {end_s:g}, got {step.at_s:g}"
                )

    def _problems_of_size(self) -> Iterator[str]:
        factor = max([1.0, *(step.factor for step in self.load_step)])
        frames = sum(stream.count * stream.arrivals.frames_expected(self.duration_s) for stream in self.stream)
        if frames * factor > FRAMES_MAX:
            yield f"stream: should send at most {FRAMES_MAX} frames in all, would send up to {frames * factor:.0f}"
        sessions = 0.0
        for stream in self.stream:
            cycle_s = self.duration_s if stream.churn is None else stream.churn.lifetime_s + stream.churn.gap_s
            sessions += stream.count * max(1.0, self.duration_s / cycle_s)
        for table, count, count_max in (
            ("stream", sum(stream.count for stream in self.stream), STREAMS_MAX),
            ("stream: openings", round(sessions), SESSIONS_MAX),
        ):
            if count > count_max:
                yield f"{table}: should be at most {count_max} in all, are {count}"
