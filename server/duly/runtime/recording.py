"""A recording of the scheduler: every (now, event) that went in, and in short what came out, as JSON lines.

    {"duly_recording":1}
    [NOW_NS,"FramesArrived",{"frames":[{"seq":1,"stream_id":1,"frame_id":1,"model":"m/1","deadline_ns":50}]}]
    [["run",1,"cpu:0","m/1","fp32",[1]]]

The first line names the format. An event is one line with those fields of `core/events` that differ from their
defaults. The line after it has the actions that came of the event, if any:

    ["run", batch id, lane, model, variant, [seq of each frame]]     ["end", seq, status, batch id]
    ["warm", batch id, lane, model, variant]                         ["advise", stream id, advice, period_ns]

The recording starts with the server, as the scheduler does, so that a fresh scheduler acts alike on the same events.
"""

import json
from collections.abc import Iterator
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, BinaryIO, NamedTuple, assert_never, get_args

import structlog
from pydantic import AfterValidator, TypeAdapter, ValidationError

from duly.core.events import (
    Action,
    AdviseStream,
    BatchFinished,
    DispatchBatch,
    Event,
    FramesArrived,
    FramesCancelled,
    ModelGone,
    ModelReady,
    ResolveFrame,
    StreamOpened,
    WarmLane,
)
from duly.core.types import Frame, GapPolicy, StreamTerms

_log = structlog.get_logger("duly.recording")

FORMAT = 1
FLUSH_NS = 1_000_000_000
"""What was recorded longer ago than this survives a crash, as long as events come."""
BUFFER_BYTES = 1 << 18
"""This much is written at once: a quarter of a MiB goes to the page cache in well under a millisecond."""
LINE_BYTES_MAX = 1 << 24
"""The longest line that is read. No event takes more: 65,536 frames of one turn of the loop take 200 bytes each."""

_HEADER = "duly_recording"


def _described(kind: Any, lost: dict[str, Any]) -> Any:
    """Returns `kind`, a class of the core, as pydantic reads and writes it: a twin of it, which is never compiled.

    Pydantic can't make objects of a compiled class (`make core`), as they have no `__dict__` to fill in, so `kind` is
    called with what the twin was given. Pydantic does not see what the fields hold either: compiled annotations keep
    `list` of `list[Frame]` and `type` of `int | None`. `lost` gives the types that are lost so, by name of the field.
    """
    its_fields = [
        (each.name, lost.get(each.name, each.type), field(default=each.default, default_factory=each.default_factory))
        for each in fields(kind)
    ]
    twin = make_dataclass(kind.__name__, its_fields)
    return Annotated[twin, AfterValidator(lambda read: kind(**vars(read)))]


_LOST: dict[Any, dict[str, Any]] = {
    StreamOpened: {"terms": _described(StreamTerms, {"gap": GapPolicy | None})},
    FramesArrived: {"frames": GenericAlias(list, _described(Frame, {}))},
    FramesCancelled: {"frame_ids": tuple[int, ...]},
    BatchFinished: {"invalid": dict[int, str], "failed": dict[int, str], "finished_ns": int | None},
    ModelReady: {"samples_ns": dict[int, tuple[int, ...]]},
    ModelGone: {"lane": str | None},
}
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(_described(kind, _LOST.get(kind, {}))) for kind in get_args(Event)
}


class RecordingError(Exception):
    """A recording can't be read; the text names the line and what should be there."""


class Step(NamedTuple):
    """One call of the scheduler."""

    line: int
    """Line of the event in the file; the first line of a file is 1."""
    now_ns: int
    event: Event
    actions: list[list[Any]]
    """The actions in short, as recorded."""


