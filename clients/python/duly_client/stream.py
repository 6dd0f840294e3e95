"""A stream as the application sees it: frames in, exactly one outcome a frame out, over as many calls as it takes.

Bounds: no more than the in-flight credit of outcomes wait to be read; then reading from the wire stops. No more than
FRAMES_HELD_MAX frames are unanswered or unread together; then `send` waits. Frames that wait for the transport are
bounded in `connection`. A frame is never sent twice: when the connection is lost, those in flight are CANCELLED.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, Self

import grpc

from duly.v1 import inference_pb2
from duly_client import errors, wire
from duly_client.clock import ClockEstimate
from duly_client.connection import Connection
from duly_client.forked import fork_hint, is_forked, using_grpc
from duly_client.pace import Pace
from duly_client.proxy import through_proxy
from duly_client.types import Advice, Encoding, Outcome, Payload, Status, StreamTerms, advice_of, outcome_of
from duly_client.wall_clock import WallClock

FRAMES_HELD_MAX = 4096
"""Limit of unanswered and unread frames together, many times what is of use to a sensor."""
UNREAD_WAIT_S = 10.0
"""How long `send` waits for an application that reads no outcomes."""
CLOCK_WAIT_S = 1.0
"""How long opening waits for the clocks to be related. Until they are, budgets count from receipt."""
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.1, 5.0
"""Pauses between two tries to connect. They double, and each is shortened at random by up to a half."""
OPEN_PAUSE_MAX_S = 1.0
"""No pause is longer while the application waits for the stream to open for the first time."""


class Stream:
    """A stream is opened by `async with`. One task sends to it, the same or another one iterates over its outcomes.
    Leaving the block ends the stream at once; `finish` ends it when all frames are answered.
    """

    def __init__(
        self,
        start_call: Callable[[], "grpc.aio.StreamStreamCall[Any, Any]"],
        request: inference_pb2.OpenStream,
        target: str,
        *,
        check: bool,
        on_advice: Callable[[Advice], None] | None,
        follow_advice: bool,
        reconnect: bool,
        reconnect_tries_max: int | None,
        open_timeout_s: float,
        error_of: Callable[[grpc.aio.AioRpcError], errors.DulyError],
    ) -> None:
        self._start_call = start_call
        self._request = request
        self._target = target
        self._error_of = error_of
        self._check = check
        self._on_advice = on_advice
        self._follow_advice = follow_advice
        self._pace = Pace()
        self._wall = WallClock()
        self._tries_max = reconnect_tries_max if reconnect else 0
        self._open_timeout_s = open_timeout_s

        self._terms: StreamTerms | None = None
        self._connection: Connection | None = None  # the open one
        self._newest: Connection | None = None  # the one that is open or opening
        self._lost_reason = ""
        self._tries = 0  # failed tries to reconnect, in a row
        self._error: BaseException | None = None
        self._next_id = 1
        self._in_flight: dict[int, int] = {}  # frame id -> capture time on the monotonic clock, ns
        self._kept_back: deque[Outcome] = deque()
        """SUPERSEDED here; with the ordering ARRIVAL they wait for the outcomes of earlier frames."""
        self._unread: deque[Outcome] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._changed = asyncio.Event()  # set where something changes that `send` or the receiving task waits for
        self._stopping = asyncio.Event()  # set once the stream is finished or closed: it does not reconnect any more
        self._closed = False
        self._ended = False
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- opening and ending ----

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a stream opens once; ask the client for another one")
        self._loop = asyncio.get_running_loop()
        self._connection = connection = await self._open()
        self._task = asyncio.create_task(self._run(connection))
        self._task.add_done_callback(self._end)
        try:
            known = (connection.clock_related, self._task)
            await asyncio.wait(known, timeout=CLOCK_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _open(self) -> Connection:
        """Opens the stream for the first time, as it is opened again later: what may pass is tried again, as long as
        the time to open lasts. Raises the last error.

        A refusal by admission is no such thing: it says what would fit, which is for the application to decide on.
        """
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._open_timeout_s
        tries = 0
        while True:
            try:
                return await self._connect(give_up_s - loop.time())
            except errors.DulyError as error:
                pause_s = min(OPEN_PAUSE_MAX_S, _backoff_s(tries))
                tries += 1
                passes = error.recoverable and error.reason != "ADMISSION_REFUSED"
                used_up = self._tries_max is not None and tries > self._tries_max
                if not passes or used_up or loop.time() + pause_s >= give_up_s:
                    raise
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Ends the stream now: frames in flight are withdrawn, and outcomes that were not read are dropped."""
        self._closed = True
        self._stopping.set()
        self._changed.set()
        self._kept_back.clear()
        self._unread.clear()
        if is_forked():
            return  # what is left of it is the parent's
        if self._newest is not None:
            await self._newest.close()
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def finish(self) -> None:
        """Declares that no more frames follow; iteration ends after the last outcome."""
        self._check_entered()
        self._stopping.set()
        self._changed.set()
        if self._connection is not None:
            await self._connection.finish()

    def _check_entered(self) -> None:
        """Raises RuntimeError where the stream was not entered, or in another event loop: it would wait for ever."""
        if self._loop is None:
            raise RuntimeError("the stream is not open: enter it with `async with`")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "the stream belongs to another event loop: use it where it was entered, or BlockingClient from threads"
            )

    @property
    def opened(self) -> StreamTerms:
        """Terms that were agreed; after a reconnection, those agreed then."""
        if self._terms is None:
            raise RuntimeError("the stream is not open: enter it with `async with`")
        return self._terms

    @property
    def clock(self) -> ClockEstimate | None:
        """The server's wall clock minus the client's, and its uncertainty; None while that is unknown."""
        return None if self._connection is None else self._connection.clock.estimate(self._wall.now_ns())

    # ---- sending ----

    async def send(
        self,
        payload: Payload,
        *,
        capture_time_ns: int | None = None,
        budget_ms: float | None = None,
        must_run: bool = False,
        encoding: Encoding | None = None,
    ) -> int:
        """Sends a frame and returns its id. Its outcome comes by iteration.

        `capture_time_ns`: by the wall clock as it is now, ns since 1970; None: now. Where that clock was set after the
        capture, correct the time by as much. `budget_ms`: counts from capture; None: the stream's. `must_run`: newer
        frames never supersede this one. `encoding`: the format of byte strings that are no pictures. The payload may be
        changed after the return.

        Waits while the transport is full. While the connection is lost it waits no longer than the budget; then the
        frame is CANCELLED. With `follow_advice` a frame that comes faster than the server advises is not sent but
        SUPERSEDED here, unless it must run. Raises ValueError and TypeError where the payload is not what the model
        takes, ClientTooSlow where nobody reads the outcomes, and the error that ended the stream where it has ended.
        """
        using_grpc()
        self._check_entered()
        called_ns, wall_moved_ns = self._wall.now_ns(), self._wall.moved_ns
        captured_ns = called_ns if capture_time_ns is None else capture_time_ns
        captured_monotonic_ns = time.monotonic_ns() - (called_ns - captured_ns)
        terms = self.opened
        budget_ns = 0 if budget_ms is None else round(budget_ms * 1e6)
        if captured_ns <= 0 or budget_ns < 0:
            raise ValueError(
                f"capture_time_ns must be positive, budget_ms not negative: {capture_time_ns}, {budget_ms}"
            )
        inputs = wire.inputs_of(payload, encoding, terms.inputs if self._check else None)
        size = wire.FRAME_FIELDS_BYTES_MAX + sum(len(head) + data_bytes for head, _, data_bytes in inputs)
        if self._check and 0 < terms.message_bytes_max < size:
            most = f"the server reads up to {terms.message_bytes_max} (see bytes_max of [[input]] in its model.toml)"
            raise ValueError(f"the frame takes {size} bytes; {most}")
        connection = self._connection
        kept_back = not must_run and not self._pace.due(time.monotonic_ns())
        room = connection is not None and (kept_back or connection.has_room(size))
        if not room or self._stopping.is_set() or self._full():
            connection = await self._ready(0 if kept_back else size, (budget_ns or terms.default_budget_ns) / 1e9)
            kept_back = kept_back and not self._pace.due(time.monotonic_ns())  # which another connection forgets
        frame_id = self._next_id
        self._next_id += 1
        if connection is None:
            self._cancel_here(frame_id, captured_monotonic_ns, f"not sent, {self._lost_reason}")
            return frame_id
        if kept_back:
            self._keep_back(frame_id, captured_monotonic_ns)
            return frame_id
        self._pace.sent(time.monotonic_ns())
        self._in_flight[frame_id] = captured_monotonic_ns
        captured_ns = max(1, captured_ns + self._wall.moved_ns - wall_moved_ns)
        frame = inference_pb2.Frame(
            frame_id=frame_id, capture_time_unix_nano=captured_ns, budget_nano=budget_ns, must_run=must_run
        )
        if connection.add(wire.frame_request(frame, inputs)):
            await asyncio.sleep(0)  # the writer writes now, whatever the caller does next
        return frame_id

    def cancel(self, frame_ids: Iterable[int]) -> None:
        """Withdraws frames that still wait; each of them is answered all the same. Other ids are ignored."""
        waiting = [frame_id for frame_id in frame_ids if frame_id in self._in_flight]
        if waiting and self._connection is not None:
            self._connection.cancel_frames(waiting)

    def _full(self) -> bool:
        return len(self._in_flight) + len(self._kept_back) + len(self._unread) >= FRAMES_HELD_MAX

    async def _ready(self, size: int, budget_s: float) -> Connection | None:
        """Waits for room and returns the connection. None: it is lost and did not come back within the budget."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + budget_s
        while True:
            if self._stopping.is_set() or self._ended:
                raise self._error or RuntimeError("the stream takes no more frames: it is finished or closed")
            connection = self._connection
            full = self._full()
            if not full and connection is not None and connection.has_room(size):
                return connection
            wait_s = None  # for the transport: as long as it takes
            if full:
                wait_s = UNREAD_WAIT_S
            elif connection is None:
                wait_s = give_up_s - loop.time()
                if wait_s <= 0:
                    return None
            self._changed.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                if full and len(self._unread) >= self._unread_max():
                    raise errors.ClientTooSlow(
                        f"{len(self._unread)} outcomes are unread and {len(self._in_flight)} frames unanswered: "
                        "iterate over the stream, in another task where need be, while you send"
                    ) from None

    # ---- receiving ----

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        """Returns the next outcome. After `finish` the iteration ends when all outcomes came. Where an error ended the
        stream, it is raised after the outcomes of all frames.
        """
        self._check_entered()
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
        outcome = self._unread.popleft()
        self._changed.set()
        return outcome

    async def _run(self, connection: Connection | None) -> None:
        """Receives over one connection after the other until the stream ends."""
        while connection is not None:
            opened_s = asyncio.get_running_loop().time()
            try:
                error = await self._receive(connection)
            finally:
                self._connection = None
                await connection.close()
            self._lost_reason = f"connection lost: {error}" if error.recoverable else f"stream ended: {error}"
            for frame_id in list(self._in_flight):
                self._cancel_here(frame_id, self._in_flight.pop(frame_id), self._lost_reason)
                self._give_back()
            self._changed.set()
            if asyncio.get_running_loop().time() - opened_s > BACKOFF_MAX_S:
                self._tries = 0  # it was a good connection
            connection = await self._reconnect(error)

    async def _receive(self, connection: Connection) -> errors.DulyError:
        """Takes in what comes until the connection ends; returns why it ended."""
        while True:
            try:
                response = await connection.read()
            except grpc.aio.AioRpcError as error:
                return self._error_of(error)
            if response is None:
                return errors.ServerUnavailable("the server ended the stream")
            if response.WhichOneof("response") == "advice":
                self._advise(advice_of(response.advice))
                continue
            now_ns = time.monotonic_ns()
            for message in response.outcomes.outcomes:
                captured_ns = self._in_flight.pop(message.frame_id, None)
                if captured_ns is None:
                    return errors.ProtocolError(f"an outcome came for frame {message.frame_id}, which is not in flight")
                self._take_in(outcome_of(message, now_ns - captured_ns))
                if self._kept_back:
                    self._give_back()
            self._changed.set()
            while len(self._unread) >= self._unread_max() and not self._closed:
                self._changed.clear()
                await self._changed.wait()

    def _advise(self, advice: Advice) -> None:
        if advice.kind == "VERSION_CHANGED":
            self._check = False  # the terms are those of the version before; the server knows better
        if self._follow_advice and advice.kind in ("SLOW_DOWN", "SPEED_UP"):
            self._pace.advised(time.monotonic_ns(), advice.period_ns, random.random())
        if self._on_advice is not None:
            asyncio.get_running_loop().call_soon(self._on_advice, advice)

    async def _reconnect(self, error: errors.DulyError) -> Connection | None:
        """Opens a new connection after `error` ended the last one; None: the stream is finished. Raises the last error
        where the server refuses the stream for good, or the tries are used up.
        """
        while not self._stopping.is_set():
            if not error.recoverable or (self._tries_max is not None and self._tries >= self._tries_max):
                raise error
            backoff_s = _backoff_s(self._tries)
            self._tries += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await self._stopping.wait()
                    return None
            try:
                self._connection = await self._connect(self._open_timeout_s)
            except errors.DulyError as failure:
                error = failure
                self._lost_reason = f"connection lost: {error}"
                continue
            self._changed.set()
            if self._stopping.is_set():
                await self._connection.finish()
            return self._connection
        return None

    async def _connect(self, timeout_s: float) -> Connection:
        self._newest = connection = Connection(self._start_call(), self._changed.set, self._wall)
        self._pace = Pace()  # what another connection was advised
        try:
            async with asyncio.timeout(timeout_s):
                self._terms = await connection.open(self._request)
            return connection
        except grpc.aio.AioRpcError as error:
            raise self._error_of(error) from error
        except TimeoutError as error:
            hints = through_proxy(self._target) + fork_hint()
            text = f"no answer from {self._target} in {self._open_timeout_s:g} s{hints}"
            raise errors.ServerUnavailable(text) from error
        finally:
            if not connection.is_open:
                await connection.close()

    def _unread_max(self) -> int:
        return min(max(1, self.opened.frames_in_flight_max), FRAMES_HELD_MAX // 2)

    def _take_in(self, outcome: Outcome) -> None:
        self._unread.append(outcome)
        self._wake_reader()

    def _cancel_here(self, frame_id: int, captured_ns: int, reason: str) -> None:
        self._take_in(Outcome(frame_id, Status.CANCELLED, time.monotonic_ns() - captured_ns, reason=reason))

    def _keep_back(self, frame_id: int, captured_ns: int) -> None:
        """A frame that is not sent: the next one that is due takes its place."""
        reason = f"not sent, the server advised a period of {self._pace.period_ns / 1e6:.4g} ms"
        latency_ns = time.monotonic_ns() - captured_ns
        self._kept_back.append(Outcome(frame_id, Status.SUPERSEDED, latency_ns, reason=reason))
        self._give_back()

    def _give_back(self) -> None:
        """Outcomes of frames kept back, as far as the order allows."""
        oldest_id = self._next_id
        if self._in_flight and self.opened.ordering == "ARRIVAL":
            oldest_id = next(iter(self._in_flight))
        while self._kept_back and self._kept_back[0].frame_id < oldest_id:
            self._take_in(self._kept_back.popleft())

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = error
        self._ended = True
        self._changed.set()
        self._wake_reader()


def _backoff_s(tries: int) -> float:
    """Returns the pause after so many failed tries."""
    return min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1)
