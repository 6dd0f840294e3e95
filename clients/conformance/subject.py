"""A program under test: commands go in and events come out, both as lines of JSON."""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from clients.conformance.matching import fits

PATIENCE_S = 180.0
"""How long a case waits for an event before it fails; far longer than any takes."""

Event = dict[str, Any]


class Subject:
    """It runs while entered. What it says is kept: outcomes by their ids, the rest in the order in which it came."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._events: list[Event] = []
        self.outcomes: dict[int, Event] = {}
        self.sent: list[int] = []
        self.open = False

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._reader.join()
        with self._process:  # closes its pipes
            pass

    def tell(self, command: dict[str, Any]) -> None:
        """Gives a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def until(self, kind: str) -> Event:
        """Returns the next event of the kind, which is taken; waits for it."""

        def found() -> Event | None:
            return next((event for event in self._events if event["event"] == kind), None)

        event = self._await(found, f"an event {kind!r}")
        self._events.remove(event)
        return event

    def outcome(self, frame_id: int) -> Event:
        """Returns the outcome of a frame; waits for it."""
        return self._await(lambda: self.outcomes.get(frame_id), f"the outcome of frame {frame_id}")

    def has_outcome(self, wanted: dict[str, Any]) -> bool:
        """Whether an outcome like that has come. Takes in what was said so far."""
        while not self._lines.empty():
            self._take(self._lines.get())
        return any(not fits(wanted, outcome) for outcome in self.outcomes.values())

    def end(self) -> None:
        """No more commands: it has to end, and well."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(PATIENCE_S) == 0, "it ended with an error"
        while (line := self._lines.get(timeout=PATIENCE_S)) is not None:
            self._take(line)

    def _await(self, found: Callable[[], Event | None], what: str) -> Event:
        give_up_s = time.monotonic() + PATIENCE_S
        while (event := found()) is None:
            try:
                line = self._lines.get(timeout=max(0.0, give_up_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{what} did not come in {PATIENCE_S} s; what came: {self._said()}") from None
            assert line is not None, f"the program ended before {what} came; what came: {self._said()}"
            self._take(line)
        return event

    def _take(self, line: str | None) -> None:
        assert line is not None, f"the program ended; what came: {self._said()}"
        event = json.loads(line)
        kind = event["event"]
        assert kind != "error", event
        if kind == "outcome":
            assert event["id"] not in self.outcomes, f"a second outcome for frame {event['id']}: {event}"
            self.outcomes[event["id"]] = event
            return
        if kind in ("sent", "tried"):
            self.sent += event["ids"]
        self.open = kind == "opened" or (self.open and kind != "ended")
        self._events.append(event)

    def _said(self) -> list[Event]:
        return self._events + list(self.outcomes.values())[-5:]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)
