"""What the learner tells: a line of JSON for each event, on standard output, which the server reads.

    {"event": "step", "model": "fraud", "step": "train"}
    {"event": "drift", "model": "fraud", "signal": "errors", "at": 812, "unix_ns": ..., "stream": "...", "text": "..."}
    {"event": "attempt", "model": "fraud", "result": "published", "version": "2", "text": "...", "figures": {...}}
    {"event": "state", "model": "fraud", "phase": "watching", "frames": 900, "labels": 812, ...}
    {"event": "problem", "model": "fraud", "text": "..."}

`result` is published, refused (validated, and not good enough), doubted (labels are not believed) or failed.
"""

import json
import os
from collections.abc import Mapping

LINE_CHARS_MAX = 16_000
"""No line is longer: texts are cut to TEXT_CHARS_MAX, and of what is left over nothing is told."""
TEXT_CHARS_MAX = 2000


class Teller:
    """Writes lines to a descriptor. Where nobody reads any more, it ends the process: the server is gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._problems: dict[str, str] = {}
        """The last problem of each model, so that it is told once."""

    def step(self, model: str, step: str) -> None:
        """Tells a step of an attempt as it begins."""
        self._tell({"event": "step", "model": model, "step": step})

    def drift(self, model: str, signal: str, at: int, text: str, unix_ns: int, stream: str) -> None:
        """Tells drift. `unix_ns`: when the frame was received, or the label came, at which it was seen. `stream`: whose
        frame that was, by the name that its client gave it, or else its key.
        """
        line: dict[str, object] = {"event": "drift", "model": model, "signal": signal, "at": at, "text": text}
        self._tell(line | {"unix_ns": unix_ns, "stream": stream})

    def attempt(self, model: str, result: str, version: str, text: str, figures: Mapping[str, float]) -> None:
        self._problems.pop(model, None)
        line = {"event": "attempt", "model": model, "result": result, "version": version, "text": text}
        self._tell(line | {"figures": dict(figures)})

    def state(self, model: str, state: Mapping[str, object]) -> None:
        self._tell({"event": "state", "model": model, **state})

    def problem(self, model: str, text: str) -> None:
        """Tells what is wrong, once until something else is or an attempt has ended."""
        if self._problems.get(model) != text:
            self._problems[model] = text
            self._tell({"event": "problem", "model": model, "text": text})

    def _tell(self, line: dict[str, object]) -> None:
        if isinstance(text := line.get("text"), str):
            line["text"] = text[:TEXT_CHARS_MAX]
        data = json.dumps(line)
        if len(data) > LINE_CHARS_MAX:
            line.pop("figures", None)
            data = json.dumps(line)[:LINE_CHARS_MAX]
        try:
            left = memoryview(f"{data}\n".encode())
            while left:
                left = left[os.write(self._descriptor, left) :]
        except BrokenPipeError:
            os._exit(0)
