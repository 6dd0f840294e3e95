"""Writes a recording to a file, from a thread of its own, so that nothing waits for the file.

The event loop only puts lines into a queue. Where the file is too slow for them, such as a pipe that nobody reads, and
WAITING_BYTES_MAX wait already, events are left out until half of that is written, and a segment begins anew with the
state of the scheduler. The log and a metric count what is missing.
"""

import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from duly.core.events import Action, Event
from duly.runtime.recording_lines import actions_line, event_line, header_line
from duly.runtime.scheduler_state import state_of

_log = structlog.get_logger("duly.recording")

WAITING_BYTES_MAX = 8 << 20
"""This much may wait for the thread. What comes then is left out and counted."""
FLUSH_SECONDS = 0.2
"""What was recorded longer ago than this survives a crash of the server."""
CLOSE_SECONDS = 1.0
"""What waits at the end gets this long to be written."""


@dataclass(frozen=True, slots=True)
class _Begin:
    """A segment begins."""

    snapshot: bytes | None
    lost: int
    fresh: bool = False
    """Whether it begins with a fresh scheduler."""
    file: int | None = None
    """The file that everything is written to from here on; None: the same one."""


class RecordingWriter:
    """It writes up to `bytes_max` bytes to a file and then stops with a line in the log, as it does when the disk is
    full. What was recorded until then is whole.
    """

    def __init__(self, path: Path, bytes_max: int, snapshot: Callable[[], bytes | None] = lambda: None) -> None:
        """Replaces the file at `path` if there is one. `snapshot()` gives that of the scheduler. Raises OSError, also
        where `path` is a pipe that nobody reads yet.
        """
        self.lost = 0
        """The events that are missing in the recording."""
        self._path = path
        self._bytes_max = self._room = bytes_max
        self._snapshot = snapshot
        self._queue: deque[bytes | _Begin] = deque()
        self._put_bytes = 0
        self._taken_bytes = 0  # only the thread changes it
        self._missing = 0
        """Events that were left out since the last that was not."""
        self._closing = False
        self._stopped = False
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._file = _open(path)
        """Only the thread closes it, and another file may have its number from then on; -1: it is closed."""
        self._identity = _identity(os.fstat(self._file))
        self._put(_Begin(None, 0, fresh=True))
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    # ---- on the event loop ----

    def event(self, now_ns: int, event: Event) -> None:
        self.put_event(event_line(now_ns, event))

    def actions(self, actions: list[Action]) -> None:
        if actions:
            self.put_actions(actions_line(actions))

    def put_event(self, line: bytes) -> None:
        if self._stopped:
            return
        waiting = self._put_bytes - self._taken_bytes
        if self._missing:
            if waiting > WAITING_BYTES_MAX // 2:
                self._missing += 1
                self.lost += 1
                return
            _log.warning("recording goes on after a gap", file=str(self._path), events_lost=self._missing)
            self._put(_Begin(self._snapshot(), self._missing))
            self._missing = 0
        elif waiting > WAITING_BYTES_MAX:
            _log.warning("recording has a gap, its file is too slow", file=str(self._path))
            self._missing = 1
            self.lost += 1
            return
        self._put(line)

    def put_actions(self, line: bytes) -> None:
        if not self._missing and not self._stopped:
            self._put(line)

    def begin_anew(self) -> None:
        """A fresh scheduler has taken over."""
        if not self._missing and not self._stopped:
            self._put(_Begin(None, 0, fresh=True))

    def reopen(self) -> None:
        """Goes on in a new file, where the old one was moved or removed, as log rotation does. Raises OSError."""
        try:
            if _identity(os.stat(self._path)) == self._identity:
                return
        except FileNotFoundError:
            pass
        if not self._closing:
            file = _open(self._path)
            self._identity = _identity(os.fstat(file))
            with self._lock:
                ended = self._file < 0
                self._put(_Begin(self._snapshot(), 0, file=file))
            if ended:
                self._thread.join()
                self._stopped = False
                self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Writes what is left, for no longer than CLOSE_SECONDS, and closes the file. It may be called again."""
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            _log.error("recording is cut short, its file is too slow", file=str(self._path))

    def _put(self, item: bytes | _Begin) -> None:
        self._put_bytes += len(item) if isinstance(item, bytes) else len(item.snapshot or b"")
        self._queue.append(item)

    # ---- on the thread ----

    def _run(self) -> None:
        try:
            while not self._stopped:
                closing = self._closing  # looked at before the queue, so that nothing comes in between
                self._write_queue()
                if closing:
                    break
                self._wake.wait(FLUSH_SECONDS)
        except OSError as error:
            _log.error("recording stopped", file=str(self._path), reason=error.strerror)
        except Exception:
            _log.exception("recording stopped, it failed")
        finally:
            with self._lock:
                self._stopped = True
                dropped = [item.file for item in self._queue if isinstance(item, _Begin) and item.file is not None]
                self._queue.clear()
                self._taken_bytes = self._put_bytes
                for file in (self._file, *dropped):
                    if file >= 0:
                        os.close(file)
                self._file = -1

    def _write_queue(self) -> None:
        lines: list[bytes] = []
        while self._queue and not self._stopped:
            item = self._queue.popleft()
            if isinstance(item, _Begin):
                _write(self._file, b"".join(lines))
                lines.clear()
                if item.file is not None:
                    before, self._file, self._room = self._file, item.file, self._bytes_max
                    if before >= 0:
                        os.close(before)
                line, taken = _header(item), len(item.snapshot or b"")
            else:
                line, taken = item, len(item)
            self._taken_bytes += taken
            self._room -= len(line)
            if self._room < 0:
                _log.warning("recording stopped, it has its full size (record_bytes_max)", file=str(self._path))
                self._stopped = True
            else:
                lines.append(line)
        _write(self._file, b"".join(lines))


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _header(begin: _Begin) -> bytes:
    more = {"lost": begin.lost} if begin.lost else {}
    if begin.fresh:
        return header_line(**more)
    return header_line(state=state_of(begin.snapshot) if begin.snapshot is not None else None, **more)


def _open(path: Path) -> int:
    """Opens what is written to. Raises OSError; it never waits, as it would for the reader of a pipe."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        pipe = stat.S_ISFIFO(os.stat(path).st_mode)
        raise OSError(errno.ENXIO, "nobody reads this pipe yet" if pipe else "it is a socket, not a file") from None
    if stat.S_ISBLK(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is a disk, not a file")
    os.set_blocking(file, True)
    return file


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
