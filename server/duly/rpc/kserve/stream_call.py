"""One call of ModelStreamInfer: any number of requests, each answered as soon as it is done.

The requests of a call for one model are frames of one stream, as far as their parameters ask for the same terms; those
of one sequence are frames of a stream of their own, on the terms of its first request. The call keeps a stream until it
ends, and a sequence until that does or is idle for long.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from duly.core.types import BacklogPolicy
from duly.models.spec import Signature
from duly.rpc.kserve import wording
from duly.rpc.kserve.common_requests import CommonRequest, read
from duly.rpc.kserve.front_end import SEQUENCE_IDLE_NS_MAX, FrontEnd, budget_ns, check_start
from duly.rpc.kserve.messages import ModelInferRequest
from duly.rpc.kserve.parameters import Asked, asked_for
from duly.rpc.kserve.replies import in_stream, only_id
from duly.rpc.kserve.request_stream import RequestStream
from duly.rpc.places import Place as CallPlace
from duly.runtime.catalogue import ModelError
from duly.runtime.outcome import Outcome
from duly.streams.cheap_work import Budget, CheapWork
from duly.streams.errors import CallError, InvalidFrame, InvalidTerms
from duly.streams.rights import Rights
from duly.streams.stream import CHEAP_BURST, CHEAP_PER_S, Stream

STREAMS_MAX = 256
"""A call may have so many streams and sequences. One more takes the place of a stream that is idle; where all are
sequences or have requests under way, it is refused: STREAMS_EXHAUSTED."""
LEARNT_MAX = 256
"""How often what requests have in common may change; further ones are left to protobuf for good, as a client whose
requests are another each time would only pay for it."""
REFUSALS_MAX = 64
"""When so many refusals of one call wait to be written, no more is read from it."""
_TOO_SLOW: Final = "the client took no reply for {:g} s (slow_reader_timeout_s)"
_ENDS_CALL: Final = frozenset(("CLIENT_TOO_SLOW", "DRAINING", "NOT_PERMITTED"))
"""Reasons with which a stream ends that hold for its whole call."""

_Key = tuple[str, str, int, int, BacklogPolicy, int, int | str]


class StreamCall:
    def __init__(
        self, front: FrontEnd, rights: Rights, connection: str, until_s: float | None, place: CallPlace
    ) -> None:
        """`until_s`: the call's deadline, by the event loop's clock; None: it has none. `place`: what it gives up for
        another call while it has no stream.
        """
        self._front = front
        self._rights = rights
        self._connection = connection
        self._regions = front.regions.of(connection, rights.principal)
        self._until_s = until_s
        self._streams: dict[_Key, RequestStream] = {}
        self._leaving: list[RequestStream] = []
        """Streams that take no more requests, and owe answers perhaps."""
        self._common: tuple[CommonRequest, Signature, Asked, _Key, RequestStream] | None = None
        """What the newest request was like, if others like it are read without protobuf, what its model took then, and
        its stream."""
        self._learns = LEARNT_MAX
        self._refusals: deque[bytes] = deque()
        """Replies to requests that were refused before they became frames."""
        self._fewer_refusals = asyncio.Event()
        host = front.streams.host
        self._cheap = CheapWork(Budget(host.driver.clock, CHEAP_PER_S, CHEAP_BURST), host.cheap)
        self._changed = asyncio.Event()
        self._finished = False
        self._closed = False
        self._writing: RequestStream | None = None
        """The stream whose replies are being sent."""
        self._place = place
        place.waits(True)
        place.ended.add_done_callback(self._place_taken)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the call is over, with the reason as an exception unless all is well."""

    @property
    def open_streams(self) -> int:
        return len(self._streams) + len(self._leaving)

    # ---- in ----

    def take_common(self, message: bytes) -> Stream | None:
        """Takes a request that is like one before it. Returns its stream; None: `take` has to look at it."""
        if self._common is None or self._until_s is not None:
            return None
        common, signature, asked, key, taking = self._common
        found = read(message, common)
        stream = taking.stream
        if found is None or stream.ended.done() or self._streams.get(key) is not taking:
            return None
        try:
            if taking.follow() is not signature:
                return None  # another version may take the same bytes for something else
            taking.take_common(*found, asked, asked.budget_ns or stream.terms.budget_ns)
        except (CallError, InvalidTerms):
            return None  # and finds the same
        return stream

    async def take(self, message: bytes, request: ModelInferRequest) -> None:
        """Takes a request, which the message is, and waits until another one may come."""
        try:
            asked = asked_for(request.parameters)
            key, taking, is_new = await self._stream_for(request, asked)
            remaining_s = None if self._until_s is None else self._until_s - asyncio.get_running_loop().time()
            try:
                taking.take(request, asked, budget_ns(taking.stream.terms.budget_ns, asked, remaining_s))
            except CallError:
                if is_new and asked.sequence:  # its first request was none
                    self._leave(key)
                raise
            if asked.sequence and asked.ends:
                self._leave(key)
            elif self._learns and not asked.sequence and not asked.captured_unix_ns:
                self._learns -= 1
                common = taking.common_of(message, request)
                self._common = (common, taking.follow(), asked, key, taking) if common is not None else None
        except InvalidTerms as error:
            await self._refuse(request, wording.invalid_terms(error))
        except (CallError, ModelError) as error:
            await self._refuse(request, error)
        else:
            if not taking.stream.has_room:
                await taking.stream.room()

    async def _stream_for(self, request: ModelInferRequest, asked: Asked) -> tuple[_Key, RequestStream, bool]:
        """Returns the stream of a request, and whether it was opened for it. Raises CallError, ModelError, or
        InvalidTerms.
        """
        if asked.sequence and not self._front.keeps_state(request, self._rights):
            asked.sequence = 0
        key: _Key = (
            request.model_name,
            request.model_version,
            asked.priority,
            asked.period_ns,
            asked.backlog,
            asked.backlog_frames,
            0,
        )
        if asked.sequence:
            key = (request.model_name, request.model_version, 0, 0, BacklogPolicy.ALL, 0, asked.sequence)
        known = self._streams.get(key)
        if known is not None and (known.stream.ended.done() or (asked.sequence and asked.starts)):
            if known.idle and known is not self._writing:
                self._close(self._streams.pop(key))  # so that the new one has its place
            else:
                self._leave(key)
            known = None
        if known is not None:
            return key, known, False
        if asked.sequence:
            check_start(request, asked)
        if self.open_streams >= STREAMS_MAX:
            self._make_room()
        asking = self._front.stream_request(request, asked, self._rights)
        stream = await self._front.streams.open(asking, self._rights, self._connection)
        opened = RequestStream(stream, self._regions)
        if self.ended.done():  # meanwhile
            self._close(opened)
            raise CallError("STREAMS_EXHAUSTED", "the call is over")
        self._place.waits(False)
        stream.outbox.changed = self._changed
        stream.ended.add_done_callback(self._stream_ended)
        self._streams[key] = opened
        return key, opened, True

    def _make_room(self) -> None:
        """Lets a stream go that is idle. Raises CallError where there is none."""
        for key, other in self._streams.items():
            if other.idle and other is not self._writing and not key[-1]:
                self._close(self._streams.pop(key))
                return
        text = f"the call has {STREAMS_MAX} streams and sequences already; end a sequence, or open another call"
        raise CallError("STREAMS_EXHAUSTED", text)

    def _leave(self, key: _Key) -> None:
        """Has a stream take no more requests."""
        self._leaving.append(self._streams.pop(key))
        self._changed.set()

    async def _refuse(self, request: ModelInferRequest, error: CallError | ModelError) -> None:
        self._put_error(request.id, wording.told(error, self._rights))
        owed_ns = self._cheap.done()
        if owed_ns:
            await asyncio.wait([self.ended], timeout=owed_ns / 1e9)
        while len(self._refusals) >= REFUSALS_MAX and not self.ended.done():
            self._fewer_refusals.clear()
            await self._fewer_refusals.wait()

    def _put_error(self, request_id: str, text: str) -> None:
        """Has an error written that belongs to no outcome."""
        self._refusals.append(in_stream(only_id(request_id), wording.of_request(request_id, text)))
        self._changed.set()

    def finish(self) -> None:
        """Notes that no more requests come."""
        self._finished = True
        self._changed.set()

    # ---- out ----

    async def write(self, send: Callable[[bytes], Awaitable[object]]) -> None:
        """Sends what there is to send, until everything is sent and nothing more comes, which ends the call."""
        while not self._closed:
            # What is set while nothing is awaited is seen by this pass, so that nothing is missed when it waits.
            wrote = False
            while self._refusals:
                wrote = True
                await self._send_refusal(self._refusals.popleft(), send)
            for key, taking in list(self._streams.items()):
                if taking.stream.ended.done() and self._streams.get(key) is taking:
                    self._leave(key)
                elif taking.stream.outbox.outcomes or taking.stream.outbox.notices:
                    wrote = await self._write_out(taking, send) or wrote
            for leaving in list(self._leaving):
                if leaving.stream.ended.done() and not leaving.stream.closed:
                    leaving.stream.close()
                wrote = await self._write_out(leaving, send) or wrote
                if leaving.stream.closed and not leaving.stream.outbox.outcomes:
                    for underway in leaving.give_up():
                        self._put_error(underway.request_id, _why(leaving.stream))
                        wrote = True
                if leaving.idle and not self._closed:
                    self._leaving.remove(leaving)
                    self._close(leaving)
            if wrote:
                continue
            finished = self._finished or self.ended.done()
            if finished and not self._leaving and all(taking.idle for taking in self._streams.values()):
                self.end(None)
                return
            self._changed.clear()
            await self._changed.wait()

    async def _write_out(self, taking: RequestStream, send: Callable[[bytes], Awaitable[object]]) -> bool:
        """Sends what the stream has. Returns whether there was anything."""
        item = taking.stream.next()
        if item is None:
            return False
        if isinstance(item, tuple):
            now_ns, outcomes = item
            self._writing = taking
            for outcome in outcomes:
                reply = taking.common_reply(outcome, now_ns) or self._reply(taking, outcome, now_ns)
                if reply is not None:
                    await send(reply)
            self._writing = None
        taking.stream.written()
        return True

    async def _send_refusal(self, reply: bytes, send: Callable[[bytes], Awaitable[object]]) -> None:
        """Sends a reply that belongs to no stream, so that nobody else sees whether the client takes it."""
        sending = asyncio.ensure_future(send(reply))
        slow_s = self._front.streams.slow_reader_s
        await asyncio.wait([sending], timeout=slow_s)
        if not sending.done():
            self.end(CallError("CLIENT_TOO_SLOW", _TOO_SLOW.format(slow_s)))
        await sending
        self._fewer_refusals.set()

    def _reply(self, taking: RequestStream, outcome: Outcome, now_ns: int) -> bytes | None:
        """Returns the reply that an outcome makes whole; None: more outcomes belong to its request."""
        answer = taking.answer(outcome, now_ns)
        if answer is None:
            return None
        writer = taking.writer(answer.outcomes)
        try:
            if answer.wanted is not None:
                for place, parts in writer.places(answer):
                    self._regions.write(place, parts)
            response = writer.response(answer)
        except (InvalidFrame, CallError) as error:
            text = wording.of_request(answer.request_id, str(error))
            return in_stream(only_id(answer.request_id), text)
        return in_stream(response, "" if answer.outcomes or answer.tells else wording.dropped(answer))

    # ---- the end ----

    def end(self, error: Exception | None) -> None:
        """Notes that the call is over. `error`: the reason, where it does not end well."""
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
            self._changed.set()
            self._fewer_refusals.set()

    def judge_anew(self, rights: Rights) -> None:
        """Holds the call's streams to other rights. Raises CallError where the call may not go on."""
        self._rights = rights
        for taking in (*self._streams.values(), *self._leaving):
            self._front.streams.judge_anew(taking.stream, rights)

    def stop(self) -> None:
        """Has all streams take no more requests. What they have is still sent, as long as `write` runs."""
        for key, taking in list(self._streams.items()):
            taking.stream.end(None)
            self._leave(key)

    def close(self) -> None:
        """Closes all streams; what they owe is counted as unread. It must be called when the call is over."""
        self._closed = True
        self.end(None)
        self._changed.set()
        self._fewer_refusals.set()
        for taking in (*self._streams.values(), *self._leaving):
            self._close(taking)
        self._streams.clear()
        self._leaving.clear()

    def _close(self, taking: RequestStream) -> None:
        stream = taking.stream
        stream.end(None)
        stream.close()
        stream.abandon()
        self._front.streams.closed(stream, taking.opened_as)
        if not self.open_streams:
            self._place.waits(True)

    def watch(self, now_ns: int) -> None:
        """Ends sequences that are idle for long. It must be called periodically."""
        for key, taking in list(self._streams.items()):
            if key[-1] and taking.idle and now_ns - taking.stream.heard_ns > SEQUENCE_IDLE_NS_MAX:
                self._leave(key)

    def _place_taken(self, _: "asyncio.Future[None]") -> None:
        self.end(CallError("CALLS_EXHAUSTED", "the call had no stream, and another needed its place"))

    def _stream_ended(self, ended: "asyncio.Future[None]") -> None:
        error = ended.exception()
        if isinstance(error, CallError) and error.reason in _ENDS_CALL:
            self.end(error)
        self._changed.set()


def _why(stream: Stream) -> str:
    error = stream.ended.exception()
    return f"CANCELLED: its stream has ended{f': {error}' if error is not None else ''}"
