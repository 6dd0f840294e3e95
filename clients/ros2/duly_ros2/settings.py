"""What the node is told: a server, and its streams. It comes from a YAML file, from parameters, or from both; every
mistake is named with its place and with what would be right.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from duly_ros2.qos import Qos
from duly_ros2.samples import TYPES

STREAMS_MAX = 64
"""Streams that one node has."""
INPUTS_MAX = 8
"""Topics that one stream joins."""


class SettingsError(ValueError):
    """A setting is wrong; says which, what it is and what would be right."""


@dataclass(frozen=True, slots=True)
class Input:
    """A topic that frames, or one input of each frame, come from."""

    topic: str
    type: str
    """One of `samples.TYPES`, or its last part alone."""
    qos: Qos = field(default_factory=Qos)
    fields: tuple[str, ...] = ()
    """Which values of a point cloud, a scan or an IMU make up the array; empty: as the type says."""


@dataclass(frozen=True, slots=True)
class Join:
    """How the inputs of several topics are joined."""

    tolerance_ms: float = 50.0
    """The stamps of messages that belong together lie no further apart."""
    queue: int = 10
    """Messages of each topic that wait for their partners."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes as vision_msgs/Detection2DArray."""

    topic: str
    boxes: str = "boxes"
    """Name of the output [n, 4]: the left, upper, right and lower end of each box."""
    scores: str = "scores"
    classes: str = "classes"
    units: Literal["picture", "pixels"] = "picture"
    """Whether boxes are in parts of the picture, 0 to 1, or in pixels."""


@dataclass(frozen=True, slots=True)
class Classification:
    """Scores of classes as vision_msgs/Classification."""

    topic: str
    output: str = ""
    """Name of the output; empty: the model's only one."""
    best: int = 5
    """How many classes are published, the best first."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """All outputs as duly_msgs/Tensors."""

    topic: str


@dataclass(frozen=True, slots=True)
class Publish:
    """What of results is published; outcomes always are."""

    detections: Detections | None = None
    classification: Classification | None = None
    tensors: Tensors | None = None


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """One stream: the topics that it is fed from, its terms, and where its results go."""

    name: str
    model: str
    inputs: Mapping[str, Input]
    """Topics by the name of the model's input; "": the model's only one."""
    join: Join = field(default_factory=Join)
    publish: Publish = field(default_factory=Publish)
    version: str = ""
    stream_class: Literal["CRITICAL", "STANDARD", "BEST_EFFORT", ""] = ""
    budget_ms: float | None = None
    """None: the deadline of the first topic, else the model's default."""
    period_ms: float | None = None
    """Time between two frames. A stream that states it is let in only if it fits."""
    ordering: Literal["ARRIVAL", "UNORDERED", "MONOTONIC", ""] = ""
    follow_advice: bool = False
    """The node sends no more than an overloaded server says it can serve, and answers the rest as SUPERSEDED."""
    stamps: Literal["header", "receipt"] = "header"
    """When a frame was captured: at its header's stamp, or when its message came, as for recordings that are played."""

    @property
    def budget(self) -> float | None:
        """The budget to ask for, ms."""
        return self.first.qos.deadline_ms if self.budget_ms is None else self.budget_ms

    @property
    def first(self) -> Input:
        """The input that results are published in the name of."""
        return next(iter(self.inputs.values()))


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the node is told."""

    server: str
    streams: tuple[StreamSettings, ...]
    token_file: str = ""
    ca_file: str = ""
    """Certificates to trust; not empty: TLS."""
    cert_file: str = ""
    key_file: str = ""
    future_ms: float = 50.0
    """A stamp that is further ahead of the node's clock is taken for wrong, and the frame as captured on receipt."""
    open_timeout_s: float = 5.0
    """How long a stream may take to open while the node is configured."""
    autostart: bool = True
    """The node configures and activates itself, and does so again until it succeeds."""


_RENAMED = {"class": "stream_class"}
"""Keys whose names Python does not allow."""


def settings_of(told: Mapping[str, Any]) -> Settings:
    """Makes settings of what a file or parameters say. Raises SettingsError."""
    told = dict(told)
    if told.get("streams") is None:
        raise SettingsError("streams: none are stated; --config FILE or parameters say which, see docs/ros2.md")
    streams = _mapping("streams", told.pop("streams"))
    if not 1 <= len(streams) <= STREAMS_MAX:
        raise SettingsError(
            f"streams: {len(streams)} are stated; expected 1 to {STREAMS_MAX}, each with model and topic"
        )
    made = tuple(_stream(name, _mapping(f"streams.{name}", stream)) for name, stream in streams.items())
    told.setdefault("server", "127.0.0.1:8500")
    settings: Settings = _made(Settings, told, "", streams=made)
    return settings


