"""Keeps the newest part of what the scheduler was told and did, in memory, and writes it down when something happens.

It is always on. The recording is a ring of SEGMENTS_MAX segments of SEGMENT_BYTES, 8 MiB in all, which is about the
last 30,000 frames. All of it is taken at the start, so that the server does not grow while it runs. Each segment begins
with the state of the scheduler, so that what is written down replays (`duly-sim replay`). Taking that state holds up
the event loop, by about 10 µs for each open stream: where more than SNAPSHOT_STREAMS_MAX are open it is left out, and
what begins then can be read, but not replayed.

It is written down when somebody asks (SIGUSR1, DumpRecording), and on an incident: the scheduler failed, a worker ended
unasked, or a CRITICAL stream missed MISSES frames in a row. Incidents within INCIDENT_NS are one, and FILES_MAX files
are kept.
"""

import asyncio
import contextlib
import io
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from duly.core.events import (
    Action,
    BatchFinished,
    Event,
    FramesArrived,
    ModelGone,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
    TimerFired,
)
from duly.core.scheduler import Scheduler
from duly.core.types import OutcomeStatus, StreamClass, pieces_of
from duly.runtime.recording_file import RecordingWriter
from duly.runtime.recording_lines import actions_line, event_line, header_line
from duly.runtime.scheduler_state import snapshot, state_of

_log = structlog.get_logger("duly.recording")

SEGMENT_BYTES = 1 << 20
SEGMENTS_MAX = 8
"""The recorder keeps so many segments; a new one takes the place of the oldest."""
SNAPSHOT_STREAMS_MAX = 128
"""With more open streams segments do not begin with a snapshot, which would hold up the event loop."""
MISSES = 10
INCIDENT_NS = 10_000_000_000
FILES_MAX = 16
"""A folder keeps so many dumps; a new one takes the place of the oldest."""
_NAME = "duly-flight-"
_OFTEN = frozenset((FramesArrived, BatchFinished, TimerFired))
_MISSED = frozenset((OutcomeStatus.LATE, OutcomeStatus.EXPIRED, OutcomeStatus.SHED, OutcomeStatus.FAILED))


class DumpError(Exception):
    """The recording cannot be written down now; the text says why."""


@dataclass(slots=True)
class _Segment:
    snapshot: bytes | None
    fresh: bool
    """Whether it begins with a fresh scheduler, so that no state is needed."""
    lines: io.BytesIO
    """What was written lies before the position."""

    def written(self) -> memoryview:
        """What was written, as it is now: the file has its bytes copied where it goes on while they are in use."""
        return memoryview(self.lines.getvalue())[: self.lines.tell()]


@dataclass(frozen=True, slots=True)
class _Written:
    """A segment that does not change any more."""

    snapshot: bytes | None
    fresh: bool
    lines: memoryview


def _room() -> io.BytesIO:
    """Returns an empty file in memory that has the memory of a segment."""
    return io.BytesIO(b"\n" * SEGMENT_BYTES)  # zeros would be memory on paper only


