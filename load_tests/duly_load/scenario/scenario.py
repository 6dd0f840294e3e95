"""A scenario, read from a TOML file: sensors and when they send, and what serves them.

[serve] says what live servers are given, [simulate] what the simulator is given; a file may have both. It is checked as
a whole before anything runs: names that nothing bears, times that do not fit, more frames than a run can hold.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from duly_load.scenario.arrivals import Table
from duly_load.scenario.parsing import ScenarioError, checked, read_toml, twice
from duly_load.scenario.serve import Serve
from duly_load.scenario.simulate import Simulate
from duly_load.scenario.tables import STREAMS_MAX, AtLeastOne, LoadStep, Name, PositiveSeconds, Seconds, Sensor, one_of

FRAMES_MAX = 20_000_000
"""The most frames of one run, all streams together."""
SESSIONS_MAX = 100_000
"""Times that streams open in one run. Times the longest run in ns, this still fits 63 bits."""


class Scenario(Table):
    """A whole scenario, checked."""

    name: Name
    duration_s: PositiveSeconds
    """The duration, including `warm_s`, which is not counted."""
    warm_s: Seconds = 0.0
    scale: Literal["streams", "rates"] = "streams"
    """What a load factor multiplies: how many streams there are, or how often each sends."""
    stream: Annotated[tuple[Sensor, ...], Field(max_length=STREAMS_MAX), AtLeastOne]
    load_step: Annotated[tuple[LoadStep, ...], Field(max_length=1024)] = ()
    serve: Serve = Serve()
    simulate: Simulate | None = None

    @property
    def frames_per_s(self) -> float:
        """Nominal: the mean of all streams together, as if all were open all the time, nothing were lost and the load
        had no steps.
        """
        rates = (sensor.count * sensor.arrivals.frames_expected(self.duration_s) for sensor in self.stream)
        return sum(rates) / self.duration_s

    def to_simulate(self) -> Simulate:
        """The section [simulate]. Raises ScenarioError where there is none."""
        if self.simulate is None:
            raise ScenarioError(f"{self.name}: simulate: is required, it says on what lanes which models are simulated")
        return self.simulate

    @model_validator(mode="after")
    def _fits_together(self) -> "Scenario":
        if problems := [*self._problems()]:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        yield from self._problems_of_times()
        yield from twice("stream", [name for stream in self.stream for name in stream.names])
        yield from self._problems_of_size()
        yield from self.serve.problems(self.duration_s)
        if self.simulate is not None:
            yield from self.simulate.problems(self.duration_s)
        yield from self._problems_of_names()

    def _problems_of_names(self) -> Iterator[str]:
        simulated = self.simulate.model if self.simulate is not None else ()
        variants = {model.name: [variant.name for variant in model.variants] for model in simulated}
        sections = {"serve": [model.name for model in self.serve.model], "simulate": [*variants]}
        for index, stream in enumerate(self.stream):
            for section, models in sections.items():
                if models and stream.model not in models:
                    yield (
                        f"stream[{index}].model: no model of [{section}] is named {stream.model!r}; "
                        f"should be {one_of(models)}"
                    )
            of_model = variants.get(stream.model)
            if of_model and stream.variant_lowest is not None and stream.variant_lowest not in of_model:
                yield (
                    f"stream[{index}].variant_lowest: {stream.model} has no variant {stream.variant_lowest!r}; "
                    f"should be {one_of(of_model)}"
                )
            if stream.payloads.topic and stream.payloads.recording is None:
                yield f"stream[{index}].payloads.topic: goes with a recording that is an .mcap"

    def _problems_of_times(self) -> Iterator[str]:
        end_s = self.duration_s
        if self.warm_s >= end_s:
            yield f"warm_s: should be less than duration_s, which is {end_s:g}, got {self.warm_s:g}"
        for index, stream in enumerate(self.stream):
            to_s = end_s if stream.to_s is None else stream.to_s
            if to_s > end_s:
                yield f"stream[{index}].to_s: should be at most duration_s, which is {end_s:g}, got {to_s:g}"
            elif stream.from_s >= to_s:
                yield f"stream[{index}].from_s: should be less than to_s, which is {to_s:g}, got {stream.from_s:g}"
        for index, step in enumerate(self.load_step):
            after_s = self.load_step[index - 1].at_s if index else -1.0
            if not after_s < step.at_s < end_s:
                yield (
                    f"load_step[{index}].at_s: should be later than the step before and less than duration_s, "
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


def load_scenario(file: Path) -> Scenario:
    """The scenario of a TOML file. Raises ScenarioError that lists every problem."""
    return parse_scenario(read_toml(file), str(file), file.parent)


def parse_scenario(content: dict[str, Any], source: str, folder: Path) -> Scenario:
    """The scenario of a parsed TOML file; `source` names it in messages, files it names are relative to `folder`.

    Raises ScenarioError that lists every problem.
    """
    return checked(Scenario, content, source, folder)


def changed(scenario: Scenario, source: str, **changes: object) -> Scenario:
    """The scenario with other values of some of its keys. Raises ScenarioError where they do not fit."""
    return checked(Scenario, dict(scenario) | changes, source, Path())
