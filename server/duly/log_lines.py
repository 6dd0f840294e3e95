"""Writes the lines of the log so that nobody waits for them, wherever standard error leads.

Whoever logs hands a line to a thread and goes on. That thread alone may have to wait: for a disk that is slow, a
network that is gone, a terminal that was stopped with Ctrl-S. What it cannot take meanwhile, beyond WAITING_BYTES_MAX,
is lost, and so is what a pipe has no room for; the next line that gets through says how many lines were.

`not_blocking` is for what else writes to standard error, such as the libraries in C.
"""

import contextlib
import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Protocol, TextIO

from structlog.types import EventDict, WrappedLogger

PIECE_CHARS = 1024
"""Lines are written in pieces. A pipe that is ready takes 4096 bytes (pipe(7)), no less than a piece."""
WAITING_BYTES_MAX = 1 << 20
"""This much may wait for the thread. Further lines are lost and counted."""
FLUSH_SECONDS = 1.0
"""What waits at the end of the process gets this long to be written."""


class _Out(Protocol):
    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...

    def fileno(self) -> int: ...


class Lines:
    """Writes the lines that structlog made, at once. A log that nobody reads must not end the server: errors are
    ignored, and lines that could not be written are counted.
    """

    def __init__(self, out: _Out) -> None:
        self._out = out
        self._cut = False  # the last line has no end
        self.lost = 0
        """Lines that were lost and of which no line has told yet."""
        self.lost_total = 0
        self._counting = threading.Lock()

    def note_lost(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """A structlog processor that says how many lines before this one were lost."""
        if self.lost:
            event["lines_lost"] = self.lost
        return event

    def msg(self, line: str) -> None:
        self.write(line, self.lost)

    debug = info = warning = error = critical = msg

    def write(self, line: str, told: int) -> None:
        """Writes the line, which says that `told` lines before it were lost."""
        text = f"\n{line}\n" if self._cut else f"{line}\n"
        try:
            for start in range(0, len(text), PIECE_CHARS):
                if not _has_room(self._out):
                    raise BlockingIOError
                self._out.write(text[start : start + PIECE_CHARS])
                self._out.flush()
                self._cut = start + PIECE_CHARS < len(text)
        except (OSError, ValueError):  # ValueError: closed
            self.lose()
        else:
            with self._counting:
                self.lost -= told

    def flush(self) -> None:
        """Returns when every line is written or lost, or after FLUSH_SECONDS."""

    def lose(self) -> None:
        with self._counting:
            self.lost += 1
            self.lost_total += 1


class LinesFromThread(Lines):
    """The same, on a thread of its own. Whoever logs never waits."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(_Raw(descriptor))
        self._waiting: deque[tuple[str, int]] = deque()
        self._waiting_bytes = 0
        self._told = 0
        """Lost lines of which a line that waits tells."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def note_lost(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if self.lost > self._told:
            event["lines_lost"] = self.lost - self._told
        return event

    def msg(self, line: str) -> None:
        with self._changed:
            if self._waiting_bytes + len(line) > WAITING_BYTES_MAX:
                self.lose()
                return
            told = self.lost - self._told
            self._told += told
            self._waiting.append((line, told))
            self._waiting_bytes += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    debug = info = warning = error = critical = msg

    def flush(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, FLUSH_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                line, told = self._waiting[0]
            self.write(line, told)
            with self._changed:
                self._told -= told
                self._waiting.popleft()
                self._waiting_bytes -= len(line)
                self._changed.notify_all()


class _Raw:
    """A descriptor without a buffer or a lock, so that a thread that waits for it holds up nothing else, not even the
    end of the process.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        return self._descriptor


def _has_room(out: _Out) -> bool:
    """Returns whether a piece of a line can be written without waiting, as far as can be known."""
    try:
        ready = select.poll()
        ready.register(out.fileno(), select.POLLOUT)
        return bool(ready.poll(0))
    except OSError:  # it is no file, such as text in memory
        return True


def descriptor_of(out: TextIO) -> int | None:
    """Returns what `out` writes to; None where that is no file, such as text in memory."""
    try:
        return out.fileno()
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def not_blocking(descriptor: int = 2) -> Iterator[None]:
    """Within it, writing to a pipe or a terminal as `descriptor` fails where it would have to wait. It is opened anew
    for that, because its description is shared with whoever started this process, who would be surprised. Sockets and
    pipes of other users cannot be opened, and stay as they are.
    """
    try:
        before = os.dup(descriptor)
    except OSError:  # it is closed
        yield
        return
    try:
        if _may_wait(descriptor):
            with contextlib.suppress(OSError):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_APPEND
                anew = os.open(f"/proc/self/fd/{descriptor}", flags)
                os.dup2(anew, descriptor)
                os.close(anew)
        yield
    finally:
        if descriptor == 2:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
        os.dup2(before, descriptor)
        os.close(before)


def _may_wait(descriptor: int) -> bool:
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor)
