"""What takes labels, over folders with a few frames, without the process that writes."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from duly.sampling import wire
from duly.sampling.feedback import FeedbackDesk
from duly.sampling.limits import DrawnLimits, StoreLimits, WriterSettings
from duly.sampling.sample import form_meta, frame_meta
from duly.sampling.wire import Joined
from duly.sampling.writing import Writing
from tests.sampling.made import sample

S = 1_000_000_000
NAMES = {"m": {"": ["cat", "", "dog"]}}


class Labelling:
    KEYS: ClassVar = {("s-1", 1), ("s-1", 2)}
    """Frames that are there."""

    def __init__(self, folder: Path) -> None:
        settings = WriterSettings("off", str(folder), DrawnLimits(1 << 20, 4), str(folder), StoreLimits(1 << 20, 1e9))
        self._answers: list[tuple[Joined, str]] = []
        self._now_s = count(1)
        self._writing = Writing(settings, self._hear, 0.0, 0.0)
        for _, frame_id in self.KEYS:
            kept = sample(frame_id)
            tensors = [(name, array.shape, array.nbytes) for name, array in kept.arrays.items()]
            body = {"form": form_meta(kept.form), "frame": frame_meta(kept), "tensors": tensors, "store": True}
            data = b"".join(array.tobytes() for array in kept.arrays.values())
            self._tell(wire.FRAME, body | {"group": "s-1", "place": frame_id}, data)
        clock = count(1, 3600 * S)
        self.desk = FeedbackDesk(self, lambda: next(clock), Counter(), lambda may_know: NAMES)  # type: ignore[arg-type]

    def ask(
        self, body: dict[str, Any], data: Sequence[wire.Buffer], size_bytes: int
    ) -> "asyncio.Future[list[tuple[Joined, str]]]":
        """Has labels joined, as the link to the process that writes does."""
        self._tell(wire.LABELS, body | {"call": 1}, b"".join(map(bytes, data)))
        answers: asyncio.Future[list[tuple[Joined, str]]] = asyncio.get_running_loop().create_future()
        answers.set_result(self._answers)
        return answers

    def _tell(self, kind: int, body: dict[str, Any], data: bytes) -> None:
        messages = wire.Messages()
        messages.feed(wire.encoded(kind, body, len(data)) + data)
        message = messages.next()
        assert message is not None
        now_s = next(self._now_s)
        self._writing.take(now_s, now_s, *message)
        self._writing.look(now_s + 0.5, now_s + 0.5)

    def _hear(self, kind: int, body: dict[str, Any]) -> None:
        if kind == wire.ANSWERS:
            self._answers = [(Joined(number), reason) for number, reason in body["answers"]]
