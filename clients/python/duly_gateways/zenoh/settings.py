"""What the gateway to Zenoh is told: how its session reaches others, and which key expressions feed which models."""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from duly_client.convert import DTYPES
from duly_client.types import BacklogPolicy, StreamClass
from duly_gateways.settings_file import SettingsError, Table

KEYS_MAX = 4096
"""How many keys of a bridge may have a stream each, at most."""
SAMPLE_BYTES_MAX = 64 << 20
"""No bridge takes larger samples than this."""
BRIDGES_MAX = 64
"""How many bridges one gateway to Zenoh may have."""

Form = Literal["json", "protobuf"]
Capture = Literal["receipt", "timestamp"]


@dataclass(frozen=True, slots=True)
class Bridge:
    """Samples of a key expression become frames for a model; each concrete key has a stream of its own."""

    subscribe: str
    model: str
    publish: str
    """Where outcomes go; `{key}` stands for the key of the sample."""
    errors: str
    """Where it is said what was wrong with a sample that became no frame; `{key}` as above."""
    form: Form
    """How outcomes are written."""
    capture: Capture
    """Whether a sample was captured when it came, or when its timestamp says; the latter is for one clock."""
    datatype: str
    """Of samples that are plain elements; empty: as the model takes them."""
    shape: tuple[int, ...]
    """Of these; empty: as the model takes them."""
    budget_ms: float
    """0: the model's own."""
    period_ms: float
    """0: not stated."""
    stream_class: StreamClass | None
    backlog: BacklogPolicy | None
    backlog_frames: int
    follow_advice: bool
    keys_max: int
    sample_bytes_max: int
    idle_s: float
    """A key from which nothing came for so long loses its stream; its next sample opens another one."""


@dataclass(frozen=True, slots=True)
class Settings:
    bridges: tuple[Bridge, ...]
    mode: str
    connect: tuple[str, ...]
    listen: tuple[str, ...]
    multicast: bool
    shared_memory: bool
    status: str
    """The key at which the gateway says how it does, to whoever asks; empty: nowhere."""
    config: str
    """A file with the whole configuration of the session, in place of what stands here; empty: none."""


def read_settings(table: Table) -> Settings:
    """Raises SettingsError."""
    zenoh = table.table("zenoh")
    settings = Settings(
        bridges=tuple(_bridge(each) for each in table.tables("bridge")),
        mode=zenoh.word("mode", "peer", ("peer", "client", "router")),
        connect=tuple(zenoh.list_of_texts("connect")),
        listen=tuple(zenoh.list_of_texts("listen")),
        multicast=zenoh.take("multicast", bool, True),
        shared_memory=zenoh.take("shared_memory", bool, True),
        status=zenoh.take("status", str, "duly/zenoh/status"),
        config=zenoh.take("config", str, ""),
    )
    zenoh.finish()
    table.finish()
    if not 0 < len(settings.bridges) <= BRIDGES_MAX:
        raise SettingsError(
            f"bridge: there should be 1 to {BRIDGES_MAX} tables [[bridge]], got {len(settings.bridges)}"
        )
    return settings


def _bridge(table: Table) -> Bridge:
    publish = table.take("publish", str, "{key}/outcome")
    stream_class = table.word("class", "", ("", *get_args(StreamClass)))
    backlog = table.word("backlog", "", ("", *get_args(BacklogPolicy)))
    shape = table.take("shape", list, [])
    if len(shape) > 8 or not all(type(extent) is int and extent > 0 for extent in shape):
        raise SettingsError(f"{table.spelled('shape')}: should be a list of at most 8 whole numbers, got {shape!r}")
    bridge = Bridge(
        subscribe=table.take("subscribe", str),
        model=table.take("model", str),
        publish=publish,
        errors=table.take("errors", str, f"{publish}/error"),
        form=cast(Form, table.word("form", "json", get_args(Form))),
        capture=cast(Capture, table.word("capture", "receipt", get_args(Capture))),
        datatype=table.word("datatype", "", ("", *DTYPES)),
        shape=tuple(shape),
        budget_ms=table.number("budget_ms", 0.0, 0.0, 600_000.0),
        period_ms=table.number("period_ms", 0.0, 0.0, 600_000.0),
        stream_class=cast(StreamClass, stream_class) if stream_class else None,
        backlog=cast(BacklogPolicy, backlog) if backlog else None,
        backlog_frames=table.whole("backlog_frames", 0, 0, 4096),
        follow_advice=table.take("follow_advice", bool, False),
        keys_max=table.whole("keys_max", 16, 1, KEYS_MAX),
        sample_bytes_max=table.whole("sample_bytes_max", 16 << 20, 1, SAMPLE_BYTES_MAX),
        idle_s=table.number("idle_s", 30.0, 0.1, 86_400.0),
    )
    table.finish()
    return bridge
