"""The frames of one model that wait, most critical class first, within a class by (deadline, sequence).

Three sorted lists of tuples. Insertion and removal are a binary search and a memmove: for the few thousand frames that
may wait at most this is faster in CPython than any heap, and leaves no dead entries behind.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from duly.core.types import Frame, StreamClass

Entry = tuple[int, int, Frame]
"""(deadline_ns, seq, frame)."""


class WaitingFrames:
    __slots__ = ("_by_class", "_count")

    def __init__(self) -> None:
        self._by_class: dict[StreamClass, list[Entry]] = {cls: [] for cls in StreamClass}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Frame]:
        """In the order in which they would run. The queue must not change meanwhile."""
        for entries in self._by_class.values():
            for entry in entries:
                yield entry[2]

    def add(self, frame: Frame) -> None:
        insort(self._by_class[frame.stream_class], (frame.deadline_ns, frame.seq, frame))
        self._count += 1

    def remove(self, frame: Frame) -> None:
        """Raises KeyError where the frame does not wait here."""
        entries = self._by_class[frame.stream_class]
        at = bisect_left(entries, (frame.deadline_ns, frame.seq))
        if at == len(entries) or entries[at][2] is not frame:
            raise KeyError(frame.seq)
        del entries[at]
        self._count -= 1

    def deadline_first_ns(self) -> int | None:
        """Earliest deadline of all classes; None: nothing waits."""
        heads = [entries[0][0] for entries in self._by_class.values() if entries]
        return min(heads) if heads else None

    def due_before(self, deadline_ns: int) -> list[Frame]:
        """Frames whose deadline is earlier than that."""
        due: list[Frame] = []
        for entries in self._by_class.values():
            for deadline, _, frame in entries:
                if deadline >= deadline_ns:
                    break
                due.append(frame)
        return due
