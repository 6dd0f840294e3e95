"""The tables of a simulated scenario, each checked by itself; `duly_sim.scenario.simulated` puts them together.

A scenario's TOML file has one array of tables for each class here: [[lane]], [[model]], [[stream]], [[fault]], and one
table [noise].
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from duly_load.scenario.arrivals import DelayMs, Table, beside_scenario
from duly_load.scenario.tables import (
    BATCH_MAX,
    AtLeastOne,
    Factor,
    Ms,
    Name,
    PositiveSeconds,
    Seconds,
    Sensor,
    read_text,
)
from duly_sim.scenario.service_times import A100_MS, T4_MS, V100_MS, times_ns

LANES_MAX = 64

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


class Noise(Table):
    """How service times scatter, see `duly_sim.scenario.service_times.Noise`."""

    cv: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0
    bound: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    spike_probability: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    spike_factor: Factor = 5.0
    step_at_s: Seconds = 0.0
    step_factor: Factor = 1.0
    wake_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] = 0.0
    wake_after_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] = 0.0


class Lane(Table):
    """One execution slot, or `count` of them that are named NAME:0, NAME:1, ..."""

    name: Name = "lane"
    count: Annotated[int, Field(ge=1, le=LANES_MAX)] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.count is None else tuple(f"{self.name}:{nth}" for nth in range(self.count))


class Linear(Table):
    """A batch of one takes `first_ms`, each frame more `next_ms`."""

    first_ms: Ms
    next_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)]


class Variant(Table):
    """One variant of a model and how long its batches take, said in one of four ways."""

    name: Name = "default"
    table: Literal["t4_resnet50", "a100_resnet50", "v100_resnet50"] | None = None
    times_ms: TableMs | None = None
    """By batch size; sizes between lie on straight lines."""
    linear: Linear | None = None
    measured: Annotated[TableMs | None, BeforeValidator(_read_measured)] = None
    """From a JSON file, relative to the scenario's folder."""
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


class Model(Table):
    name: Name
    batch_max: Annotated[int, Field(ge=1, le=BATCH_MAX)]
    any_size: bool = True
    """False: the engine takes batches of 1, 2, 4, 8, 16, 32 and `batch_max` only."""
    lanes: tuple[Name, ...] = ()
    """Lanes that serve it; none named: all."""
    variants: Annotated[tuple[Variant, ...], Field(max_length=16), AtLeastOne]
    """The most accurate first."""


class Stream(Sensor):
    """A stream in the simulator."""

    principal: Annotated[str, Field(max_length=200)] = ""
    credit: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Frames that may be unanswered; more are shed."""
    advice: Literal["follow", "ignore"] | None = None
    """What it does when it is told to slow down; not set: nothing is told."""


class Fault(Table):
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
