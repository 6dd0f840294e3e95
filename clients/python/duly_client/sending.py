"""How the frames of a stream are sent: stamped, compared with what the model takes, and put into messages.

Whoever sends waits while the transport is full, while the connection is lost, and while nobody reads the outcomes. A
frame is given its id when it is sent, so that ids increase on the wire whoever sends.
"""

import asyncio
import operator
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from duly_client import wire
from duly_client.connection import Connection
from duly_client.convert import Array
from duly_client.errors import ClientTooSlow
from duly_client.frames import Frames
from duly_client.local import LocalConnection
from duly_client.pace import Pace
from duly_client.types import Encoding, Payload, StreamTerms
from duly_client.wall_clock import WallClock

UNREAD_WAIT_S = 10.0
"""How long `send` waits for an application that reads no outcomes."""
UNIX_NS_END = 1 << 63
"""The first time that the protocol cannot state."""
TOGETHER_BYTES_MAX = 4 << 20
"""Bytes of a message with several frames; one that is larger goes alone."""
TOGETHER_FRAMES_MAX = 1024
"""Frames of one message, and half as many as inputs: the server reads messages that hold some times more."""
TOGETHER_INPUTS_MAX = 2 * TOGETHER_FRAMES_MAX
TOGETHER_WAITING = 16
"""So many of frames that are alike wait for room together."""


AnyConnection = Connection | LocalConnection


class Frame(NamedTuple):
    """A frame that is to be sent."""

    inputs: wire.Inputs
    captured_ns: int
    """Capture time by the wall clock as it was when the application asked."""


class Asked(NamedTuple):
    """What the application asked for all frames of one call, and when."""

    budget_ns: int
    """0: the stream's."""
    must_run: bool
    wall_ns: int
    wall_moved_ns: int
    """How far the wall clock had been set by then."""
    monotonic_ns: int


