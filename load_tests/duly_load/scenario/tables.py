"""What is sent: the tables [[stream]] and [[load_step]] of a scenario, and the words that all tables are made of."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from duly.core.types import BacklogPolicy, StreamClass
from duly_load.scenario.arrivals import DURATION_S_MAX, Arrivals, Churn, Network, Periodic, Table, beside_scenario

STREAMS_MAX = 65_536
BATCH_MAX = 1024
FILE_BYTES_MAX = 2**20
DISTINCT_MAX = 4096
ELEMENTS_MAX = 2**26
"""The most numbers in one frame."""

Datatype = Literal[
    "FP64", "FP32", "FP16", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8", "BOOL"
]

_BACKLOG = re.compile(r"LATEST|ALL|KEEP_LAST:([1-9][0-9]{0,4})")


def _not_empty(items: tuple[object, ...]) -> tuple[object, ...]:
    if not items:
        raise ValueError("should be there at least once")
    return items


AtLeastOne = AfterValidator(_not_empty)

Name = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(ge=0, le=DURATION_S_MAX, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=DURATION_S_MAX, allow_inf_nan=False)]
Ms = Annotated[float, Field(gt=0, le=60_000, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


def one_of(names: list[str]) -> str:
    """`a, b or c`; at most twelve of them."""
    shown = names if len(names) <= 12 else [*names[:12], "..."]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def read_text(file: Path) -> str:
    """Raises OSError; ValueError where the file is too large or not UTF-8."""
    if file.stat().st_size > FILE_BYTES_MAX:
        raise ValueError(f"it is larger than {FILE_BYTES_MAX} bytes")
    return file.read_text(encoding="utf-8-sig")


def _class_named(value: object) -> object:
    if isinstance(value, StreamClass):
        return value
    if isinstance(value, str) and value in StreamClass.__members__:
        return StreamClass[value]
    raise ValueError(f"should be {one_of(list(StreamClass.__members__))}")


def _backlog(value: str) -> str:
    if not _BACKLOG.fullmatch(value):
        raise ValueError("should be LATEST, KEEP_LAST:n with n from 1 to 99999, or ALL")
    return value


def _floor(value: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= value[0] < value[1] <= 1024:
        raise ValueError("should be [m, k] with 1 <= m < k <= 1024: m of any k consecutive frames on time")
    return value


class Payloads(Table):
    """What the frames of a sensor hold."""

    recording: Annotated[Path, AfterValidator(beside_scenario)] | None = None
    """A picture, a folder of pictures, a video, a WAV, raw sound, .npy or .mcap; not set: random numbers."""
    topic: str = ""
    """The topic of the .mcap."""
    shape: tuple[Annotated[int, Field(ge=1, le=ELEMENTS_MAX)], ...] = ()
    """The shape of one frame, without the batch: for servers that do not say, and for extents that are free."""
    datatype: Datatype = "FP32"
    """The element type, for servers that do not say."""
    distinct: Annotated[int, Field(ge=1, le=DISTINCT_MAX)] = 16
    """The number of different frames, which are held in memory and sent in turn."""

    @field_validator("recording")
    @classmethod
    def _there(cls, recording: Path | None) -> Path | None:
        if recording is not None and not recording.exists():
            raise ValueError("there is no such file or folder")
        return recording


class Fused(Table):
    """Makes a sensor one of several whose frames run together, each of which gives one input of the model."""

    group: Name
    """The name of the group; each of `count` streams is in one of its own, with its namesakes."""
    input: Name
    """The input of the model that the sensor gives."""
    inputs: Annotated[tuple[Name, ...], Field(min_length=2)]
    """All inputs of the model, in its order."""
    tolerance_ms: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] = 0.0
    """How far apart the capture times of frames that are joined may be; 0 with EXACT alone."""
    wait: Literal["NEWEST", "EXACT", "WITHIN_DEADLINE"] = "NEWEST"

    @model_validator(mode="after")
    def _possible(self) -> "Fused":
        if self.input not in self.inputs:
            raise ValueError(f"input: should be {one_of(list(self.inputs))}, got {self.input!r}")
        if (self.wait == "EXACT") != (self.tolerance_ms == 0):
            raise ValueError("tolerance_ms: should be more than 0, with EXACT left out")
        return self


HOUR_S = 3600.0


class Sensor(Table):
    """One stream, or `count` alike that are named NAME-0, NAME-1, ..."""

    name: Name
    count: Annotated[int, Field(ge=1, le=STREAMS_MAX)] = 1
    model: Name
    stream_class: Annotated[StreamClass, BeforeValidator(_class_named)] = Field(StreamClass.STANDARD, alias="class")
    budget_ms: Ms
    """How long after its capture a result is worth having."""
    backlog: Annotated[str, AfterValidator(_backlog)] = "LATEST"
    """The backlog policy: LATEST, KEEP_LAST:n or ALL."""
    arrivals: Arrivals
    from_s: Seconds = 0.0
    to_s: PositiveSeconds | None = None
    """The stream is open from `from_s` to this; not set: to the end."""
    churn: Churn | None = None
    network: Network = Network()
    variant_lowest: Name | None = None
    """The least accurate variant that may serve it; not set: any."""
    floor: Annotated[tuple[int, int], AfterValidator(_floor)] | None = None
    """[m, k]: m of any k consecutive frames shall be on time."""
    fusion: Fused | None = None
    """Not set: each frame has all inputs of the model and runs for itself."""
    payloads: Payloads = Payloads()
    """What frames hold, for live servers alone: simulated frames hold nothing."""
    principal: Annotated[str, Field(max_length=200)] = ""
    """Whose stream it is, for the simulator alone: live, all streams are of one client."""
    credit: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Frames that may be unanswered, more are shed. For the simulator alone: live, it is a setting of the server."""
    advice: Literal["follow", "ignore"] | None = None
    """What it does when it is advised to slow down; not set: it is not advised. For the simulator alone: live, the
    target's address says it.
    """

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.count == 1 else tuple(f"{self.name}-{index}" for index in range(self.count))

    def group_of(self, name: str) -> str:
        """The fusion group of the stream with that name."""
        assert self.fusion is not None
        return self.fusion.group + name.removeprefix(self.name)

    @property
    def budget_ns(self) -> int:
        return round(self.budget_ms * 1e6)

    @property
    def stated_period_s(self) -> float | None:
        """The period that the stream states: that of a periodic sensor, and the mean one of a CRITICAL sensor whose
        frames come at random, because CRITICAL streams must state one. Load steps are not known beforehand.
        """
        if isinstance(self.arrivals, Periodic):
            return 1 / self.arrivals.rate_hz
        if self.stream_class is not StreamClass.CRITICAL:
            return None
        return HOUR_S / max(1.0, self.arrivals.frames_expected(HOUR_S))

    @property
    def backlog_policy(self) -> BacklogPolicy:
        return BacklogPolicy[self.backlog.partition(":")[0]]

    @property
    def backlog_frames(self) -> int:
        """The number that `StreamTerms` has: LATEST 1, ALL 0."""
        frames = self.backlog.partition(":")[2]
        return int(frames) if frames else int(self.backlog == "LATEST")


class LoadStep(Table):
    """A step of the load: from `at_s` on every stream but recorded traces sends `factor` times as often."""

    at_s: Seconds
    factor: Factor
