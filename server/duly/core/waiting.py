"""The frames of one model variant that wait, in a queue for each class, ordered by (due time, sequence).

A frame is due at its deadline, or as much earlier as it takes longer than usual frames of its model (`extra_ns`). So
whoever plans for a usual frame plans rightly for a large one that runs alone.

The queues are sorted lists of tuples. Insertion and removal are a binary search and a memmove: for the few thousand
frames that may wait at most this is faster in CPython than any heap, and leaves no dead entries behind.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from duly.core.types import Frame, StreamClass


class QueuedFrame:
    """A frame that waits or runs, with what the scheduler notes about it."""

    __slots__ = (
        "alone",
        "apart_ns",
        "arrived_ns",
        "due_ns",
        "extra_ns",
        "frame",
        "held_back",
        "moves_from",
        "rank",
        "reading",
        "resets_state",
        "special",
        "stream_class",
    )

    def __init__(self, frame: Frame, stream_class: StreamClass, arrived_ns: int) -> None:
        self.frame = frame
        self.alone = frame.alone
        """Whether it must not share a batch: it was told so, or its batch was lost with the worker."""
        self.extra_ns = frame.extra_ns
        self.apart_ns = frame.apart_ns
        """So much of that may be done beside the lanes; 0: nothing, or it was tried already."""
        self.due_ns = frame.deadline_ns - frame.extra_ns
        """When a usual frame in its place would have to be done."""
        self.stream_class = stream_class
        self.arrived_ns = arrived_ns
        """When the frame reached the scheduler."""
        self.rank = 0
        """Rank of the variant that the frame waits for; 0 is the most accurate."""
        self.resets_state = False
        """Whether the state of its stream starts anew with this frame."""
        self.moves_from: tuple[str, str] | None = None
        """The model and lane whose worker hands the state of its stream over to this frame's; None: none does."""
        self.held_back = False
        """Whether a free lane has passed the frame over, because it would block more critical streams for too long."""
        self.reading = False
        """Whether the host reads it beside the lanes, so that it cannot start yet."""
        self.special = frame.extra_ns > 0
        """Whether it is not like usual frames of its model, of which any may start at any time."""

    def is_read(self, reading: bool, extra_ns: int) -> None:
        """Notes whether the host reads it, and how much longer than usual frames it takes besides. Call it while the
        frame is in no queue.
        """
        self.reading = reading
        self.held_back = reading  # which it was, as it is not read otherwise
        self.extra_ns = extra_ns
        self.due_ns = self.frame.deadline_ns - extra_ns
        self.special = reading or extra_ns > 0


Entry = tuple[int, int, QueuedFrame]
"""A tuple of due_ns, seq and frame."""


class WaitingFrames:
    __slots__ = ("by_class", "count", "large")

    def __init__(self) -> None:
        self.by_class: list[list[Entry]] = [[] for _ in range(max(StreamClass) + 1)]
        """Entries in order, one list for each class; the index is the number of the class."""
        self.count = 0
        self.large = 0
        """How many of the frames take longer than usual ones, or are read beside the lanes."""

    def __iter__(self) -> Iterator[QueuedFrame]:
        """Goes through the frames, the most critical class first. The queue must not change meanwhile."""
        for entries in self.by_class:
            for entry in entries:
                yield entry[2]

    def add(self, frame: QueuedFrame) -> None:
        entries = self.by_class[frame.stream_class]
        entry = (frame.due_ns, frame.frame.seq, frame)
        # Nearly every frame comes with the latest due time so far.
        if not entries or entries[-1] < entry:
            entries.append(entry)
        else:
            insort(entries, entry)
        self.count += 1
        self.large += frame.special

    def remove(self, frame: QueuedFrame) -> None:
        """Raises KeyError where the frame does not wait here."""
        entries = self.by_class[frame.stream_class]
        at = 0
        if not entries or entries[0][2] is not frame:
            at = bisect_left(entries, (frame.due_ns, frame.frame.seq))
            if at == len(entries) or entries[at][2] is not frame:
                raise KeyError(frame.frame.seq)
        del entries[at]
        self.count -= 1
        self.large -= frame.special

    def take(self, frames: list[QueuedFrame]) -> None:
        """Removes all `frames`, in one go where they are the first of their class. Raises KeyError like `remove`."""
        entries = self.by_class[frames[0].stream_class]
        count = len(frames)
        if count <= len(entries) and entries[0][2] is frames[0] and entries[count - 1][2] is frames[-1]:
            del entries[:count]
            self.count -= count
            if self.large:
                self.large -= sum([frame.extra_ns > 0 for frame in frames])
        else:
            for frame in frames:
                self.remove(frame)

    def due_first_ns(self) -> int | None:
        """The earliest due time of all classes; None: nothing waits."""
        heads = [entries[0][0] for entries in self.by_class if entries]
        return min(heads) if heads else None

    def due_before(self, time_ns: int) -> list[QueuedFrame]:
        """The frames that are due earlier than that."""
        due: list[QueuedFrame] = []
        for entries in self.by_class:
            for due_ns, _, frame in entries:
                if due_ns >= time_ns:
                    break
                due.append(frame)
        return due