def _stream(name: str, told: dict[str, Any]) -> StreamSettings:
    place = f"streams.{name}"
    one = {key: told.pop(key) for key in ("topic", "type", "qos", "fields") if key in told}
    if "inputs" in told:
        if one:
            raise SettingsError(f"{place}: states inputs and {', '.join(one)}; expected one of them")
        several = _mapping(f"{place}.inputs", told.pop("inputs"))
    else:
        several = {"": one}
    if not 1 <= len(several) <= INPUTS_MAX:
        raise SettingsError(f"{place}.inputs: {len(several)} are stated; expected 1 to {INPUTS_MAX}")
    inputs = {}
    for key, value in several.items():
        at = f"{place}.inputs.{key}" if key else place
        source = _made(Input, _mapping(at, value), at)
        inputs[key] = dataclasses.replace(source, type=_type(f"{at}.type", source.type))
    made: StreamSettings = _made(StreamSettings, told, place, name=name, inputs=inputs)
    for key, number in (
        ("budget_ms", made.budget_ms),
        ("period_ms", made.period_ms),
        ("join.tolerance_ms", made.join.tolerance_ms),
    ):
        if number is not None and number < 0:
            raise SettingsError(f"{place}.{key}: is {number}; expected 0 or more")
    return made


def _type(place: str, name: str) -> str:
    full = name.replace("/msg/", "/")
    found = next((known for known in TYPES if full in (known.replace("/msg/", "/"), known.rpartition("/")[2])), None)
    if found is None:
        raise SettingsError(f"{place}: {name!r} is none that the node reads; expected one of {', '.join(TYPES)}")
    return found


def _mapping(place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{place}: is {value!r}; expected settings by name")
    return {str(key): each for key, each in value.items()}


def _made(kind: type, told: dict[str, Any], place: str, **given: Any) -> Any:
    """Makes the dataclass `kind` of what is told, and `given` as it is."""
    hints = typing.get_type_hints(kind)
    values = dict(given)
    for told_key, value in told.items():
        key = _RENAMED.get(told_key, told_key)
        at = f"{place}.{told_key}" if place else told_key
        if key not in hints or key in given:
            allowed = [name for name in hints if name not in given]
            close = difflib.get_close_matches(key, allowed, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(allowed)}"
            raise SettingsError(f"{at}: there is no such setting{hint}")
        values[key] = _value(hints[key], value, at)
    for each in dataclasses.fields(kind):
        required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if required and values.get(each.name, "") == "":
            raise SettingsError(f"{place + '.' if place else ''}{each.name}: is not stated")
    return kind(**values)


def _value(hint: Any, value: Any, place: str) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
        if value is None:
            return None
    if dataclasses.is_dataclass(hint):
        if isinstance(value, str) and "topic" in typing.get_type_hints(hint):
            value = {"topic": value}
        return _made(typing.cast(type, hint), _mapping(place, value), place)
    origin = typing.get_origin(hint)
    if origin is Literal:
        allowed = typing.get_args(hint)
        matched = next((each for each in allowed if each and each.lower() == str(value).lower()), None)
        if matched is None:
            raise SettingsError(f"{place}: is {value!r}; expected one of {', '.join(filter(None, allowed))}")
        return matched
    if origin is tuple:
        if isinstance(value, str) or not all(isinstance(each, str) for each in value):
            raise SettingsError(f"{place}: is {value!r}; expected a list of names")
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool) and value < 1:
        raise SettingsError(f"{place}: is {value}; expected 1 or more")
    if type(value) is not hint:
        words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
        raise SettingsError(f"{place}: is {value!r}; expected {words[hint]}")
    return value


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Makes settings of parameters, whose names have their place in them: streams.front.model. Raises SettingsError."""
    made: dict[str, Any] = {}
    for name, value in dotted.items():
        at = made
        *above, last = name.split(".")
        for part in above:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise SettingsError(f"{name}: {part} is stated as a value, too")
        at[last] = value
    return made


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings `below`, with those `above` in their place where both state one."""
    made = dict(below)
    for key, value in above.items():
        beneath = made.get(key)
        made[key] = merged(beneath, value) if isinstance(beneath, Mapping) and isinstance(value, Mapping) else value
    return made


def of_file(content: Any) -> dict[str, Any]:
    """Returns the settings in the content of a YAML file: these alone, or as ROS writes parameters, beneath the node's
    name and `ros__parameters`. Raises SettingsError.
    """
    told = _mapping("the file", content if content is not None else {})
    for value in told.values():
        if isinstance(value, Mapping) and "ros__parameters" in value:
            return _mapping("ros__parameters", value["ros__parameters"])
    return told
