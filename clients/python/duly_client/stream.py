"""A stream as the application sees it: frames in, exactly one outcome a frame out, over as many calls as it takes.

Bounds: no more than the in-flight credit of outcomes wait to be read; then reading from the wire stops. No more than
HELD_MAX frames are unanswered or unread together; then `send` waits. Frames that wait for the transport are bounded in
`connection`. A frame is never sent twice: when the connection is lost, those in flight are CANCELLED.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

import grpc

from duly.v1 import inference_pb2
from duly_client import errors
from duly_client.clock import ClockEstimate
from duly_client.connection import Connection
from duly_client.convert import Array
from duly_client.feedback import Feedback, FeedbackResult, Label
from duly_client.forked import fork_hint, is_forked, using_grpc
from duly_client.frames import Frames
from duly_client.local import LocalConnection
from duly_client.proxy import through_proxy
from duly_client.sending import AnyConnection, Sender
from duly_client.types import Advice, Encoding, Outcome, OutcomeMessage, Payload, StreamTerms
from duly_client.wall_clock import WallClock

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
        connect: Callable[[Callable[[], None], WallClock], Awaitable[AnyConnection]],
        over_grpc: Callable[[Callable[[], None], WallClock], Connection] | None,
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
        send_labels: Callable[[Sequence[Feedback]], Awaitable[list[FeedbackResult]]],
    ) -> None:
        self._make_connection = connect
        self._over_grpc = over_grpc
        self._request = request
        self._target = target
        self._error_of = error_of
        self._send_labels = send_labels
        self._on_advice = on_advice
        self._wall = WallClock()
        self._frames = Frames()
        self._sender = Sender(self._frames, self._wall, check=check, follow_advice=follow_advice)
        self._tries_max = reconnect_tries_max if reconnect else 0
        self._open_timeout_s = open_timeout_s

        self._terms: StreamTerms | None = None
        self._connection: AnyConnection | None = None  # the open one
        self._newest: AnyConnection | None = None  # the one that is open or opening
        self._tries = 0  # failed tries to reconnect, in a row
        self._stopping = asyncio.Event()  # set once the stream is finished or closed: it does not reconnect any more
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    # ---- opening and ending ----

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a stream opens once; ask the client for another one")
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        connection = await self._open()
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

    async def _open(self) -> AnyConnection:
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
        self._stop()
        self._frames.drop()
        if is_forked():
            return  # what is left of it is the parent's
        if self._newest is not None:
            await self._newest.close()
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def finish(self) -> None:
        """Declares that no more frames follow; iteration ends after the last outcome."""
        self._check_entered()
        self._stop()
        if self._connection is not None:
            await self._connection.finish()

    def _stop(self) -> None:
        self._stopping.set()
        self._sender.stop()

    def _check_entered(self) -> None:
        """Raises RuntimeError where the stream was not entered, or in another event loop: it would wait for ever."""
        if self._loop is None:
            raise RuntimeError("the stream is not open: enter it with `async with`")
        # A thread runs one loop at a time. `get_running_loop` would ask the kernel for the process's id.
        if threading.get_ident() != self._thread or not self._loop.is_running():
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
        asked = self._sender.asked(budget_ms, must_run)
        frame = self._sender.frame(asked, payload, encoding, capture_time_ns)
        frame_id = self._sender.send_at_once(frame, asked)
        if frame_id is None:
            (frame_id,) = await self._sender.send((frame,), asked, within_credit=False)
        return frame_id

    async def send_many(
        self,
        payloads: Iterable[Payload] | Array,
        *,
        capture_times_ns: Sequence[int] | None = None,
        budget_ms: float | None = None,
        must_run: bool = False,
        encoding: Encoding | None = None,
    ) -> list[int]:
        """Sends frames and returns their ids, in their order. It does what as many calls of `send` do, for less: frames
        go in one message, as many as 4 MiB, the stream's credit and what the server reads as one message allow, the
        others in further ones. An array stands for as many frames as its first dimension has. Arguments are those of
        `send`, but for `capture_times_ns`, one for each frame; None: all were captured now.

        All frames are compared with what the model takes before the first is sent: where one does not fit, none is. Of
        more frames than may be unanswered (`frames_in_flight_max` and `bytes_in_flight_max` of `opened`) it sends the
        rest as outcomes come, while `send` would have them SHED; so outcomes must be read meanwhile. Where it raises or
        is cancelled then, the frames that were sent have their outcomes as ever, and the others have no ids.
        """
        using_grpc()
        self._check_entered()
        asked = self._sender.asked(budget_ms, must_run)
        return await self._sender.send_many(asked, payloads, encoding, capture_times_ns)

    async def loan(self, shape: tuple[int, ...] | None = None, *, name: str | None = None) -> Array:
        """Returns an array to be filled and given to `send`. Over the local transport it lies in the memory that is
        shared with the server, so that nothing is copied; it must not be touched any more once it was sent. An array
        that is not sent is given back when it is dropped.

        `shape`: None stands for the model's own. `name`: of the input, where the model has several; these are copied
        all the same. Waits while there is no room, as `send` does, and raises the same. Raises ValueError where the
        model has no such input or it takes text, or the shape is not stated and open.
        """
        self._check_entered()
        terms = self.opened
        spec = next((spec for spec in terms.inputs if name in (None, spec.name)), None)
        if spec is None or (name is None and len(terms.inputs) > 1):
            raise ValueError(f"name={name!r}: expected one of {', '.join(spec.name for spec in terms.inputs)}")
        if spec.datatype == "STRING":
            raise ValueError(f"input {spec.name!r} takes text, which has no size before it is there: send it")
        shape = spec.shape if shape is None else shape
        if min(shape, default=0) < 0:
            raise ValueError(f"shape: state it, input {spec.name!r} takes {list(spec.shape)}")
        return await self._sender.loan(shape, spec.dtype)

    def cancel(self, frame_ids: Iterable[int]) -> None:
        """Withdraws frames that still wait; each of them is answered all the same. Other ids are ignored."""
        waiting = self._frames.among_in_flight(frame_ids)
        if waiting and self._connection is not None:
            self._connection.cancel_frames(waiting)

    def key_of(self, frame_id: int) -> str:
        """Returns by what `Feedback` names the stream for that frame. It holds for good, so that whoever learns later
        what was right keeps it together with the frame's id. Empty: the server keeps no frames of the model.
        """
        return self._frames.key_of(frame_id)

    async def feedback(self, frame_id: int, label: Label, *, weight: float = 1.0, source: str = "") -> FeedbackResult:
        """Says what was right for a frame that was answered, as `Client.feedback` does, also when the stream has ended.

        Raises ValueError where the server keeps no frames of the model.
        """
        key = self.key_of(frame_id)
        (result,) = await self._send_labels([Feedback(key, frame_id, label, weight, source)])
        return result

    # ---- receiving ----

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        """Returns the next outcome. After `finish` the iteration ends when all outcomes came. Where an error ended the
        stream, it is raised after the outcomes of all frames.
        """
        self._check_entered()
        frames = self._frames
        if not frames.unread:
            self._look()
            await frames.wait()
        return frames.take()

    def batches(self) -> "Batches":
        """Iterates over the outcomes as over the stream itself, but gives all that wait at once: a list in the order in
        which they came, never an empty one. Each outcome is given once, whichever way; after `break` another iteration
        goes on where this one stopped.
        """
        return Batches(self)

    async def next_batch(self) -> list[Outcome]:
        """Returns the next list of `batches`."""
        self._check_entered()
        if not self._frames.unread:
            self._look()
        await self._frames.wait()
        return self._frames.take_all()

    def _look(self) -> None:
        if self._frames.in_flight and isinstance(self._connection, LocalConnection):
            self._connection.look()

    async def _run(self, connection: AnyConnection | None) -> None:
        """Receives over one connection after the other until the stream ends."""
        while connection is not None:
            opened_s = asyncio.get_running_loop().time()
            reason = "the stream was closed"
            try:
                error = await self._receive(connection)
                reason = f"connection lost: {error}" if error.recoverable else f"stream ended: {error}"
            finally:
                self._connection = None
                self._sender.lost(reason)
                await connection.close()
            self._frames.cancel_in_flight(reason)
            if asyncio.get_running_loop().time() - opened_s > BACKOFF_MAX_S:
                self._tries = 0  # it was a good connection
            connection = await self._reconnect(error)

    async def _receive(self, connection: AnyConnection) -> errors.DulyError:
        """Takes in what comes until the connection ends; returns why it ended."""
        frames = self._frames
        if isinstance(connection, LocalConnection):
            connection.take_at_once = self._take_at_once
        while True:
            try:
                received = await connection.read()
            except grpc.aio.AioRpcError as error:
                return self._error_of(error)
            except errors.DulyError as error:
                return error
            if received is None:
                return errors.ServerUnavailable("the server ended the stream")
            if isinstance(received, Advice):
                self._advise(received)
                continue
            try:
                frames.answered(received)
            except errors.ProtocolError as error:
                return error
            while frames.unread >= frames.unread_max and not self._closed:
                frames.changed.clear()
                await frames.changed.wait()

    def _take_at_once(self, outcomes: Sequence[OutcomeMessage]) -> bool:
        self._frames.answered(outcomes)
        return self._frames.unread < self._frames.unread_max

    def _advise(self, advice: Advice) -> None:
        if advice.kind == "VERSION_CHANGED":
            self._sender.check = False  # the terms are those of the version before; the server knows better
        if advice.kind in ("SLOW_DOWN", "SPEED_UP"):
            self._sender.advised(advice.period_ns)
        if self._on_advice is not None:
            asyncio.get_running_loop().call_soon(self._on_advice, advice)

    async def _reconnect(self, error: errors.DulyError) -> AnyConnection | None:
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
                connection = await self._connect(self._open_timeout_s)
            except errors.DulyError as failure:
                error = failure
                self._sender.lost(f"connection lost: {error}")
                continue
            if self._stopping.is_set():
                await connection.finish()
            return connection
        return None

    async def _connect(self, timeout_s: float) -> AnyConnection:
        connection: AnyConnection | None = None
        on_room = self._frames.changed.set
        try:
            async with asyncio.timeout(timeout_s):
                self._newest = connection = await self._make_connection(on_room, self._wall)
                try:
                    self._terms = terms = await connection.open(self._request)
                except errors.DulyError as error:
                    elsewhere = isinstance(error, errors.LocalUnavailable) or error.metadata.get("transport") == "grpc"
                    if self._over_grpc is None or not elsewhere:
                        raise
                    await connection.close()
                    self._newest = connection = self._over_grpc(on_room, self._wall)
                    self._terms = terms = await connection.open(self._request)
        except grpc.aio.AioRpcError as error:
            raise self._error_of(error) from error
        except TimeoutError as error:
            hints = through_proxy(self._target) + fork_hint()
            text = f"no answer from {self._target} in {self._open_timeout_s:g} s{hints}"
            raise errors.ServerUnavailable(text) from error
        finally:
            if connection is not None and not connection.is_open:
                await connection.close()
        self._connection = connection
        self._frames.agreed(terms)
        self._sender.opened(connection, terms)
        return connection

    def _end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self._sender.stop(error)
        self._frames.end(error)


class Batches:
    """The outcomes of a stream as lists."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[list[Outcome]]:
        return self

    async def __anext__(self) -> list[Outcome]:
        return await self._stream.next_batch()


def _backoff_s(tries: int) -> float:
    """Returns the pause after so many failed tries."""
    return min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1)
