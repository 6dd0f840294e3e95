"""What the driver tells a recording, and the fence between the two: a recording is never worth a frame."""

from typing import Protocol

import structlog

from duly.core.events import Action, Event

_log = structlog.get_logger("duly.recording")


class Recorder(Protocol):
    """Is told everything that goes into the scheduler and comes out of it; what it is told is not its to keep."""

    def event(self, now_ns: int, event: Event) -> None:
        """Before it is carried out."""

    def actions(self, actions: list[Action]) -> None:
        """What came of that event."""

    def close(self) -> None:
        """Nothing more comes. May be called again."""


class SafeRecorder:
    """Passes everything on until that raises; then recording has stopped, with one line in the log."""

    def __init__(self, record: Recorder) -> None:
        self._record: Recorder | None = record

    def event(self, now_ns: int, event: Event) -> None:
        if self._record is not None:
            try:
                self._record.event(now_ns, event)
            except Exception:
                self._stop()

    def actions(self, actions: list[Action]) -> None:
        if self._record is not None:
            try:
                self._record.actions(actions)
            except Exception:
                self._stop()

    def close(self) -> None:
        """Keeps what there is; nothing more is recorded."""
        record, self._record = self._record, None
        if record is not None:
            try:
                record.close()
            except Exception:
                _log.exception("recording is cut short, it failed")

    def _stop(self) -> None:
        _log.exception("recording stopped, it failed")
        self.close()
