"""The interface between the driver and a recording, and the fence between them: a recording that fails must not cost a
frame.
"""

from typing import Protocol

import structlog

from duly.core.events import Action, Event

_log = structlog.get_logger("duly.recording")


class Recorder(Protocol):
    """Gets everything that goes into the scheduler and comes out of it. It must not keep the objects that it gets."""

    def event(self, now_ns: int, event: Event) -> None:
        """Records an event, before it is carried out."""

    def actions(self, actions: list[Action]) -> None:
        """Records the actions that came of the last event."""

    def failed(self) -> None:
        """Notes that the scheduler has failed on the last event."""

    def begin_anew(self) -> None:
        """Notes that a fresh scheduler takes over."""

    def close(self) -> None:
        """Ends the recording. It may be called again."""


class SafeRecorder:
    """Passes everything on until the recorder raises. Then recording stops, with an error in the log."""

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

    def failed(self) -> None:
        if self._record is not None:
            try:
                self._record.failed()
            except Exception:
                self._stop()

    def begin_anew(self) -> None:
        if self._record is not None:
            try:
                self._record.begin_anew()
            except Exception:
                self._stop()

    def close(self) -> None:
        """Ends the recording and keeps what there is."""
        record, self._record = self._record, None
        if record is not None:
            try:
                record.close()
            except Exception:
                _log.exception("recording is cut short, it failed")

    def _stop(self) -> None:
        _log.exception("recording stopped, it failed")
        self.close()