class RecordingWriter:
    """The driver's Recorder. It writes a recording up to `bytes_max` and then stops with a line in the log, as it does
    when the disk is full. What was recorded until then is whole.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        """Replaces the file at `path` if there is one. Raises OSError."""
        self._path = path
        self._room = bytes_max
        self._file: BinaryIO | None = path.open("wb", BUFFER_BYTES)
        self._flushed_ns = 0
        self._write(json.dumps({_HEADER: FORMAT}).encode())
        self._flush(0)

    def event(self, now_ns: int, event: Event) -> None:
        if self._file is not None:
            name = type(event).__name__
            fields = _ADAPTERS[name].dump_json(event, exclude_defaults=True)
            self._write(b'[%d,"%s",%s]' % (now_ns, name.encode(), fields))
            if now_ns - self._flushed_ns >= FLUSH_NS:
                self._flush(now_ns)

    def actions(self, actions: list[Action]) -> None:
        if self._file is not None and actions:
            self._write(json.dumps(in_short(actions), separators=(",", ":")).encode())

    def close(self) -> None:
        """Writes what is left and closes the file."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:
                _log.error("recording is cut short", file=str(self._path), reason=error.strerror)

    def _write(self, line: bytes) -> None:
        if self._file is None:
            return
        self._room -= len(line) + 1
        if self._room < 0:
            _log.warning("recording stopped, it has its full size (record_bytes_max)", file=str(self._path))
            self.close()
            return
        try:
            self._file.write(line + b"\n")
        except OSError as error:
            self._stop(error)

    def _flush(self, now_ns: int) -> None:
        self._flushed_ns = now_ns
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                self._stop(error)

    def _stop(self, error: OSError) -> None:
        _log.error("recording stopped", file=str(self._path), reason=error.strerror)
        self.close()


def in_short(actions: list[Action]) -> list[list[Any]]:
    """Returns what a recording holds of these actions, which is enough to see where two runs differ."""
    short: list[list[Any]] = []
    for action in actions:
        match action:
            case DispatchBatch():
                seqs = [frame.seq for frame in action.frames]
                short.append(["run", action.batch_id, action.lane, action.model, action.variant, seqs])
            case WarmLane():
                short.append(["warm", action.batch_id, action.lane, action.model, action.variant])
            case ResolveFrame():
                short.append(["end", action.frame.seq, action.status.name, action.batch_id])
            case AdviseStream():
                short.append(["advise", action.stream_id, action.advice.name, action.period_ns])
            case _:
                assert_never(action)
    return short


def read_recording(path: Path) -> Iterator[Step]:
    """Yields the steps of a recording, in order. Raises RecordingError, also in the middle of it, and OSError.

    A last line that was cut off, as by a server that was killed, is left out, and so is an event without its actions at
    the very end.
    """
    with path.open("rb") as file:
        _check_header(path, file.readline(LINE_BYTES_MAX))
        pending: Step | None = None
        number = 1
        while line := file.readline(LINE_BYTES_MAX):
            number += 1
            if not line.endswith(b"\n"):
                if len(line) == LINE_BYTES_MAX:
                    raise RecordingError(f"{path}: line {number}: is longer than {LINE_BYTES_MAX:,} bytes")
                return
            values = _values(path, number, line)
            if isinstance(values[0], list):
                if pending is None:
                    raise RecordingError(f"{path}: line {number}: actions without an event before them")
                yield pending._replace(actions=values)
                pending = None
                continue
            if pending is not None:
                yield pending
            pending = _step(path, number, values)


def _check_header(path: Path, line: bytes) -> None:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or _HEADER not in header:
        raise RecordingError(f'{path}: is no recording: the first line should be {{"{_HEADER}": {FORMAT}}}')
    if header[_HEADER] != FORMAT:
        raise RecordingError(f"{path}: has format {header[_HEADER]!r}; this version of duly reads format {FORMAT}")


def _values(path: Path, number: int, line: bytes) -> list[Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path}: line {number}: is not JSON: {error}") from None
    if not isinstance(values, list) or not values:
        raise RecordingError(f"{path}: line {number}: should be [NOW_NS, EVENT, FIELDS] or a list of actions")
    return values


def _step(path: Path, number: int, values: list[Any]) -> Step:
    if len(values) != 3 or type(values[0]) is not int or not isinstance(values[1], str):
        raise RecordingError(f"{path}: line {number}: should be [NOW_NS, EVENT, FIELDS]")
    now_ns, name, fields = values
    adapter = _ADAPTERS.get(name)
    if adapter is None:
        raise RecordingError(f"{path}: line {number}: there is no event {name!r}; there are: {', '.join(_ADAPTERS)}")
    try:
        return Step(number, now_ns, adapter.validate_python(fields), [])
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = ".".join(map(str, detail["loc"])) or "fields"
        raise RecordingError(f"{path}: line {number}: {name}.{place}: {detail['msg']}") from None
