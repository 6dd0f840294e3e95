"""One call of ModelStreamInfer: any number of requests, each answered as soon as it is done.

The requests of a call for one model are frames of one stream, as far as their parameters ask for the same terms; those
of one sequence are frames of a stream of their own. The call keeps a stream until it ends, a sequence until that does.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from duly.core.types import BacklogPolicy, StreamClass
from duly.rpc.kserve import wording
from duly.rpc.kserve.front_end import FrontEnd, budget_ns, check_start
from duly.rpc.kserve.messages import ModelInferRequest
from duly.rpc.kserve.parameters import Asked, asked_for
from duly.rpc.kserve.replies import in_stream, only_id
from duly.rpc.kserve.request_stream import RequestStream
from duly.rpc.kserve.requests import Place
from duly.runtime.catalogue import ModelError
from duly.runtime.outcome import Outcome
from duly.streams.cheap_work import Budget, CheapWork
from duly.streams.errors import CallError, InvalidFrame, InvalidTerms
from duly.streams.rights import Rights
from duly.streams.stream import CHEAP_BURST, CHEAP_PER_S, Stream

STREAMS_MAX = 256
"""A call may have so many streams and sequences. One more takes the place of a stream that is idle; where all are
sequences or have requests under way, it is refused: STREAMS_EXHAUSTED."""
REFUSALS_MAX = 64
"""When so many refusals of one call wait to be written, no more is read from it."""
_ENDS_CALL: Final = frozenset(("CLIENT_TOO_SLOW", "DRAINING", "NOT_PERMITTED"))
"""Reasons with which a stream ends that hold for its whole call."""

_Key = tuple[str, str, StreamClass | None, int, BacklogPolicy, int, int | str]


class StreamCall:
    def __init__(self, front: FrontEnd, rights: Rights, connection: str, until_s: float | None) -> None:
        """`until_s`: the call's deadline, by the event loop's clock; None: it has none."""
        self._front = front
        self._rights = rights
        self._connection = connection
        self._until_s = until_s
        self._streams: dict[_Key, RequestStream] = {}
        self._leaving: list[RequestStream] = []
        """Streams that take no more requests, and owe answers perhaps."""
        self._refusals: deque[bytes] = deque()
        """Replies to requests that were refused before they became frames."""
        self._fewer_refusals = asyncio.Event()
        host = front.streams.host
        self._cheap = CheapWork(Budget(host.driver.clock, CHEAP_PER_S, CHEAP_BURST), host.cheap)
        self._changed = asyncio.Event()
        self._finished = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the call is over, with the reason as an exception unless all is well."""

    @property
    def open_streams(self) -> int:
        return len(self._streams) + len(self._leaving)

    # ---- in ----

    async def take(self, request: ModelInferRequest) -> None:
        """Takes a request, and waits until another one may come."""
        try:
            asked = asked_for(request.parameters)
            key, taking = await self._stream_for(request, asked)
            remaining_s = None if self._until_s is None else self._until_s - asyncio.get_running_loop().time()
            taking.take(request, asked, budget_ns(taking.stream.terms.budget_ns, asked, remaining_s))
            if asked.sequence and asked.ends:
                self._leave(key)
        except InvalidTerms as error:
            await self._refuse(request, wording.invalid_terms(error))
        except (CallError, ModelError) as error:
            await self._refuse(request, error)
        else:
            if not taking.stream.has_room:
                await taking.stream.room()

    async def _stream_for(self, request: ModelInferRequest, asked: Asked) -> tuple[_Key, RequestStream]:
        """Returns the stream of a request. Raises CallError, ModelError, or InvalidTerms."""
        if asked.sequence and not self._front.keeps_state(request, self._rights):
            asked.sequence = 0
        key = (
            request.model_name,
            request.model_version,
            asked.stream_class,
            asked.period_ns,
            asked.backlog,
            asked.backlog_frames,
            asked.sequence,
        )
        known = self._streams.get(key)
        if known is not None and (known.stream.ended.done() or (asked.sequence and asked.starts)):
            self._leave(key)
            known = None
        if known is not None:
            return key, known
        if asked.sequence:
            check_start(request, asked)
        if self.open_streams >= STREAMS_MAX:
            self._make_room()
        asking = self._front.stream_request(request, asked, self._rights)
        stream = await self._front.streams.open(asking, self._rights, self._connection)
        opened = RequestStream(stream, self._read_region)
        if self.ended.done():  # meanwhile
            self._close(opened)
            raise CallError("STREAMS_EXHAUSTED", "the call is over")
        stream.outbox.changed = self._changed
        stream.ended.add_done_callback(self._stream_ended)
        self._streams[key] = opened
        return key, opened

    def _read_region(self, place: Place) -> bytes:
        return self._front.regions.read(self._connection, place)

    def _make_room(self) -> None:
        """Lets a stream go that is idle. Raises CallError where there is none."""
        for key, other in self._streams.items():
            if other.idle and not key[-1]:
                self._leave(key)
                return
        text = f"the call has {STREAMS_MAX} streams and sequences already; end a sequence, or open another call"
        raise CallError("STREAMS_EXHAUSTED", text)

    def _leave(self, key: _Key) -> None:
        """Has a stream take no more requests."""
        self._leaving.append(self._streams.pop(key))
        self._changed.set()

    async def _refuse(self, request: ModelInferRequest, error: CallError | ModelError) -> None:
        final = bool(request.parameters) and "triton_enable_empty_final_response" in request.parameters
        self._put_error(request.id, final, wording.told(error, self._rights))
        owed_ns = self._cheap.done()
        if owed_ns:
            await asyncio.wait([self.ended], timeout=owed_ns / 1e9)
        while len(self._refusals) >= REFUSALS_MAX and not self.ended.done():
            self._fewer_refusals.clear()
            await self._fewer_refusals.wait()

    def _put_error(self, request_id: str, final: bool, text: str) -> None:
        """Has an error written that belongs to no outcome."""
        self._refusals.append(in_stream(only_id(request_id, final), wording.of_request(request_id, text)))
        self._changed.set()

    def finish(self) -> None:
        """Notes that no more requests come."""
        self._finished = True
        self._changed.set()

    # ---- out ----

    async def write(self, send: Callable[[bytes], Awaitable[object]]) -> None:
        """Sends what there is to send, until everything is sent and nothing more comes, which ends the call."""
        while not self.ended.done():
            # What is set while nothing is awaited is seen by this pass, so that nothing is missed when it waits.
            wrote = False
            while self._refusals:
                wrote = True
                await send(self._refusals.popleft())
                self._fewer_refusals.set()
            for key, taking in list(self._streams.items()):
                if taking.stream.ended.done() and self._streams.get(key) is taking:
                    self._leave(key)
                elif taking.stream.outbox.outcomes or taking.stream.outbox.notices:
                    wrote = await self._write_out(taking, send) or wrote
            for leaving in list(self._leaving):
                if leaving.stream.ended.done():
                    leaving.stream.close()
                wrote = await self._write_out(leaving, send) or wrote
                if leaving.stream.closed and not leaving.stream.outbox.outcomes:
                    for underway in leaving.give_up():
                        asked = underway.asked
                        self._put_error(underway.request_id, asked.empty_final, _why(leaving.stream))
                        wrote = True
                if leaving.idle:
                    self._leaving.remove(leaving)
                    self._close(leaving)
            if wrote:
                continue
            if self._finished and not self._leaving and all(taking.idle for taking in self._streams.values()):
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
            for outcome in outcomes:
                reply = self._reply(taking, outcome, now_ns)
                if reply is not None:
                    await send(reply)
        taking.stream.written()
        return True

    def _reply(self, taking: RequestStream, outcome: Outcome, now_ns: int) -> bytes | None:
        """Returns the reply that an outcome makes whole; None: more outcomes belong to its request."""
        answer = taking.answer(outcome, now_ns)
        if answer is None:
            return None
        writer = taking.writer(answer.outcomes)
        try:
            if answer.wanted is not None:
                for place, parts in writer.places(answer):
                    self._front.regions.write(self._connection, place, parts)
            response = writer.response(answer)
        except (InvalidFrame, CallError) as error:
            text = wording.of_request(answer.request_id, str(error))
            return in_stream(only_id(answer.request_id, answer.final), text)
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

    def close(self) -> None:
        """Closes all streams; what they owe is counted as unread. It must be called when the call is over."""
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

    def _stream_ended(self, ended: "asyncio.Future[None]") -> None:
        error = ended.exception()
        if isinstance(error, CallError) and error.reason in _ENDS_CALL:
            self.end(error)
        self._changed.set()


def _why(stream: Stream) -> str:
    error = stream.ended.exception()
    return f"CANCELLED: its stream has ended{f': {error}' if error is not None else ''}"
