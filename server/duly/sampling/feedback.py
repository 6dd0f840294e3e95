"""Labels that clients send for frames, from the door to their answers.

What can be told of them without their frame is told here. Whether there is such a frame, and whether it can have these
labels, only the process that writes samples knows (`writing`): it is asked, and waited for a little.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from duly.models.spec import ELEMENT_BYTES
from duly.sampling.labels import ClassNames
from duly.sampling.link import WriterLink
from duly.sampling.wire import Joined
from duly.streams.cheap_work import Budget
from duly.streams.errors import CallError
from duly.streams.rights import Right, Rights
from duly.worker.channel import DIMS_MAX

ITEMS_MAX = 1024
"""A message with labels of more frames is INVALID_REQUEST."""
DATA_BYTES_MAX = 4 << 20
"""A message with more bytes of labels is INVALID_REQUEST."""
LABELS_A_MESSAGE_MAX = 4096
"""A message with more labels, of all its frames, is INVALID_REQUEST."""
LABELS_MAX = 16
"""A frame with more labels has its labels INVALID."""
TEXT_BYTES_MAX = 128
"""Names, keys and sources that are longer are INVALID."""
ITEMS_PER_S, ITEMS_BURST = 1000, 10_000
"""Of one principal so many frames are labelled a second, after so many at once; what is more is refused:
CALLS_EXHAUSTED."""
PRINCIPALS_KEPT = 1024
"""Of so many principals it is known how often they have sent labels."""
ANSWER_SECONDS_MAX = 5.0
"""Labels of which nothing is known after so long are PENDING."""

Answer = tuple[Joined, str]
"""What became of the labels of one frame, and why."""


@dataclass(frozen=True, slots=True)
class LabelsSent:
    """What a client sends for one frame."""

    stream_key: str
    frame_id: int
    labels: Sequence[tuple[str, str, Sequence[int], bytes]]
    """Of each its name, element type, shape and data."""
    weight: float
    source: str


class FeedbackDesk:
    def __init__(
        self,
        link: WriterLink,
        clock: Callable[[], int],
        counts: Counter[str],
        names: Callable[[Callable[[str], bool]], ClassNames],
    ) -> None:
        """`clock`: nanoseconds that never go back. `counts`: what became of labels, by the name of the status.
        `names(may_know)`: what the classes of these models are called.
        """
        self._link = link
        self._names = names
        self._clock = clock
        self._counts = counts
        self._budgets: OrderedDict[str, Budget] = OrderedDict()

    async def take(self, rights: Rights, items: Sequence[LabelsSent]) -> list[Answer]:
        """Returns what became of the labels of each frame. Raises CallError where there are too many of them, or nobody
        can take them now.
        """
        size_bytes = sum(len(data) for item in items for *_, data in item.labels)
        if len(items) > ITEMS_MAX or size_bytes > DATA_BYTES_MAX:
            text = f"labels of {len(items)} frames with {size_bytes} bytes; at most {ITEMS_MAX} frames and "
            text += f"{DATA_BYTES_MAX} bytes are taken at once, send several messages"
            raise CallError("INVALID_REQUEST", text, "items")
        labels = sum(len(item.labels) for item in items)
        if labels > LABELS_A_MESSAGE_MAX:
            text = f"{labels} labels, at most {LABELS_A_MESSAGE_MAX} are taken at once; send several messages"
            raise CallError("INVALID_REQUEST", text, "items")
        if items and not self._budget(rights.principal).take_if_there(len(items)):
            text = (
                f"more than {ITEMS_PER_S} frames a second are labelled by this principal; send the labels more slowly"
            )
            raise CallError("CALLS_EXHAUSTED", text)
        answers: list[Answer | None] = [self._problem(item) for item in items]
        asked = [item for item, answer in zip(items, answers, strict=True) if answer is None]
        joined = iter(await self._ask(rights, asked) if asked else ())
        whole = [answer or next(joined) for answer in answers]
        self._counts.update(status.name for status, _ in whole)
        return whole

    def _budget(self, principal: str) -> Budget:
        budget = self._budgets.pop(principal, None) or Budget(self._clock, ITEMS_PER_S, ITEMS_BURST)
        self._budgets[principal] = budget
        if len(self._budgets) > PRINCIPALS_KEPT:
            self._budgets.popitem(last=False)
        return budget

    async def _ask(self, rights: Rights, items: Sequence[LabelsSent]) -> list[Answer]:
        body: dict[str, Any] = {
            "principal": rights.principal,
            "any_stream": Right.FEEDBACK_ANY in rights.may,
            "models": list(rights.models),
            "names": self._names(rights.may_use) if _are_named(items) else {},
            "items": [
                {
                    "stream": item.stream_key,
                    "frame_id": item.frame_id,
                    "weight": item.weight,
                    "source": item.source,
                    "tensors": [(name, datatype, list(shape)) for name, datatype, shape, _ in item.labels],
                    "sizes": [len(data) for *_, data in item.labels],
                }
                for item in items
            ],
        }
        data = [data for item in items for *_, data in item.labels]
        answers = self._link.ask(body, data, sum(map(len, data)))
        if answers is None:
            text = "the process that joins labels with frames is busy or being started; try again in a moment"
            raise CallError("FEEDBACK_UNAVAILABLE", text)
        await asyncio.wait([answers], timeout=ANSWER_SECONDS_MAX)
        if answers.cancelled():
            text = "the process that joins labels with frames has ended meanwhile; send them again"
        elif answers.done():
            return answers.result()
        else:
            text = f"what became of them was not known after {ANSWER_SECONDS_MAX:g} s; send them again where it matters"
        return [(Joined.PENDING, text)] * len(items)

    @staticmethod
    def _problem(item: LabelsSent) -> Answer | None:
        """Returns the answer to labels that can be right for no frame; None: they may be."""
        if problem := _problem_of(item):
            return Joined.INVALID, problem
        return None


def _problem_of(item: LabelsSent) -> str:
    if not item.stream_key or not _is_short_text(item.stream_key):
        return "stream_key should be that of StreamOpened or InferResponse"
    if not item.labels:
        return "it has no label"
    if len(item.labels) > LABELS_MAX:
        return f"it has {len(item.labels)} labels, at most {LABELS_MAX} are taken"
    names = [name for name, *_ in item.labels]
    if len(set(names)) < len(names):
        return "a label is there twice"
    if not isfinite(item.weight) or item.weight < 0:
        return f"weight should be a number of 0 or more, is {item.weight:g}"
    if not _is_short_text(item.source):
        return f"source should be printable, and of at most {TEXT_BYTES_MAX} bytes"
    for name, datatype, shape, _ in item.labels:
        if not name or not _is_short_text(name):
            return f"a label's name should be printable, and of 1 to {TEXT_BYTES_MAX} bytes"
        if datatype not in ELEMENT_BYTES:
            return f"label {name!r}: its element type should be stated"
        if len(shape) > DIMS_MAX or min(shape, default=0) < 0:
            return f"label {name!r}: its shape should have at most {DIMS_MAX} dimensions, none of them below 0"
    return ""


def _are_named(items: Sequence[LabelsSent]) -> bool:
    """Whether some class may be said by its name."""
    return any(datatype == "STRING" for item in items for _, datatype, _, _ in item.labels)


def _is_short_text(text: str) -> bool:
    return text.isprintable() and len(text.encode()) <= TEXT_BYTES_MAX