class FlightRecorder:
    """The driver's Recorder. It also passes everything on to the recording of `--record`, so that each line is made
    once.
    """

    def __init__(
        self, scheduler: Callable[[], Scheduler], folder: Path | None = None, file: RecordingWriter | None = None
    ) -> None:
        """`folder`: where incidents are written down; None: they are not, and what somebody asks for goes to the
        system's folder for temporary files.
        """
        self._scheduler = scheduler
        self._folder = folder
        self._file = file
        self._rooms = [_room() for _ in range(SEGMENTS_MAX)]
        """Those that were not needed so far."""
        self._segments: deque[_Segment] = deque()
        self._begin(None, fresh=True)
        self._streams = 0
        self._misses: dict[int, int] = {}
        """How many frames of each CRITICAL stream in a row were missed."""
        self._now_ns = 0
        self._incident_ns: int | None = None
        self._writing = threading.Lock()
        self._closed = False

    def event(self, now_ns: int, event: Event) -> None:
        segment = self._segments[-1]
        if segment.lines.tell() >= SEGMENT_BYTES:
            segment = self._begin(self._snapshot(), fresh=False)
        line = event_line(now_ns, event)
        segment.lines.write(line)
        self._now_ns = now_ns
        if self._file is not None:
            self._file.put_event(line)
        if type(event) in _OFTEN:
            return
        match event:
            case StreamOpened():
                self._streams += 1
                if event.terms.stream_class is StreamClass.CRITICAL:
                    self._misses[event.stream_id] = 0  # frames of fusion groups count for each of their streams
            case StreamClosed():
                self._streams -= 1
                self._misses.pop(event.stream_id, None)
            case ModelGone(lane=str()):
                self._incident("worker-ended")
            case _:
                pass

    def actions(self, actions: list[Action]) -> None:
        if not actions:
            return
        line = actions_line(actions)
        self._segments[-1].lines.write(line)
        if self._file is not None:
            self._file.put_actions(line)
        if self._misses:
            self._count_misses(actions)

    def failed(self) -> None:
        self._incident("scheduler-failed")

    def begin_anew(self) -> None:
        self._begin(None, fresh=True)
        self._streams = 0
        self._misses.clear()
        if self._file is not None:
            self._file.begin_anew()

    @property
    def lost(self) -> int:
        """The events that are missing in the recording of `--record`."""
        return self._file.lost if self._file is not None else 0

    async def reopen(self) -> None:
        """Goes on in a new file of `--record`, where the old one was moved. Raises OSError."""
        if self._file is not None:
            self._file.reopen()

    def close(self) -> None:
        self._closed = True
        if self._file is not None:
            self._file.close()

    async def dump(self) -> str:
        """Writes down what there is, as somebody asks. Returns the name of the file, with the folder only in the log.
        Raises DumpError.
        """
        folder = self._folder or Path(tempfile.gettempdir())
        if not self._writing.acquire(blocking=False):
            raise DumpError("a flight recording is being written already")
        segments = self._copy()
        try:
            return await asyncio.shield(asyncio.to_thread(self._write, folder, "asked", segments))
        except OSError as error:
            raise DumpError(f"the flight recording cannot be written: {error.strerror}") from None

    def _begin(self, snapshot: bytes | None, *, fresh: bool) -> _Segment:
        """Begins a segment, in the place of the oldest one where there are SEGMENTS_MAX."""
        room = self._rooms.pop() if self._rooms else self._segments.popleft().lines
        room.truncate(SEGMENT_BYTES)  # one event may have made it far larger
        room.seek(0)
        segment = _Segment(snapshot, fresh, room)
        self._segments.append(segment)
        return segment

    def _snapshot(self) -> bytes | None:
        return snapshot(self._scheduler()) if self._streams <= SNAPSHOT_STREAMS_MAX else None

    def _count_misses(self, actions: list[Action]) -> None:
        misses = self._misses
        for action in actions:
            if isinstance(action, ResolveFrame):
                for piece in pieces_of(action.frame):
                    stream_id = piece.stream_id
                    if stream_id in misses:
                        misses[stream_id] = misses[stream_id] + 1 if action.status in _MISSED else 0
                        if misses[stream_id] == MISSES:
                            self._incident("critical-missed")

    def _incident(self, why: str) -> None:
        if self._folder is None or self._closed:
            return
        if self._incident_ns is not None and self._now_ns - self._incident_ns < INCIDENT_NS:
            return
        if not self._writing.acquire(blocking=False):
            return
        self._incident_ns = self._now_ns
        threading.Thread(
            target=self._write_incident, args=(self._folder, why, self._copy()), name="flight recording", daemon=True
        ).start()

    def _copy(self) -> list[_Written]:
        return [_Written(segment.snapshot, segment.fresh, segment.written()) for segment in self._segments]

    # ---- on a thread ----

    def _write_incident(self, folder: Path, why: str, segments: list[_Written]) -> None:
        try:
            self._write(folder, why, segments)
        except OSError as error:
            _log.error("flight recording not written", folder=str(folder), why=why, reason=error.strerror)

    def _write(self, folder: Path, why: str, segments: list[_Written]) -> str:
        """Writes a file whole or not at all. Raises OSError."""
        try:
            name = f"{_NAME}{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{why}.jsonl"
            unfinished = folder / f".{name}"
            try:
                # It must be new, because others may write to the folder, too.
                with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    for part in _parts(segments):
                        file.write(part)
                unfinished.rename(folder / name)
            except OSError:
                unfinished.unlink(missing_ok=True)
                raise
            _log.warning("flight recording written", file=str(folder / name), why=why)
            _forget_old(folder)
            return name
        finally:
            self._writing.release()


def _parts(segments: list[_Written]) -> Iterator[bytes | memoryview]:
    """Gives what is written of the segments. They follow one another, so that one state is enough for all."""
    replays = False
    for number, segment in enumerate(segments):
        if segment.fresh:
            replays = True
            yield header_line()
        elif not replays and segment.snapshot is not None:
            replays = True
            yield header_line(state=state_of(segment.snapshot))
        elif number == 0:
            yield header_line(state=None)
        yield segment.lines


def _forget_old(folder: Path) -> None:
    for old in sorted(folder.glob(f"{_NAME}*.jsonl"))[:-FILES_MAX]:
        with contextlib.suppress(OSError):
            old.unlink()
