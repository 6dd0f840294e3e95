"""A load test, read from a TOML file: lanes, models, streams, and what goes wrong when.

It is checked as a whole before anything runs: names that nothing bears, times that do not cover a batch, more frames
than a run can hold. Each problem is told with its place, counted from 0 as in `stream[2].budget_ms`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from duly_load.scenario.arrivals import Table
from duly_load.scenario.offered import Offered
from duly_load.scenario.parsing import checked, read_toml, twice
from duly_load.scenario.tables import STREAMS_MAX, AtLeastOne, one_of
from duly_sim.scenario.tables import LANES_MAX, Fault, Lane, Linear, Model, Noise, Stream, Variant


class Scenario(Offered):
    """A whole simulated load test, checked."""

    noise: Noise = Noise()
    lane: Annotated[tuple[Lane, ...], Field(max_length=LANES_MAX), AtLeastOne]
    model: Annotated[tuple[Model, ...], Field(max_length=256), AtLeastOne]
    stream: Annotated[tuple[Stream, ...], Field(max_length=STREAMS_MAX), AtLeastOne]
    fault: Annotated[tuple[Fault, ...], Field(max_length=1024)] = ()

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from _problems_of_faults(self)
        yield from _problems_of_names(self)
        if len(self.lanes) > LANES_MAX:
            yield f"lane: should be at most {LANES_MAX} in all, are {len(self.lanes)}"

    @property
    def lanes(self) -> tuple[str, ...]:
        return tuple(name for lane in self.lane for name in lane.names)


def load_scenario(file: Path) -> Scenario:
    """The scenario of a TOML file. Raises ScenarioError that lists every problem."""
    return parse_scenario(read_toml(file), str(file), file.parent)


def parse_scenario(content: dict[str, Any], source: str, folder: Path) -> Scenario:
    """The scenario of a parsed TOML file; `source` names it in messages, files it names are relative to `folder`.

    Raises ScenarioError that lists every problem.
    """
    return checked(Scenario, _TABLES, content, source, folder)


def _problems_of_faults(scenario: Scenario) -> Iterator[str]:
    end_s = scenario.duration_s
    back_s: dict[str, float] = {}
    for nth, fault in enumerate(scenario.fault):
        if not back_s.get(fault.lane, -1.0) < fault.at_s < end_s:
            yield (
                f"fault[{nth}].at_s: should be later than back_s of the lane's fault before and less than duration_s, "
                f"which is {end_s:g}, got {fault.at_s:g}"
            )
        if fault.back_s <= fault.noticed_s:
            yield (
                f"fault[{nth}].back_s: should be later than the fault is noticed, which is at {fault.noticed_s:g}, "
                f"got {fault.back_s:g}"
            )
        back_s[fault.lane] = fault.back_s
    if scenario.noise.cv and scenario.noise.bound:
        yield "noise: should have cv or bound, not both"


def _problems_of_names(scenario: Scenario) -> Iterator[str]:
    lanes = list(scenario.lanes)
    models = {model.name: model for model in scenario.model}
    yield from twice("lane", lanes)
    yield from twice("model", [model.name for model in scenario.model])
    for nth, model in enumerate(scenario.model):
        yield from twice(f"model[{nth}].variants", [variant.name for variant in model.variants])
        yield from twice(f"model[{nth}].lanes", list(model.lanes))
        for lane in model.lanes:
            if lane not in lanes:
                yield f"model[{nth}].lanes: no lane is named {lane!r}; should be {one_of(lanes)}"
        for rank, variant in enumerate(model.variants):
            try:
                variant.times_ns(model.batch_max)
            except ValueError as error:
                yield f"model[{nth}].variants[{rank}]: does not cover batch_max, which is {model.batch_max}: {error}"
    for nth, stream in enumerate(scenario.stream):
        if stream.model not in models:
            yield f"stream[{nth}].model: no model is named {stream.model!r}; should be {one_of(list(models))}"
            continue
        variants = [variant.name for variant in models[stream.model].variants]
        if stream.variant_lowest is not None and stream.variant_lowest not in variants:
            yield (
                f"stream[{nth}].variant_lowest: {stream.model} has no variant {stream.variant_lowest!r}; "
                f"should be {one_of(variants)}"
            )
    for nth, fault in enumerate(scenario.fault):
        if fault.lane not in lanes:
            yield f"fault[{nth}].lane: no lane is named {fault.lane!r}; should be {one_of(lanes)}"


_TABLES: dict[str, type[Table]] = {
    "noise": Noise,
    "lane": Lane,
    "model": Model,
    "variants": Variant,
    "linear": Linear,
    "stream": Stream,
    "fault": Fault,
}
