"""Finds messages of several topics that belong together, by their stamps, as message_filters'
ApproximateTimeSynchronizer does: each new message looks for its nearest partners on the other topics, and those whose
stamps lie within the tolerance are one set; each message is used once.

Beyond that, what never finds its partners is told: messages that the bounded queue of a topic pushes out, and those
that have waited too long.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")

TRIES_MAX = 256
"""Sets that are tried for one message, the nearest first."""


@dataclass(slots=True)
class Joined(Generic[Item]):
    """What a message led to."""

    together: tuple[Item, ...] | None = None
    """A message of each topic, in the order of the topics; None: partners are missing."""
    pushed_out: list[Item] = field(default_factory=list)
    """Messages that the bounded queue of a topic pushed out, or that had the stamp of a newer one."""


class Joining(Generic[Item]):
    """The messages of `topics` topics that wait for partners; at most `queue_max` of each, for `wait_ns`."""

    def __init__(self, topics: int, tolerance_ns: int, queue_max: int, wait_ns: int) -> None:
        self._tolerance_ns = tolerance_ns
        self._queue_max = queue_max
        self._wait_ns = wait_ns
        self._queues: list[dict[int, tuple[int, Item]]] = [{} for _ in range(topics)]

    def add(self, topic: int, stamp_ns: int, item: Item, now_ns: int) -> Joined[Item]:
        """Takes in a message of the topic with that number. `now_ns`: by any clock that goes on, as in `overdue`."""
        queue = self._queues[topic]
        joined: Joined[Item] = Joined()
        if stamp_ns in queue:
            joined.pushed_out.append(queue.pop(stamp_ns)[1])
        queue[stamp_ns] = now_ns, item
        for stamps in itertools.islice(self._sets(topic, stamp_ns), TRIES_MAX):
            if max(stamps) - min(stamps) <= self._tolerance_ns:
                joined.together = tuple(queue.pop(stamp)[1] for queue, stamp in zip(self._queues, stamps, strict=True))
                return joined
        while len(queue) > self._queue_max:
            joined.pushed_out.append(queue.pop(min(queue))[1])
        return joined

    def overdue(self, now_ns: int) -> list[Item]:
        """Takes out messages that have waited for as long as they may."""
        found: list[Item] = []
        for queue in self._queues:
            for stamp in [stamp for stamp, (since_ns, _) in queue.items() if now_ns - since_ns >= self._wait_ns]:
                found.append(queue.pop(stamp)[1])
        return found

    def next_overdue_ns(self) -> int | None:
        """When the next message will have waited too long; None: none waits."""
        return min((since + self._wait_ns for queue in self._queues for since, _ in queue.values()), default=None)

    def take_all(self) -> list[Item]:
        """Takes out all messages that wait."""
        items = [item for queue in self._queues for _, item in queue.values()]
        for queue in self._queues:
            queue.clear()
        return items

    def _sets(self, topic: int, stamp_ns: int) -> Iterator[tuple[int, ...]]:
        choices = []
        for nth, queue in enumerate(self._queues):
            if nth == topic:
                choices.append([stamp_ns])
                continue
            near = [stamp for stamp in queue if abs(stamp - stamp_ns) <= self._tolerance_ns]
            choices.append(sorted(near, key=lambda stamp: abs(stamp - stamp_ns)))
        return itertools.product(*choices)
