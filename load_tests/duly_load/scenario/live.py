"""What to send to a live server, read from a TOML file: models, sensors, and what goes wrong when.

It is checked as a whole before anything runs. The models say what servers are to serve that the harness starts itself;
a server that runs already has its own, and only their names must be right.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from duly_load.scenario.arrivals import Table, Trace, beside_scenario
from duly_load.scenario.offered import Offered
from duly_load.scenario.parsing import ScenarioError, checked, read_toml, twice
from duly_load.scenario.schedule import Schedule, schedule, steps_of
from duly_load.scenario.tables import BATCH_MAX, STREAMS_MAX, AtLeastOne, Name, PositiveSeconds, Seconds, Sensor, one_of

DISTINCT_MAX = 4096
ELEMENTS_MAX = 2**26
"""Of one frame."""

Datatype = Literal[
    "FP64", "FP32", "FP16", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8", "BOOL"
]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Dense(Table):
    """FP32 `x` of [N, width] through `layers` dense layers that share one matrix. Its weights mean nothing, its cost
    does: it grows with the layers, and batching pays.
    """

    width: Annotated[int, Field(ge=1, le=4096)] = 256
    layers: Annotated[int, Field(ge=1, le=2000)] = 1


class ServedModel(Table):
    """A model for servers that the harness starts, said in one of three ways."""

    name: ModelName
    graph: Literal["mlp", "wide", "squeezenet"] | None = None
    """One of the benchmark's."""
    dense: Dense | None = None
    folder: Annotated[Path, AfterValidator(beside_scenario)] | None = None
    """Of a model in a duly repository: VERSION/model.onnx, of which the newest counts, and what else is there."""
    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=BATCH_MAX)], ...], AtLeastOne] = (1, 2, 4, 8)
    """The largest is also what peers may batch."""

    @model_validator(mode="after")
    def _said_once(self) -> "ServedModel":
        if sum(way is not None for way in (self.graph, self.dense, self.folder)) != 1:
            raise ValueError("should have exactly one of graph, dense and folder")
        return self


class Payloads(Table):
    """What the frames of a sensor hold."""

    recording: Annotated[Path, AfterValidator(beside_scenario)] | None = None
    """A picture, a folder of pictures, a video, a WAV, raw sound, .npy or .mcap; not set: random numbers."""
    topic: str = ""
    """Of the .mcap."""
    shape: tuple[Annotated[int, Field(ge=1, le=ELEMENTS_MAX)], ...] = ()
    """Of one frame, without a batch dimension: for servers that do not say, and in place of extents that are free."""
    datatype: Datatype = "FP32"
    """For servers that do not say."""
    distinct: Annotated[int, Field(ge=1, le=DISTINCT_MAX)] = 16
    """Different frames, held in memory and sent in turn."""

    @field_validator("recording")
    @classmethod
    def _there(cls, recording: Path | None) -> Path | None:
        if recording is not None and not recording.exists():
            raise ValueError("there is no such file or folder")
        return recording


class LiveSensor(Sensor):
    """One stream to a live server, or `count` alike that are named NAME-0, NAME-1, ..."""

    payloads: Payloads = Payloads()


class WorkerFault(Table):
    """A worker process of a duly server, which the harness must have started itself. die: it is killed. hang: it
    stands still until `back_s`, or until the server has had enough of it.
    """

    lane: Name
    kind: Literal["die", "hang"]
    at_s: Seconds
    back_s: PositiveSeconds | None = None
    """hang only."""


class LiveScenario(Offered):
    """A whole live load, checked."""

    lanes: Annotated[tuple[Name, ...], Field(max_length=64), AtLeastOne] = ("cpu:0",)
    """Of a duly server that the harness starts."""
    scale: Literal["streams", "rates"] = "streams"
    """What a load factor multiplies: how many streams there are, or how often each sends."""
    model: Annotated[tuple[ServedModel, ...], Field(max_length=64)] = ()
    stream: Annotated[tuple[LiveSensor, ...], Field(max_length=STREAMS_MAX), AtLeastOne]
    fault: Annotated[tuple[WorkerFault, ...], Field(max_length=64)] = ()

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from _problems_of_names(self)
        yield from _problems_of_faults(self)

    @property
    def frames_per_s(self) -> float:
        """Nominal: the mean of all streams together, as if all were open all the time, nothing were lost and the load
        had no steps. `offered_per_s` counts.
        """
        rates = (sensor.count * sensor.arrivals.frames_expected(self.duration_s) for sensor in self.stream)
        return sum(rates) / self.duration_s


def load_live(file: Path) -> LiveScenario:
    """The scenario of a TOML file. Raises ScenarioError that lists every problem."""
    return parse_live(read_toml(file), str(file), file.parent)


def parse_live(content: dict[str, Any], source: str, folder: Path) -> LiveScenario:
    """The scenario of a parsed TOML file; `source` names it in messages, files it names are relative to `folder`.

    Raises ScenarioError that lists every problem.
    """
    return checked(LiveScenario, _TABLES, content, source, folder)


