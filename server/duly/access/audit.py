"""The audit log: who did what to the server, and who was refused what. One line each, to the logger `duly.audit`, and
to a file of its own where one is set.

Every admin act is written to the file. Refusals are bounded, as anybody may cause them: a few a second of each kind and
address, and `REFUSALS_A_SECOND_MAX` of all; the first line after those says how many were not written. Tokens never
are.
"""

import json
import os
import stat
import threading
import time
from collections import Counter, deque
from pathlib import Path

import structlog

from duly.access.errors import AccessError

REFUSALS_A_SECOND_MAX = 100
"""So many refusals a second are noted in all; the next line says how many were not."""
REFUSALS_OF_A_KIND_MAX = 5
"""So many refusals a second are noted of one caller and act; the next line says how many were not."""
LINES_WAITING_MAX = 4096
"""Lines that may wait for a slow disk. Further ones go to the logger alone, and the next line says how many."""
WORDS_CHARS_MAX = 200
"""Longer words of callers are cut off."""
CLOSE_SECONDS_MAX = 1.0
"""At the end of the server a slow disk gets this long for the lines that wait."""


class Audit:
    """It may be used from the event loop: a thread of its own writes the file."""

    def __init__(self, file: Path | None = None) -> None:
        """Raises AccessError where the file cannot be written to."""
        self._log = structlog.get_logger("duly.audit").bind(log="duly.audit")
        self._path = file
        self.refused = 0
        """Refusals since the start."""
        self._suppressed = 0
        self._second = 0
        self._in_second: Counter[tuple[str, ...]] = Counter()
        self._lost = 0
        self._lines: deque[bytes] = deque()
        self._ready = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._file = -1
        if file is not None:
            self._file = _open(file)
            self._thread = threading.Thread(target=self._write, name="duly-audit", daemon=True)
            self._thread.start()

    def acted(self, who: str, where: str, act: str, target: str, result: str) -> None:
        """Notes an admin act. `target`: what it was done to. `result`: "ok", or the reason why it was not done."""
        self._note("admin act", who=who, where=where, act=act, target=target, result=result)

    def refuse(self, who: str, where: str, act: str, reason: str, text: str) -> None:
        """Notes a refusal. `who`: empty where that is not known."""
        self.refused += 1
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._in_second.clear()
        kind = (where.rpartition(":")[0], who, act, reason)
        if self._in_second.total() >= REFUSALS_A_SECOND_MAX or self._in_second[kind] >= REFUSALS_OF_A_KIND_MAX:
            self._suppressed += 1
            return
        self._in_second[kind] += 1
        more = {"suppressed": self._suppressed} if self._suppressed else {}
        self._suppressed = 0
        self._note("refused", who=who or None, where=where, act=act, reason=reason, text=text, **more)

    def decided(self, model: str, against: str, stage: str, reason: str, **figures: int | str) -> None:
        """Notes what the trial of a version has come to, with the figures that it rests on. `against`: the version that
        was active.
        """
        self._note("trial", model=model, against=against, stage=stage, reason=reason, **figures)

    def drifted(self, model: str, signal: str, stream: str, what: str) -> None:
        """Notes that the inputs, outputs or errors of a model are no longer what they were, and at whose frame that was
        seen.
        """
        self._note("drift seen", model=model, signal=signal, stream=stream, what=what)

    def changed(self, what: str, result: str) -> None:
        """Notes that the policy, or what else decides on rights, was read anew."""
        self._note("access changed", what=what, result=result)

    def reopen(self) -> None:
        """Opens the file anew, after it was moved away by whatever rotates logs. Raises AccessError."""
        if self._path is not None:
            fresh = _open(self._path)
            with self._ready:
                os.dup2(fresh, self._file)
            os.close(fresh)

    def close(self) -> None:
        """Writes what waits, if the disk takes it soon."""
        if self._thread is not None:
            with self._ready:
                self._closing = True
                self._ready.notify()
            self._thread.join(CLOSE_SECONDS_MAX)
            self._thread = None

    def _note(self, event: str, **values: str | int | None) -> None:
        short = {
            key: value[:WORDS_CHARS_MAX] if isinstance(value, str) else value
            for key, value in values.items()
            if value is not None
        }
        self._log.info(event, **short)
        if self._thread is None:
            return
        lost = {"lines_lost": self._lost} if self._lost else {}
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
        line = json.dumps({"time": stamp, "event": event} | short | lost).encode() + b"\n"
        with self._ready:
            if len(self._lines) >= LINES_WAITING_MAX:
                self._lost += 1
                return
            self._lost = 0
            self._lines.append(line)
            self._ready.notify()

    def _write(self) -> None:
        while True:
            with self._ready:
                while not self._lines and not self._closing:
                    self._ready.wait()
                if not self._lines:
                    return
                line = self._lines.popleft()
            try:
                os.write(self._file, line)
            except OSError as error:
                self._log.error("the audit file cannot be written", reason=error.strerror)


def _open(path: Path) -> int:
    """Opens the file to append to it. A new one is for its owner alone."""
    try:
        if path.exists() and not path.is_file():
            raise AccessError(f"{path}: should be a plain file, or not exist yet")
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise AccessError(f"{path}: should be a plain file, or not exist yet")
    except OSError as error:
        raise AccessError(f"{path}: can't be written to: {error.strerror}") from None
    return file
