"""The section [simulate] of a scenario: lanes, models with how long their batches take, and lanes that fail."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from duly_load.scenario.arrivals import DelayMs, Table, beside_scenario
from duly_load.scenario.parsing import twice
from duly_load.scenario.tables import (
    BATCH_MAX,
    AtLeastOne,
    Factor,
    Ms,
    Name,
    PositiveSeconds,
    Seconds,
    one_of,
    read_text,
)

LANES_MAX = 64

T4_MS = {1: 3.00, 4: 5.75, 8: 9.00, 16: 15.11, 32: 28.35}
A100_MS = {1: 2.13, 4: 2.76, 8: 3.90, 16: 5.79, 32: 11.19}
V100_MS = {1: 2.84, 4: 4.19, 8: 5.98, 16: 9.27, 32: 15.66}
"""ResNet50, ONNX Runtime with TensorRT FP16 under Triton, published by NVIDIA; ms by batch size."""
TABLES_MS = {"t4_resnet50": T4_MS, "a100_resnet50": A100_MS, "v100_resnet50": V100_MS}

TableMs = dict[Annotated[int, Field(ge=1, le=BATCH_MAX)], Ms]


def _read_measured(value: object, info: ValidationInfo) -> object:
    """The table out of a file {"planned_ms": {"1": 3.1, ...}}, as `duly models` measures it."""
    if not isinstance(value, str):
        raise ValueError("should be the name of a JSON file")
    file = beside_scenario(Path(value), info)
    try:
        table_ms = json.loads(read_text(file))["planned_ms"]
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'should be a JSON file of {{"planned_ms": {{"1": 3.1, ...}}}}: {error}') from error
    return table_ms


def times_ns(table_ms: dict[int, float], batch_max: int) -> tuple[int, ...]:
    """Mean times of batches of 1, 2, ... `batch_max`, on straight lines between the sizes of the table.

    Raises ValueError where the table does not hold batch size 1 or ends before `batch_max`.
    """
    if 1 not in table_ms or max(table_ms) < batch_max:
        raise ValueError(f"a table should hold sizes 1 to {batch_max}, got {sorted(table_ms)}")
    sizes = sorted(table_ms)
    filled = np.interp(np.arange(1, batch_max + 1), sizes, [table_ms[size] for size in sizes])
    return tuple(round(time_ms * 1e6) for time_ms in filled)


class Noise(Table):
    """How batch times scatter round their tables."""

    cv: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0
    """The coefficient of variation; factors are lognormal with mean 1."""
    bound: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    """If not 0, factors are uniform within 1 - bound ... 1 + bound instead."""
    spike_probability: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    spike_factor: Factor = 5.0
    step_at_s: Seconds = 0.0
    step_factor: Factor = 1.0
    """The factor by which every time is multiplied from `step_at_s` on."""
    wake_ms: DelayMs = 0.0
    """What a batch takes longer on a lane that was idle: the mean of an exponential distribution."""
    wake_after_ms: DelayMs = 0.0
    """A lane was idle that ran nothing for longer than that."""


class Lane(Table):
    """One execution slot, or `count` of them that are named NAME:0, NAME:1, ..."""

    name: Name = "lane"
    count: Annotated[int, Field(ge=1, le=LANES_MAX)] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.count is None else tuple(f"{self.name}:{index}" for index in range(self.count))


class Linear(Table):
    """A batch of one takes `first_ms`, each frame more `next_ms`."""

    first_ms: Ms
    next_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)]


class Variant(Table):
    """One variant of a model and how long its batches take, said in one of four ways."""

    name: Name = "default"
    table: Literal["t4_resnet50", "a100_resnet50", "v100_resnet50"] | None = None
    times_ms: TableMs | None = None
    """Times by batch size; sizes between lie on straight lines."""
    linear: Linear | None = None
    measured: Annotated[TableMs | None, BeforeValidator(_read_measured)] = None
    """Times from a JSON file, whose name is relative to the scenario's folder."""
    scale: Factor = 1.0

    @model_validator(mode="after")
    def _timed_once(self) -> "Variant":
        ways = [self.table, self.times_ms, self.linear, self.measured]
        if sum(way is not None for way in ways) != 1:
            raise ValueError("should have exactly one of table, times_ms, linear and measured")
        return self

    def times_ns(self, batch_max: int) -> tuple[int, ...]:
        """Mean times of batches of 1, 2, ... `batch_max`. Raises ValueError where they are not all known."""
        if self.linear is not None:
            first_ms, next_ms = self.linear.first_ms, self.linear.next_ms
            table_ms = {size: first_ms + (size - 1) * next_ms for size in (1, BATCH_MAX)}
        else:
            table_ms = TABLES_MS[self.table] if self.table else self.times_ms or self.measured or {}
        return times_ns({size: time_ms * self.scale for size, time_ms in table_ms.items()}, batch_max)


