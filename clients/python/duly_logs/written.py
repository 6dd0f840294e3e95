"""Reads what `OutcomeLog` has written: the outcomes of a replay, and the pictures that they are of."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duly_client.convert import Array
from duly_logs.detections import Detection
from duly_logs.log import Log, LogError
from duly_logs.mcap_file import metadata_of, open_mcap
from duly_logs.messages import COMPRESSED, RAW, Decoder, picture_of
from duly_logs.outcome_log import ABOUT
from duly_logs.schemas import OUTCOME

OUTCOMES_MAX = 1 << 20
"""The most outcomes that are read of one log."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one frame. Times in ms are those of `docs/replay.md`."""

    frame: int
    time_ns: int
    status: str
    latency_ms: float
    slack_ms: float
    age_ms: float
    version: str
    variant: str
    reason: str
    detections: tuple[Detection, ...]
    outputs: dict[str, Array]

    @property
    def ok(self) -> bool:
        return self.status in ("ON_TIME", "LATE")


@dataclass(frozen=True, slots=True)
class Written:
    """A log of outcomes."""

    log: Log
    about: dict[str, str]
    """What was run and how, as `OutcomeLog` was told."""
    rows: dict[int, Row]
    """By frame, in their order."""

    @property
    def name(self) -> str:
        return self.log.path.name

    def pictures(self, times_ns: Collection[int]) -> dict[int, bytes | Array]:
        """The pictures that were logged at these times, by time; those that are none are left out."""
        found: dict[int, bytes | Array] = {}
        decoder = Decoder()
        drawn = f"/duly/{self.about.get('model', '')}/pictures"
        topics = [self.about.get("topic", ""), f"/duly/{self.about.get('model', '')}/frames"]
        for topic, channels in self.log.topics.items():
            if topic in topics and topic != drawn and channels[0].schema in COMPRESSED | RAW:
                for logged in self.log.messages(topic):
                    if logged.time_ns in times_ns and logged.time_ns not in found:
                        picture = picture_of(decoder.decode(logged.channel, logged.data))
                        if picture is not None:
                            found[logged.time_ns] = picture
        return found


def read_written(path: Path) -> Written:
    """Reads a log of outcomes. Raises LogError where it is none, and OSError."""
    log = open_mcap(path)
    topics = [channel.topic for channel in log.channels if channel.schema == OUTCOME]
    if not topics:
        raise LogError(
            f"{path}: has no outcomes ({OUTCOME}); `duly replay --write` and `duly stream --record` write them"
        )
    if len(topics) > 1:
        raise LogError(f"{path}: outcomes of several models: {', '.join(topics)}; only one can be compared")
    decoder = Decoder()
    rows: dict[int, Row] = {}
    for logged in log.messages(topics[0]):
        if len(rows) == OUTCOMES_MAX:
            raise LogError(f"{path}: more than {OUTCOMES_MAX} outcomes")
        try:
            row = _row(logged.time_ns, decoder.decode(logged.channel, logged.data).fields)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise LogError(f"{path}: an outcome on {topics[0]} is no {OUTCOME} ({error})") from error
        rows[row.frame] = row
    return Written(log, metadata_of(path, ABOUT), dict(sorted(rows.items())))


def _row(time_ns: int, fields: Any) -> Row:
    """What a message says, in the types that pages are made of, whatever schema the log itself has for it."""
    return Row(
        frame=int(fields["frame"]),
        time_ns=time_ns,
        status=str(fields["status"]),
        latency_ms=float(fields["latency_ms"]),
        slack_ms=float(fields["slack_ms"]),
        age_ms=float(fields["age_ms"]),
        version=str(fields["version"]),
        variant=str(fields["variant"]),
        reason=str(fields["reason"]),
        detections=tuple(
            Detection(str(d.label), *map(float, (d.score, d.x0, d.y0, d.x1, d.y1))) for d in fields["detections"]
        ),
        outputs={
            str(output.name): np.array(output.values, np.float64).reshape(tuple(output.shape))
            for output in fields["outputs"]
            if len(output.values) == np.prod(output.shape)
        },
    )