def scaled(scenario: LiveScenario, factor: float, source: str) -> LiveScenario:
    """The scenario at `factor` times its load, exactly: where whole streams do not make it, their rates make up for
    it. Recorded traces keep their times, so that only whole streams more or less of them make another load.

    Raises ScenarioError where that is more than a run can hold, or no whole number of recorded traces; `source` names
    the scenario.
    """
    if factor == 1:
        return scenario
    if problems := [*_problems_of_traces(scenario, factor)]:
        raise ScenarioError("\n".join(f"{source} at {factor:g} times its load: {problem}" for problem in problems))
    streams = [_scaled(sensor, factor, scenario.scale) for sensor in scenario.stream]
    content = scenario.model_dump(by_alias=True, exclude={"stream"}) | {"stream": streams}
    return checked(LiveScenario, _TABLES, content, f"{source} at {factor:g} times its load", Path())


def alone(scenario: LiveScenario) -> LiveScenario:
    """The scenario cut down to one stream of its first sensor, so that frames come one at a time: no other streams, no
    steps of the load, and no faults.
    """
    stream = scenario.stream[0].model_dump(by_alias=True) | {"count": 1}
    content = scenario.model_dump(by_alias=True, exclude={"stream", "load_step", "fault"}) | {"stream": [stream]}
    return checked(LiveScenario, _TABLES, content, f"{scenario.name}, one stream of it", Path())


def offered_per_s(scenario: LiveScenario, seed: int) -> float:
    """Frames a second after the warm-up, counted in the schedule that is offered with that seed."""
    counted = np.count_nonzero(schedule_of(scenario, seed).frames.arrival_ns >= round(scenario.warm_s * 1e9))
    return float(counted / (scenario.duration_s - scenario.warm_s))


def schedule_of(scenario: LiveScenario, seed: int) -> Schedule:
    """Equal arguments give equal schedules, bit for bit."""
    return schedule(scenario.stream, round(scenario.duration_s * 1e9), steps_of(scenario.load_step), seed)


def _problems_of_traces(scenario: LiveScenario, factor: float) -> Iterator[str]:
    for nth, sensor in enumerate(scenario.stream):
        count = sensor.count * factor
        # 1.1 times 10 streams are 11, though not in floating point.
        whole = round(count) >= 1 and math.isclose(count, round(count), rel_tol=1e-9)
        if isinstance(sensor.arrivals, Trace) and (scenario.scale == "rates" or not whole):
            yield (
                f"stream[{nth}].arrivals: a recorded trace is not offered faster or slower; the factor should be 1"
                + (f", or make whole streams of {sensor.count}" if scenario.scale == "streams" else "")
            )


def _scaled(sensor: LiveSensor, factor: float, scale: str) -> dict[str, Any]:
    count = max(1, round(sensor.count * factor)) if scale == "streams" else sensor.count
    content = sensor.model_dump(by_alias=True) | {"count": count}
    if not isinstance(sensor.arrivals, Trace):
        content["arrivals"]["rate_hz"] *= sensor.count * factor / count
    return content


def _problems_of_faults(scenario: LiveScenario) -> Iterator[str]:
    end_s = scenario.duration_s
    for nth, fault in enumerate(scenario.fault):
        if fault.at_s >= end_s:
            yield f"fault[{nth}].at_s: should be less than duration_s, which is {end_s:g}, got {fault.at_s:g}"
        if fault.kind == "die" and fault.back_s is not None:
            yield f"fault[{nth}].back_s: should not be there, a worker that was killed is replaced by its server"
        if fault.back_s is not None and fault.back_s <= fault.at_s:
            yield f"fault[{nth}].back_s: should be later than at_s, which is {fault.at_s:g}, got {fault.back_s:g}"
        if fault.back_s is not None and fault.back_s >= end_s:
            yield f"fault[{nth}].back_s: should be less than duration_s, which is {end_s:g}, got {fault.back_s:g}"


def _problems_of_names(scenario: LiveScenario) -> Iterator[str]:
    models = [model.name for model in scenario.model]
    yield from twice("lanes", list(scenario.lanes))
    yield from twice("model", models)
    for nth, stream in enumerate(scenario.stream):
        if models and stream.model not in models:
            yield f"stream[{nth}].model: no model is named {stream.model!r}; should be {one_of(models)}"
        if stream.payloads.topic and stream.payloads.recording is None:
            yield f"stream[{nth}].payloads.topic: goes with a recording that is an .mcap"
    for nth, fault in enumerate(scenario.fault):
        if fault.lane not in scenario.lanes:
            yield f"fault[{nth}].lane: no lane is named {fault.lane!r}; should be {one_of(list(scenario.lanes))}"


_TABLES: dict[str, type[Table]] = {
    "model": ServedModel,
    "dense": Dense,
    "stream": LiveSensor,
    "payloads": Payloads,
    "fault": WorkerFault,
}
