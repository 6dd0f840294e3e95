"""A load test, read from a TOML file: lanes, models, streams, and what goes wrong when.

It is checked as a whole before anything runs: names that nothing bears, times that do not cover a batch, more frames
than a run can hold. Each problem is told with its place, counted from 0 as in `stream[2].budget_ms`.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from duly_load.arrivals import Churn, Gamma, Mmpp, Network, OnOff, Periodic, Poisson, Table, Trace
from duly_load.tables import (
    LANES_MAX,
    STREAMS_MAX,
    AtLeastOne,
    Fault,
    Lane,
    Linear,
    LoadStep,
    Model,
    Name,
    Noise,
    PositiveSeconds,
    Seconds,
    Stream,
    Variant,
    one_of,
    read_text,
)

FRAMES_MAX = 20_000_000
"""Frames of one run, all streams together."""
SESSIONS_MAX = 100_000
"""Times that streams open in one run. Times the longest run in ns, this still fits 63 bits."""


class ScenarioError(Exception):
    """The scenario is wrong; one line for each problem, each with its place and what would be right."""


class Scenario(Table):
    """A whole load test, checked."""

    name: Name
    duration_s: PositiveSeconds
    """With `warm_s`, which is not counted."""
    warm_s: Seconds = 0.0
    noise: Noise = Noise()
    lane: Annotated[tuple[Lane, ...], Field(max_length=LANES_MAX), AtLeastOne]
    model: Annotated[tuple[Model, ...], Field(max_length=256), AtLeastOne]
    stream: Annotated[tuple[Stream, ...], Field(max_length=STREAMS_MAX), AtLeastOne]
    fault: Annotated[tuple[Fault, ...], Field(max_length=1024)] = ()
    load_step: Annotated[tuple[LoadStep, ...], Field(max_length=1024)] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> "Scenario":
        problems = [*_problems_of_times(self), *_problems_of_names(self), *_problems_of_size(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def lanes(self) -> tuple[str, ...]:
        return tuple(name for lane in self.lane for name in lane.names)


def load_scenario(file: Path) -> Scenario:
    """The scenario of a TOML file. Raises ScenarioError that lists every problem."""
    try:
        content = tomllib.loads(read_text(file))
    except OSError as error:
        raise ScenarioError(f"{file}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise ScenarioError(f"{file}: not valid TOML: {error}") from error
    return parse_scenario(content, str(file), file.parent)


def parse_scenario(content: dict[str, Any], source: str, folder: Path) -> Scenario:
    """The scenario of a parsed TOML file; `source` names it in messages, files it names are relative to `folder`.

    Raises ScenarioError that lists every problem.
    """
    try:
        return Scenario.model_validate(content, context={"folder": folder})
    except ValidationError as error:
        lines = [line for detail in error.errors() for line in _in_plain_words(detail)]
        raise ScenarioError("\n".join(f"{source}: {line}" for line in lines)) from error


def _problems_of_times(scenario: Scenario) -> Iterator[str]:
    end_s = scenario.duration_s
    if scenario.warm_s >= end_s:
        yield f"warm_s: should be less than duration_s, which is {end_s:g}, got {scenario.warm_s:g}"
    for nth, stream in enumerate(scenario.stream):
        to_s = end_s if stream.to_s is None else stream.to_s
        if to_s > end_s:
            yield f"stream[{nth}].to_s: should be at most duration_s, which is {end_s:g}, got {to_s:g}"
        elif stream.from_s >= to_s:
            yield f"stream[{nth}].from_s: should be less than to_s, which is {to_s:g}, got {stream.from_s:g}"
    for nth, step in enumerate(scenario.load_step):
        after_s = scenario.load_step[nth - 1].at_s if nth else -1.0
        if not after_s < step.at_s < end_s:
            yield (
                f"load_step[{nth}].at_s: should be later than the step before and less than duration_s, "
                f"which is {end_s:g}, got {step.at_s:g}"
            )
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
    yield from _twice("lane", lanes)
    yield from _twice("model", [model.name for model in scenario.model])
    yield from _twice("stream", [name for stream in scenario.stream for name in stream.names])
    for nth, model in enumerate(scenario.model):
        yield from _twice(f"model[{nth}].variants", [variant.name for variant in model.variants])
        yield from _twice(f"model[{nth}].lanes", list(model.lanes))
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


def _problems_of_size(scenario: Scenario) -> Iterator[str]:
    factor = max([1.0, *(step.factor for step in scenario.load_step)])
    frames = sum(stream.count * stream.arrivals.frames_expected(scenario.duration_s) for stream in scenario.stream)
    if frames * factor > FRAMES_MAX:
        yield f"stream: should send at most {FRAMES_MAX} frames in all, would send up to {frames * factor:.0f}"
    sessions = 0.0
    for stream in scenario.stream:
        cycle_s = scenario.duration_s if stream.churn is None else stream.churn.lifetime_s + stream.churn.gap_s
        sessions += stream.count * max(1.0, scenario.duration_s / cycle_s)
    for table, count, count_max in (
        ("stream", sum(stream.count for stream in scenario.stream), STREAMS_MAX),
        ("stream: openings", round(sessions), SESSIONS_MAX),
        ("lane", len(scenario.lanes), LANES_MAX),
    ):
        if count > count_max:
            yield f"{table}: should be at most {count_max} in all, are {count}"


def _twice(place: str, names: list[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{place}: should name each once, {name!r} is there {count} times"


_KINDS: dict[str, type[Table]] = {
    "periodic": Periodic,
    "poisson": Poisson,
    "gamma": Gamma,
    "mmpp": Mmpp,
    "on_off": OnOff,
    "trace": Trace,
}
_TABLES: dict[str, type[Table]] = _KINDS | {
    "noise": Noise,
    "lane": Lane,
    "model": Model,
    "variants": Variant,
    "linear": Linear,
    "stream": Stream,
    "churn": Churn,
    "network": Network,
    "fault": Fault,
    "load_step": LoadStep,
}


def _in_plain_words(detail: Any) -> list[str]:
    """Lines for one problem that pydantic found; those that `Scenario` found itself carry their place already."""
    kind, loc, value = detail["type"], detail["loc"], detail["input"]
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not loc:
        return [str(line) for line in message.splitlines()]
    place = ""
    for nth, part in enumerate(loc):
        if isinstance(part, int):
            place += f"[{part}]"
        elif not (nth and loc[nth - 1] == "arrivals" and part in _KINDS):  # there pydantic names the kind it chose
            place += f".{part}" if place else part
    if kind == "missing":
        return [f"{place}: is required"]
    if kind == "extra_forbidden":
        return [f"{place}: unknown key; should be {one_of(_keys(loc[:-1]))}"]
    if kind == "union_tag_not_found":
        return [f"{place}.kind: is required; should be {one_of(list(_KINDS))}"]
    if kind == "union_tag_invalid":
        place, message, value = f"{place}.kind", f"should be {one_of(list(_KINDS))}", value["kind"]
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "should be a table"
    elif kind == "tuple_type":
        message = "should be an array"
    if isinstance(value, dict | list):
        return [f"{place}: {message}"]
    shown = repr(value)
    return [f"{place}: {message}, got {shown if len(shown) <= 200 else shown[:200] + '...'}"]


def _keys(place: tuple[str | int, ...]) -> list[str]:
    names = [part for part in place if isinstance(part, str)]
    table = _TABLES[names[-1]] if names else Scenario
    return [field.alias or name for name, field in table.model_fields.items()]
