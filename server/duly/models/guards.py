"""Input guards: what a frame must show before its result is to be trusted. `[[guard]]` of model.toml.

A guard looks at what clients send, after it is decoded and before it is preprocessed: a picture is [height, width,
channels] in its own depth, sound lies between -1 and 1. What it finds becomes a flag of the frame's outcome, or makes
the frame INVALID with words that say what was found and what is allowed.
"""

import re
from collections.abc import Iterable
from math import isnan
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from duly.models.strict import Strict

GUARDS_MAX = 16
"""A model with more guards is not loaded: a frame's flags are a number of 16 bits on their way from a worker."""
NAME_CHARS_MAX = 32
"""No guard has a longer name."""
REPEATS_MAX = 1_000_000
"""No guard lets frames repeat more often."""

_NAME = re.compile(rf"[a-z][a-z0-9_-]{{0,{NAME_CHARS_MAX - 1}}}")
_Number = Annotated[float, Field(allow_inf_nan=False)]


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"guard: {name[:NAME_CHARS_MAX]!r} is no name; take up to {NAME_CHARS_MAX} small letters, digits, _ and -, "
            "a letter first"
        )
    return name


GuardName = Annotated[str, AfterValidator(_checked)]


class _Guard(Strict):
    name: GuardName | None = None
    """What outcomes are flagged with: small letters, digits, `_` and `-`. None: the kind in small letters."""
    action: Literal["FLAG", "INVALID"] = "FLAG"
    """What becomes of a frame on which the guard finds something: its outcome carries the guard's name (FLAG), or is
    INVALID and carries it."""


class _InputGuard(_Guard):
    input: str = ""
    """The input that it looks at, by the name that clients know; empty: the only one."""


class Range(_InputGuard):
    """Some element lies below `min` or above `max`, or is NaN. At least one of the two is stated."""

    kind: Literal["RANGE"]
    min: _Number | None = None
    max: _Number | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Range":
        if self.min is None and self.max is None:
            raise ValueError("guard: RANGE needs min, max, or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"guard: RANGE has min = {self.min:g} above max = {self.max:g}; turn them round")
        return self


class Finite(_InputGuard):
    """Some element is NaN or infinite. It is for inputs with `finite = false`: others are INVALID anyway."""

    kind: Literal["FINITE"]


class Blank(_InputGuard):
    """There is nothing on it: the elements of every channel have a standard deviation of `spread_max` or less, as with
    a lens cap or a microphone that is off."""

    kind: Literal["BLANK"]
    spread_max: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """In the unit of the elements. None: 2 where clients send UINT8, else 0, where all elements are equal."""


class Saturated(_InputGuard):
    """More than `share_max` of the elements lie at one of the ends of what the sensor can say."""

    kind: Literal["SATURATED"]
    low: _Number | None = None
    high: _Number | None = None
    """Elements that are not above `low` or not below `high` count. None: the ends of the element type, of sound -1 and
    1; at least one of the two must be stated for other floating point, and the other end is open then."""
    share_max: Annotated[float, Field(ge=0, lt=1)] = 0.5

    @model_validator(mode="after")
    def _consistent(self) -> "Saturated":
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(
                f"guard: SATURATED has low = {self.low:g}, not below high = {self.high:g}; turn them round"
            )
        return self


class Frozen(_InputGuard):
    """The frame and those of its stream before it are the same, bit for bit: of video its pictures, of all else what
    the client sent."""

    kind: Literal["FROZEN"]
    repeats_max: Annotated[int, Field(ge=0, le=REPEATS_MAX)] = 1
    """So many times in a row a frame may be the same as the one of its stream that ran before it."""


class Distribution(_Guard):
    """The frame is not like those that the model was fitted to, as a detector says that is part of the graph
    (`duly models optimize` fits one): an output of one number or a few for each frame, of which the largest counts.
    Clients do not get this output."""

    kind: Literal["DISTRIBUTION"]
    output: str
    """The graph output with the detector's score."""
    max: _Number = 1.0
    """The largest score that passes. What `duly models optimize` fits gives 1 at the threshold it has set."""


InputGuard = Range | Finite | Blank | Saturated | Frozen
Guard = InputGuard | Distribution


def kind_of(guard: type[Guard]) -> str:
    """The kind of a guard in model.toml, such as "BLANK"."""
    return str(get_args(guard.model_fields["kind"].annotation)[0])


def name_of(guard: Guard) -> str:
    """What outcomes are flagged with."""
    return guard.name or guard.kind.lower()


def score_outputs(guards: Iterable[Guard]) -> set[str]:
    """The graph outputs that are the scores of detectors, which clients do not get."""
    return {guard.output for guard in guards if isinstance(guard, Distribution)}


def _consistent(guards: tuple[Guard, ...]) -> tuple[Guard, ...]:
    if len(guards) > GUARDS_MAX:
        raise ValueError(f"guard: at most {GUARDS_MAX} are taken, got {len(guards)}")
    names: dict[str, int] = {}
    for index, guard in enumerate(guards):
        name = name_of(guard)
        if name in names:
            raise ValueError(
                f"guard[{index}].name: '{name}' is what guard[{names[name]}] is called already; give it another one, "
                f'such as name = "{name}-{index}"'
            )
        names[name] = index
    return guards


Guards = Annotated[
    tuple[Annotated[Guard, Field(discriminator="kind")], ...],
    AfterValidator(_consistent),
]
"""All guards of a model."""


def number(value: float) -> str:
    """A number in words for people, which may be NaN."""
    return "NaN" if isnan(value) else f"{value:.6g}"
