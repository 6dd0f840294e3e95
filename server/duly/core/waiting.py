"""The frames of one model variant that wait, in a queue for each class, ordered by (deadline, sequence).

The queues are sorted lists of tuples. Insertion and removal are a binary search and a memmove: for the few thousand
frames that may wait at most this is faster in CPython than any heap, and leaves no dead entries behind.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from duly.core.types import Frame, StreamClass


class QueuedFrame:
    """A frame that waits or runs, with what the scheduler notes about it."""

    __slots__ = ("alone", "arrived_ns", "frame", "rank", "resets_state", "stream_class")

    def __init__(self, frame: Frame, stream_class: StreamClass, arrived_ns: int) -> None:
        self.frame = frame
        self.alone = frame.alone
        """Whether it must not share a batch: it was told so, or its batch was lost with the worker."""
        self.stream_class = stream_class
        self.arrived_ns = arrived_ns
        """When the frame reached the scheduler."""
        self.rank = 0
        """Rank of the variant that the frame waits for; 0 is the most accurate."""
        self.resets_state = False
        """Whether the state of its stream starts anew with this frame."""


Entry = tuple[int, int, QueuedFrame]
"""A tuple of deadline_ns, seq and frame."""


class WaitingFrames:
    __slots__ = ("by_class", "count")

    def __init__(self) -> None:
        self.by_class: list[list[Entry]] = [[] for _ in range(max(StreamClass) + 1)]
        """Entries in order, one list for each class; the index is the number of the class."""
        self.count = 0

    def __iter__(self) -> Iterator[QueuedFrame]:
        """Goes through the frames, the most critical class first. The queue must not change meanwhile."""
        for entries in self.by_class:
            for entry in entries:
                yield entry[2]

    def add(self, frame: QueuedFrame) -> None:
        entries = self.by_class[frame.stream_class]
        entry = (frame.frame.deadline_ns, frame.frame.seq, frame)
        # Nearly every frame comes with the latest deadline so far.
        if not entries or entries[-1] < entry:
            entries.append(entry)
        else:
            insort(entries, entry)
        self.count += 1

    def remove(self, frame: QueuedFrame) -> None:
        """Raises KeyError where the frame does not wait here."""
        entries = self.by_class[frame.stream_class]
        at = 0
        if not entries or entries[0][2] is not frame:
            at = bisect_left(entries, (frame.frame.deadline_ns, frame.frame.seq))
            if at == len(entries) or entries[at][2] is not frame:
                raise KeyError(frame.frame.seq)
        del entries[at]
        self.count -= 1

    def take(self, frames: list[QueuedFrame]) -> None:
        """Removes all `frames`, in one go where they are the first of their class. Raises KeyError like `remove`."""
        entries = self.by_class[frames[0].stream_class]
        count = len(frames)
        if count <= len(entries) and entries[0][2] is frames[0] and entries[count - 1][2] is frames[-1]:
            del entries[:count]
            self.count -= count
        else:
            for frame in frames:
                self.remove(frame)

    def deadline_first_ns(self) -> int | None:
        """The earliest deadline of all classes; None: nothing waits."""
        heads = [entries[0][0] for entries in self.by_class if entries]
        return min(heads) if heads else None

    def due_before(self, deadline_ns: int) -> list[QueuedFrame]:
        """The frames whose deadline is earlier than that."""
        due: list[QueuedFrame] = []
        for entries in self.by_class:
            for deadline, _, frame in entries:
                if deadline >= deadline_ns:
                    break
                due.append(frame)
        return due