class Sender:
    """The sending side of one stream, over all its connections."""

    def __init__(self, frames: Frames, wall: WallClock, *, check: bool, follow_advice: bool) -> None:
        self.check = check
        """Whether frames are compared with what the model takes."""
        self._frames = frames
        self._wall = wall
        self._follow_advice = follow_advice
        self._pace = Pace()
        self._terms: StreamTerms | None = None
        self._connection: AnyConnection | None = None  # the open one
        self._lost_reason = ""
        self._stopped = False
        self._error: BaseException | None = None

    # ---- what becomes of the stream ----

    def opened(self, connection: AnyConnection, terms: StreamTerms) -> None:
        """The stream is open, and has been advised nothing there."""
        self._connection, self._terms = connection, terms
        self._pace = Pace()
        self._frames.changed.set()

    def lost(self, reason: str) -> None:
        """There is no connection, for this reason."""
        self._connection, self._lost_reason = None, reason

    def stop(self, error: BaseException | None = None) -> None:
        """The stream takes no more frames, because of `error` or because it is finished or closed."""
        self._stopped, self._error = True, error or self._error
        self._frames.changed.set()

    def advised(self, period_ns: int) -> None:
        """The server advised a period; 0: none."""
        if self._follow_advice:
            self._pace.advised(time.monotonic_ns(), period_ns, random.random())

    # ---- frames ----

    def asked(self, budget_ms: float | None, must_run: bool) -> Asked:
        """The application calls now. Raises ValueError where it asks for what cannot be."""
        budget_ns = 0 if budget_ms is None else round(budget_ms * 1e6)
        if budget_ns < 0:
            raise ValueError(f"budget_ms must not be negative: {budget_ms}")
        return Asked(budget_ns, must_run, self._wall.now_ns(), self._wall.moved_ns, time.monotonic_ns())

    def frame(self, asked: Asked, payload: Payload, encoding: Encoding | None, capture_time_ns: int | None) -> Frame:
        """Makes a frame. Raises TypeError and ValueError where it cannot be sent."""
        terms = self._agreed()
        captured_ns = asked.wall_ns if capture_time_ns is None else operator.index(capture_time_ns)
        if not 0 < captured_ns < UNIX_NS_END:
            raise ValueError(f"capture_time_ns must be positive, in nanoseconds since 1970: {capture_time_ns}")
        inputs = wire.inputs_of(payload, encoding, terms.inputs if self.check else None)
        size = wire.FRAME_FIELDS_BYTES_MAX + inputs.size
        if self.check and 0 < terms.message_bytes_max < size and self._connection is not None:
            raise ValueError(f"the frame takes {size} bytes; {self._connection.most}")
        return Frame(inputs, captured_ns)

    async def loan(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Array:
        """Returns an array to be filled and sent, once there is room for it. Raises what ended the stream."""
        asked = self.asked(None, False)
        while True:
            if self._stopped:
                raise self._error or RuntimeError("the stream takes no more frames: it is finished or closed")
            array = self._connection.lend(shape, dtype) if self._connection is not None else None
            if array is not None:
                return array
            if not await self._change(asked, full=False):
                return np.empty(shape, dtype)

    def send_at_once(self, frame: Frame, asked: Asked) -> int | None:
        """Sends a frame and returns its id, where nothing speaks against it, as for most. None: see `send`."""
        connection = self._connection
        if connection is None or self._stopped or self._pace.period_ns or self._frames.room <= 0:
            return None
        size = 0 if connection.holds(frame.inputs) else wire.FRAME_FIELDS_BYTES_MAX + frame.inputs.size
        if not connection.has_room(size, 1):
            return None
        return self._put(connection, (frame,), asked).start

    async def send_many(
        self,
        asked: Asked,
        payloads: Iterable[Payload] | Array,
        encoding: Encoding | None,
        capture_times_ns: Sequence[int] | None,
    ) -> list[int]:
        """Sends frames within the credit and returns their ids. Raises what `frame` and `send` raise, the former before
        anything is sent.
        """
        payloads = payloads if isinstance(payloads, np.ndarray) else list(payloads)
        if capture_times_ns is not None and len(capture_times_ns) != len(payloads):
            raise ValueError(f"got {len(capture_times_ns)} capture_times_ns for {len(payloads)} frames")
        ids: list[int] = []
        if capture_times_ns is None and (alike := self._alike(payloads)) is not None:
            while len(ids) < len(payloads):
                sent = self._send_alike(alike.behind(len(ids)), asked)
                if not sent:  # as it waits for what is missing
                    some = range(len(ids), min(len(ids) + TOGETHER_WAITING, len(payloads)))
                    frames = [Frame(alike.inputs(nth), asked.wall_ns) for nth in some]
                    sent = await self.send(frames, asked, within_credit=True)
                ids += sent
            return ids
        frames = []
        for nth, payload in enumerate(payloads):
            capture_time_ns = None if capture_times_ns is None else capture_times_ns[nth]
            try:
                frames.append(self.frame(asked, payload, encoding, capture_time_ns))
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"frame {nth} of {len(payloads)}: {error}") from error
        return await self.send(frames, asked, within_credit=True)

    def _alike(self, payloads: Array | Sequence[Payload]) -> wire.Alike | None:
        """Returns frames that `_send_alike` may send; None: these are to be made one by one."""
        if not self.check or not isinstance(self._connection, LocalConnection):
            return None
        terms = self._agreed()
        alike = wire.alike_of(payloads, terms.inputs)
        if alike is None or 0 < terms.message_bytes_max < wire.FRAME_FIELDS_BYTES_MAX + alike.size:
            return None
        return alike

    def _send_alike(self, alike: wire.Alike, asked: Asked) -> Sequence[int]:
        """Sends as many of these frames, from the first on, as may be sent at once, and returns their ids."""
        connection, held = self._connection, self._frames
        count = min(len(alike.arrays), held.room, held.credit - held.in_flight)
        if held.credit_bytes:
            count = min(count, (held.credit_bytes - held.bytes_in_flight) // alike.size)
        if count <= 0 or self._stopped or self._pace.period_ns or not isinstance(connection, LocalConnection):
            return range(0)
        count, block = connection.place_alike(alike, count)
        if count:
            ids = held.next_ids(count)
            captured_ns = max(1, asked.wall_ns + self._wall.moved_ns - asked.wall_moved_ns)
            connection.put_alike(ids, captured_ns, asked.budget_ns, asked.must_run, alike, block)
            held.sent_alike(ids, asked.monotonic_ns, alike.size)
            return ids
        return range(0)

    async def send(self, frames: Sequence[Frame], asked: Asked, *, within_credit: bool) -> list[int]:
        """Sends frames and returns their ids. `within_credit`: it waits for outcomes where the server would else have
        more frames, or bytes of them, than it lets be unanswered. Raises ClientTooSlow, and what ended the stream.
        """
        ids: list[int] = []
        while len(ids) < len(frames):
            if self._stopped:
                raise self._error or RuntimeError("the stream takes no more frames: it is finished or closed")
            connection = self._connection
            kept_back = not asked.must_run and self._pace.period_ns and not self._pace.due(time.monotonic_ns())
            room, room_bytes = self._frames.room, TOGETHER_BYTES_MAX
            if within_credit and not kept_back:
                room, room_bytes = self._left_of_credit(frames[len(ids)], room)
            if connection is not None and room > 0:
                if kept_back:
                    ids += self._keep_back(frames[len(ids)], asked)
                    continue
                together, size = self._together(frames, len(ids), room, room_bytes)
                if len(together) == 1 and connection.holds(together[0].inputs):
                    size = 0
                if connection.has_room(size, len(together)):
                    ids += self._put(connection, together, asked)
                    continue
            if not await self._change(asked, full=room <= 0):
                ids += self._cancel(frames[len(ids)], asked)
        return ids

    def _left_of_credit(self, frame: Frame, room: int) -> tuple[int, int]:
        """Returns how many frames, `room` at most, and bytes of them may be sent; 0 frames: not even `frame`."""
        held = self._frames
        room_bytes = TOGETHER_BYTES_MAX
        if held.credit_bytes and held.in_flight:
            room_bytes = min(room_bytes, held.credit_bytes - held.bytes_in_flight)
            if frame.inputs.size > room_bytes:
                return 0, 0
        return min(room, held.credit - held.in_flight), room_bytes

    def _together(self, frames: Sequence[Frame], first: int, room: int, room_bytes: int) -> tuple[Sequence[Frame], int]:
        """Returns the frames from `first` on that go in one message, one at least, and its size."""
        size = wire.FRAME_FIELDS_BYTES_MAX + frames[first].inputs.size
        if len(frames) == first + 1 or self._pace.period_ns:  # the pace is kept frame by frame
            return frames[first : first + 1], size
        inputs = len(frames[first].inputs.pieces) // 2
        size_max = min(room_bytes, self._agreed().message_bytes_max or room_bytes)
        last = first + 1
        for frame in frames[last : first + min(room, TOGETHER_FRAMES_MAX)]:
            size_with = size + wire.FRAME_FIELDS_BYTES_MAX + frame.inputs.size
            inputs += len(frame.inputs.pieces) // 2
            if size_with > size_max or inputs > TOGETHER_INPUTS_MAX:
                break
            size = size_with
            last += 1
        return frames[first:last], size

    def _put(self, connection: AnyConnection, frames: Sequence[Frame], asked: Asked) -> range:
        """Gives frames to the connection, as one message."""
        ids = self._frames.next_ids(len(frames))
        moved_ns = self._wall.moved_ns - asked.wall_moved_ns
        monotonic_lead_ns = asked.monotonic_ns - asked.wall_ns
        stamped: list[wire.Stamped] = []
        in_flight = {}
        for frame_id, (inputs, captured_ns) in enumerate(frames, ids.start):
            stamped.append((frame_id, max(1, captured_ns + moved_ns) if moved_ns else captured_ns, inputs))
            in_flight[frame_id] = (captured_ns + monotonic_lead_ns, inputs.size)
        connection.put(stamped, asked.budget_ns, asked.must_run)
        self._frames.sent(in_flight)
        if self._pace.period_ns:
            self._pace.sent(time.monotonic_ns())
        return ids

    def _keep_back(self, frame: Frame, asked: Asked) -> range:
        ids = self._frames.next_ids(1)
        self._frames.keep_back(ids[0], _captured_monotonic_ns(frame, asked), self._pace.period_ns)
        return ids

    def _cancel(self, frame: Frame, asked: Asked) -> range:
        ids = self._frames.next_ids(1)
        self._frames.cancel(ids[0], _captured_monotonic_ns(frame, asked), f"not sent, {self._lost_reason}")
        return ids

    async def _change(self, asked: Asked, full: bool) -> bool:
        """Waits until something changes. False: the connection is lost and did not come back within the budget.

        `full`: so many frames are unanswered and outcomes unread that no more may be sent. Raises ClientTooSlow where
        that lasts because outcomes are not read.
        """
        wait_s = None  # for the transport: as long as it takes
        if full:
            wait_s = UNREAD_WAIT_S
        elif self._connection is None:
            budget_ns = asked.budget_ns or self._agreed().default_budget_ns
            wait_s = (asked.monotonic_ns + budget_ns - time.monotonic_ns()) / 1e9
            if wait_s <= 0:
                return False
        frames = self._frames
        frames.changed.clear()
        try:
            async with asyncio.timeout(wait_s):
                await frames.changed.wait()
        except TimeoutError:
            if full and frames.unread >= frames.unread_max:
                raise ClientTooSlow(
                    f"{frames.unread} outcomes are unread and {frames.in_flight} frames unanswered: "
                    "iterate over the stream, in another task where need be, while you send"
                ) from None
        return True

    def _agreed(self) -> StreamTerms:
        if self._terms is None:
            raise RuntimeError("the stream is not open: enter it with `async with`")
        return self._terms


def _captured_monotonic_ns(frame: Frame, asked: Asked) -> int:
    return asked.monotonic_ns - (asked.wall_ns - frame.captured_ns)
