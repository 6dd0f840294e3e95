"""Writes down a stream while it runs: what is sent and what becomes of it, at the times of this machine's clock."""

import time
from collections.abc import Mapping
from pathlib import Path

from duly_client import Outcome, StreamTerms
from duly_client.types import Encoding, Payload
from duly_logs.outcome_log import OutcomeLog


class LiveLog:
    """A log of a stream. Of each frame in flight it keeps a time, and of outcomes that come too early the outcome."""

    def __init__(
        self, path: Path, model: str, terms: StreamTerms, about: Mapping[str, str], draw: bool = False
    ) -> None:
        """Raises OSError."""
        self._log = OutcomeLog(path, model, terms, about, draw)
        self._times_ns: dict[int, int] = {}
        self._early: dict[int, Outcome] = {}

    def sent(self, frame_id: int, captured_ns: int | None, payload: Payload, encoding: Encoding | None = None) -> None:
        """Writes a frame. `captured_ns`: ns since 1970; None: now. `encoding`: as for `Stream.send`. Raises OSError."""
        time_ns = captured_ns or time.time_ns()
        self._log.sent(frame_id, time_ns, payload, encoding)
        self._times_ns[frame_id] = time_ns
        if (outcome := self._early.pop(frame_id, None)) is not None:
            self.outcome(outcome)

    def outcome(self, outcome: Outcome) -> None:
        """Writes what became of a frame. Raises OSError."""
        time_ns = self._times_ns.pop(outcome.frame_id, None)
        if time_ns is None:
            self._early[outcome.frame_id] = outcome  # it came before `Stream.send` had said the frame's number
        else:
            self._log.outcome(outcome.frame_id, time_ns, time_ns, outcome)

    def close(self) -> None:
        """Writes the index. Raises OSError."""
        self._log.close()