class SimulatedModel(Table):
    """A model of the simulator."""

    name: Name
    batch_max: Annotated[int, Field(ge=1, le=BATCH_MAX)]
    any_size: bool = True
    """False: the engine takes batches of 1, 2, 4, 8, 16, 32 and `batch_max` only."""
    lanes: tuple[Name, ...] = ()
    """The lanes that serve it; empty: all do."""
    warm_after_s: Seconds = 0.0
    """A lane that was idle for so long runs zeros, as on a GPU; 0: never."""
    variants: Annotated[tuple[Variant, ...], Field(max_length=16), AtLeastOne]
    """The most accurate first."""


class LaneFault(Table):
    """A lane that fails and comes back with warm workers. die: the device is gone. hang: batches that start from `at_s`
    on never end, which is noticed after `detect_ms`; only then are its workers taken away.
    """

    lane: Name
    kind: Literal["die", "hang"]
    at_s: Seconds
    back_s: PositiveSeconds
    detect_ms: DelayMs = 100.0

    @property
    def noticed_s(self) -> float:
        return self.at_s + (self.detect_ms / 1e3 if self.kind == "hang" else 0.0)


class Simulate(Table):
    """What the simulator serves the sensors with."""

    noise: Noise = Noise()
    lane: Annotated[tuple[Lane, ...], Field(max_length=LANES_MAX), AtLeastOne]
    model: Annotated[tuple[SimulatedModel, ...], Field(max_length=256), AtLeastOne]
    fault: Annotated[tuple[LaneFault, ...], Field(max_length=1024)] = ()

    @property
    def lanes(self) -> tuple[str, ...]:
        return tuple(name for lane in self.lane for name in lane.names)

    def problems(self, end_s: float) -> Iterator[str]:
        """What is wrong with the tables together, in a run that lasts until `end_s`: a line each, with its place."""
        lanes = list(self.lanes)
        if self.noise.cv and self.noise.bound:
            yield "simulate.noise: should have cv or bound, not both"
        if len(lanes) > LANES_MAX:
            yield f"simulate.lane: should be at most {LANES_MAX} in all, are {len(lanes)}"
        yield from twice("simulate.lane", lanes)
        yield from twice("simulate.model", [model.name for model in self.model])
        for index, model in enumerate(self.model):
            place = f"simulate.model[{index}]"
            yield from twice(f"{place}.variants", [variant.name for variant in model.variants])
            yield from twice(f"{place}.lanes", list(model.lanes))
            for lane in model.lanes:
                if lane not in lanes:
                    yield f"{place}.lanes: no lane is named {lane!r}; should be {one_of(lanes)}"
            for rank, variant in enumerate(model.variants):
                try:
                    variant.times_ns(model.batch_max)
                except ValueError as error:
                    yield f"{place}.variants[{rank}]: does not cover batch_max, which is {model.batch_max}: {error}"
        yield from self._problems_of_faults(end_s)

    def _problems_of_faults(self, end_s: float) -> Iterator[str]:
        lanes = list(self.lanes)
        back_s: dict[str, float] = {}
        for index, fault in enumerate(self.fault):
            place = f"simulate.fault[{index}]"
            if fault.lane not in lanes:
                yield f"{place}.lane: no lane is named {fault.lane!r}; should be {one_of(lanes)}"
            if not back_s.get(fault.lane, -1.0) < fault.at_s < end_s:
                yield (
                    f"{place}.at_s: should be later than back_s of the lane's fault before and less than duration_s, "
                    f"which is {end_s:g}, got {fault.at_s:g}"
                )
            if fault.back_s <= fault.noticed_s:
                yield (
                    f"{place}.back_s: should be later than the fault is noticed, which is at {fault.noticed_s:g}, "
                    f"got {fault.back_s:g}"
                )
            back_s[fault.lane] = fault.back_s
