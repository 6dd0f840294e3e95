"""What became of the frames of a stream: those without an outcome, and outcomes that wait for the application.

Each frame that was given an id has exactly one outcome, whether the server gives it or this client does. Outcomes are
given out once each, in the order in which they came: one by one, or all that wait together. How many frames and
outcomes are held is bounded by who adds them.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping

from duly_client.errors import ProtocolError
from duly_client.types import Outcome, OutcomeMessage, Status, StreamTerms, outcome_of

HELD_MAX = 4096
"""Limit of unanswered and unread frames together, many times what is of use to a sensor."""

KEYS_MAX = 64
"""Of a stream that was opened again so often, earlier frames can be labelled no more by its keys."""

InFlight = tuple[int, int]
"""Of a frame that the server has not answered: its capture time on the monotonic clock, ns, and its size in bytes."""


class Frames:
    """The frames of one stream, over all its connections."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        """Set where something changes that sending or receiving may wait for."""
        self.credit = HELD_MAX
        """How many frames the server lets be unanswered."""
        self.credit_bytes = 0
        """How many bytes of frames it lets be unanswered; 0: not stated."""
        self.bytes_in_flight = 0
        """How many bytes of frames the server has not answered."""
        self.unread_max = 1
        """How many outcomes may wait for the application before no more are received."""
        self._in_order = False  # outcomes are given out in the order of the frames
        self._next_id = 1
        self._keys: deque[tuple[int, str]] = deque(maxlen=KEYS_MAX)
        """Each key that the stream had, with the first id of the frames that it is for."""
        self._in_flight: dict[int, InFlight] = {}
        self._kept_back: deque[Outcome] = deque()
        """SUPERSEDED here; with the ordering ARRIVAL they wait for the outcomes of earlier frames."""
        self._unread: deque[Outcome] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._ended = False
        self._error: BaseException | None = None

    @property
    def room(self) -> int:
        """How many more frames may be held."""
        return HELD_MAX - len(self._in_flight) - len(self._kept_back) - len(self._unread)

    @property
    def in_flight(self) -> int:
        """How many frames the server has not answered."""
        return len(self._in_flight)

    @property
    def unread(self) -> int:
        """How many outcomes wait for the application."""
        return len(self._unread)

    @property
    def is_awaited(self) -> bool:
        """True while somebody waits for an outcome."""
        return self._reader is not None

    def agreed(self, terms: StreamTerms) -> None:
        """The stream opened on these terms."""
        self.credit = terms.frames_in_flight_max if terms.frames_in_flight_max > 0 else HELD_MAX
        self.credit_bytes = terms.bytes_in_flight_max
        self.unread_max = min(self.credit, HELD_MAX // 2)
        self._in_order = terms.ordering == "ARRIVAL"
        self._keys.append((self._next_id, terms.stream_key))

    def key_of(self, frame_id: int) -> str:
        """Returns by what the label of a frame names the stream; empty: none."""
        for first_id, key in reversed(self._keys):
            if frame_id >= first_id:
                return key
        return ""

    # ---- frames ----

    def next_ids(self, count: int) -> range:
        """Returns the ids of the next frames, which are to be sent, cancelled or kept back now."""
        ids = range(self._next_id, self._next_id + count)
        self._next_id = ids.stop
        return ids

    def sent(self, frames: Mapping[int, InFlight]) -> None:
        """Frames are on their way to the server, by their ids."""
        self._in_flight.update(frames)
        for _, size in frames.values():
            self.bytes_in_flight += size

    def sent_alike(self, ids: range, captured_ns: int, size: int) -> None:
        """Frames of one capture time and size are on their way to the server."""
        self._in_flight.update(dict.fromkeys(ids, (captured_ns, size)))
        self.bytes_in_flight += len(ids) * size

    def keep_back(self, frame_id: int, captured_ns: int, period_ns: int) -> None:
        """The frame is not sent, as the server advised a period: the next one that is due takes its place."""
        reason = f"not sent, the server advised a period of {period_ns / 1e6:.4g} ms"
        latency_ns = time.monotonic_ns() - captured_ns
        self._kept_back.append(Outcome(frame_id, Status.SUPERSEDED, latency_ns, reason=reason))
        self._give_back()
        self._wake_reader()

    def cancel(self, frame_id: int, captured_ns: int, reason: str) -> None:
        """The frame is not sent, and has its outcome here."""
        self._unread.append(Outcome(frame_id, Status.CANCELLED, time.monotonic_ns() - captured_ns, reason=reason))
        self._wake_reader()

    def cancel_in_flight(self, reason: str) -> None:
        """The server will answer none of the frames in flight."""
        self.bytes_in_flight = 0
        for frame_id in list(self._in_flight):
            captured_ns, _ = self._in_flight.pop(frame_id)
            self.cancel(frame_id, captured_ns, reason)
            self._give_back()
        self.changed.set()

    def among_in_flight(self, frame_ids: Iterable[int]) -> list[int]:
        """Returns those that the server has not answered."""
        return [frame_id for frame_id in frame_ids if frame_id in self._in_flight]

    def answered(self, outcomes: Iterable[OutcomeMessage]) -> None:
        """The server's outcomes came. Raises ProtocolError where one is of no frame in flight."""
        now_ns = time.monotonic_ns()
        in_flight, unread = self._in_flight, self._unread
        try:
            for message in outcomes:
                sent = in_flight.pop(message.frame_id, None)
                if sent is None:
                    text = f"an outcome came for frame {message.frame_id}, which is not in flight"
                    raise ProtocolError(text)
                captured_ns, size = sent
                self.bytes_in_flight -= size
                unread.append(outcome_of(message, now_ns - captured_ns))
                if self._kept_back:
                    self._give_back()
        finally:
            self.changed.set()
            self._wake_reader()

    def _give_back(self) -> None:
        """Outcomes of frames kept back, as far as the order allows."""
        oldest_id = self._next_id
        if self._in_flight and self._in_order:
            oldest_id = next(iter(self._in_flight))
        while self._kept_back and self._kept_back[0].frame_id < oldest_id:
            self._unread.append(self._kept_back.popleft())

    # ---- outcomes ----

    def drop(self) -> None:
        """Forgets the outcomes that wait."""
        self._kept_back.clear()
        self._unread.clear()

    def end(self, error: BaseException | None) -> None:
        """No more come. `error` is raised after those that wait; None: they end."""
        self._ended, self._error = True, error
        self.changed.set()
        self._wake_reader()

    def take(self) -> Outcome:
        """Returns the next outcome; one waits."""
        self.changed.set()
        return self._unread.popleft()

    def take_all(self) -> list[Outcome]:
        """Returns all outcomes that wait."""
        self.changed.set()
        outcomes = list(self._unread)
        self._unread.clear()
        return outcomes

    async def wait(self) -> None:
        """Waits until an outcome waits. Raises StopAsyncIteration or the error once all were given out and no more
        come, and RuntimeError where another task waits already.
        """
        while not self._unread:
            if self._ended:
                raise self._error or StopAsyncIteration
            if self._reader is not None:
                raise RuntimeError("another task is already waiting for this stream's outcomes")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
