"""What waits to be written to one client, in order: notices first, then outcomes.

It is bounded by what may come in: while more waits than the limit, `has_room` is clear and the stream is not read.
Outcomes that the stream's ordering holds back count as well, and so do those of all streams together.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from duly.core.events import Advice
from duly.models.sizes import fields_bytes
from duly.runtime.outcome import Outcome
from duly.streams.memory import Memory

MESSAGE_OUTCOMES_MAX = 64
"""How many outcomes one message may have, and how many may wait beyond the in-flight credit before reading stops."""
MESSAGE_RESULT_BYTES_MAX = 3 << 20
"""How many bytes of results one message may have, unless one result alone has more: gRPC's clients read 4 MiB if nobody
has told them otherwise, and outcomes must not become too large for them by being sent together."""
MESSAGE_FIELDS_BYTES_MAX = 1 << 20
"""How many bytes of all else one message may have, such as names and shapes, unless one outcome alone has more."""
NOTICES_MAX = 64
"""How many notices may wait before reading stops."""


@dataclass(slots=True)
class Advised:
    """The stream's client should do as it is advised."""

    advice: Advice
    reason: str
    period_ns: int
    version: str
    """Version that serves the stream now."""


@dataclass(slots=True)
class ClockAsked:
    """The client asked for the server's time, which is stamped again when the answer leaves."""

    ping_id: int
    client_send_unix_ns: int
    received_unix_ns: int


@dataclass(slots=True)
class Opened:
    """The stream is open, on its terms. This notice comes before all others."""


Notice = Opened | Advised | ClockAsked


class Outbox:
    def __init__(self, frames_in_flight_max: int, memory: Memory) -> None:
        """`memory`: where the outcomes of all streams are counted."""
        self.outcomes: deque[Outcome] = deque()
        self.notices: deque[Notice] = deque()
        self.changed = asyncio.Event()
        """Set when something was put in, or the stream is over."""
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.message_outcomes_max = MESSAGE_OUTCOMES_MAX
        """How many outcomes the next message may have."""
        self._outcomes_max = frames_in_flight_max + MESSAGE_OUTCOMES_MAX
        self._bounded = True
        self._memory = memory
        self._unwritten = 0
        """How many outcomes were added and are not written."""

    def fit_to(self, outputs: Iterable[str]) -> None:
        """Lets messages have as many outcomes with these outputs as there is room for their names and shapes."""
        self.message_outcomes_max = max(1, min(MESSAGE_OUTCOMES_MAX, MESSAGE_FIELDS_BYTES_MAX // fields_bytes(outputs)))

    def put(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._unwritten += 1
        memory = self._memory
        memory.outcomes += 1
        if (self._unwritten > self._outcomes_max or memory.outcomes > memory.outcomes_max) and self._bounded:
            self.has_room.clear()
        self.changed.set()

    def hold(self) -> None:
        """Counts an outcome that the ordering holds back, until it is put after `release`."""
        self._unwritten += 1
        memory = self._memory
        memory.outcomes += 1
        if (self._unwritten > self._outcomes_max or memory.outcomes > memory.outcomes_max) and self._bounded:
            self.has_room.clear()

    def release(self, outcomes: int) -> None:
        """Counts so many outcomes no more that the ordering held back."""
        self._unwritten -= outcomes
        self._memory.outcomes -= outcomes

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)
        if len(self.notices) > NOTICES_MAX and self._bounded:
            self.has_room.clear()
        self.changed.set()

    def take(self) -> list[Outcome]:
        """Takes out the outcomes of the next message and returns them."""
        outcomes = self.outcomes
        taken = [outcomes.popleft()]
        if not outcomes:
            return taken
        size_bytes = taken[0].result_bytes
        while outcomes and len(taken) < self.message_outcomes_max:
            size_bytes += outcomes[0].result_bytes
            if size_bytes > MESSAGE_RESULT_BYTES_MAX:
                break
            taken.append(outcomes.popleft())
        return taken

    def overflow(self) -> None:
        """Holds up what comes in until something has been written."""
        if self._bounded:
            self.has_room.clear()

    def written(self, outcomes: int) -> None:
        """Notes that something was written, so many outcomes among it."""
        self._unwritten -= outcomes
        memory = self._memory
        memory.outcomes -= outcomes
        if not self.has_room.is_set() and not (
            self._unwritten > self._outcomes_max
            or (self._unwritten and memory.outcomes > memory.outcomes_max)
            or len(self.notices) > NOTICES_MAX
        ):
            self.has_room.set()

    def close(self) -> None:
        """Lifts the bound: nothing comes in any more, so that nothing need be held up."""
        self._bounded = False
        self.has_room.set()

    def clear(self) -> list[Outcome]:
        """Empties the outbox and returns the outcomes that were in it."""
        left = list(self.outcomes)
        self.outcomes.clear()
        self.notices.clear()
        self._memory.outcomes -= self._unwritten
        self._unwritten = 0
        return left
