"""Sequences over unary calls: requests of ModelInfer with the same `sequence_id` are frames of one stream.

A sequence belongs to its principal, whichever connections its calls come on, and to the model and version that they
name. It begins with the request that says so, on the terms that this one asks for, and is over with the one that ends
it, with one that begins it anew, or when it has been idle for long. Calls may come while others are under way: their
requests run in the order in which they came.
"""

import asyncio
from collections import Counter

from duly.rpc.bugs import internal
from duly.rpc.kserve.front_end import SEQUENCE_IDLE_NS_MAX, FrontEnd, budget_ns, check_start
from duly.rpc.kserve.messages import ModelInferRequest
from duly.rpc.kserve.parameters import Asked
from duly.rpc.kserve.regions import CallRegions
from duly.rpc.kserve.replies import Answer
from duly.rpc.kserve.request_stream import RequestStream
from duly.streams.errors import CallError
from duly.streams.rights import Rights

SEQUENCES_PRINCIPAL_MAX = 256
"""A principal may have so many sequences over unary calls; one more is refused: STREAMS_EXHAUSTED."""
SEQUENCES_TIMES_LESS = 2
"""All principals together may have as many as streams may be open, divided by this, so that streams have room."""

_Key = tuple[str, str, str, int | str]
"""Principal, model, version as the requests name it, and sequence id."""


class _Sequence:
    """One sequence, from the request that begins it until its stream is closed."""

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.opened: asyncio.Future[RequestStream | None] = asyncio.get_running_loop().create_future()
        """Done when its stream is open; None: it could not be opened."""
        self.over = False
        """Whether it takes no more requests."""
        self.calls: dict[int, asyncio.Future[Answer]] = {}
        """The answers that calls wait for, by the ids of their frames."""

    @property
    def taking(self) -> RequestStream | None:
        return self.opened.result() if self.opened.done() else None


class Sequences:
    def __init__(self, front: FrontEnd) -> None:
        self._front = front
        self._begun: dict[_Key, _Sequence] = {}
        """Those that take requests."""
        self._counts: Counter[str] = Counter()
        """How many sequences each principal has, those included that are being opened, and that owe answers only."""
        self._max = max(1, front.streams.limits.server.streams_max // SEQUENCES_TIMES_LESS)
        self._pumps: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return self._counts.total()

    # ---- in ----

    async def infer(
        self,
        request: ModelInferRequest,
        asked: Asked,
        rights: Rights,
        connection: str,
        regions: CallRegions,
        remaining_s: float | None,
    ) -> tuple[RequestStream, Answer]:
        """Serves a request of a sequence. Returns its answer, and the stream that it ran on. `regions`: the call's
        shared memory. `remaining_s`: how much is left of the call; None: any.

        Raises InvalidTerms, ModelError, or CallError where the request is refused, or its sequence has ended before it
        was answered.
        """
        key = (rights.principal, request.model_name, request.model_version, asked.sequence)
        sequence = self._begun.get(key)
        if sequence is None or asked.starts:
            if self._front.streams.draining:
                raise CallError("DRAINING", "the server is draining; ask elsewhere")
            check_start(request, asked)
            self._check_room(rights.principal, sequence)
            if sequence is not None:
                self._leave(sequence)
            sequence = _Sequence(key)
            taking = await self._begin(sequence, request, asked, rights, connection, regions)
        else:
            opened = await asyncio.shield(sequence.opened)
            if opened is None or sequence.over:
                check_start(request, asked)
            assert opened is not None, "a sequence that was not opened takes no requests"
            taking = opened
            self._judge_anew(sequence, taking, rights)
        taking.use(regions)
        stream = taking.stream
        try:
            frame_ids = taking.take(request, asked, budget_ns(stream.terms.budget_ns, asked, remaining_s))
        except BaseException:
            if asked.starts:  # its first request was none
                self._leave(sequence)
            raise
        del request
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        sequence.calls.update(dict.fromkeys(frame_ids, answer))
        if asked.ends:
            self._leave(sequence)
        try:
            return taking, await answer
        except asyncio.CancelledError:
            if not stream.closed:
                stream.withdraw(frame_ids)
            raise
        finally:
            for frame_id in frame_ids:
                sequence.calls.pop(frame_id, None)

    async def _begin(
        self,
        sequence: _Sequence,
        request: ModelInferRequest,
        asked: Asked,
        rights: Rights,
        connection: str,
        regions: CallRegions,
    ) -> RequestStream:
        """Opens the stream of a sequence. Raises InvalidTerms, ModelError or CallError."""
        front, principal = self._front, rights.principal
        self._counts[principal] += 1
        self._begun[sequence.key] = sequence
        try:
            asking = front.stream_request(request, asked, rights)
            stream = await front.streams.open(asking, rights, connection)
        except BaseException:
            self._leave(sequence)
            self._release(principal)
            sequence.opened.set_result(None)
            raise
        taking = RequestStream(stream, regions)
        stream.ended.add_done_callback(lambda _: stream.outbox.changed.set())
        sequence.opened.set_result(taking)
        pump = asyncio.create_task(self._pump(sequence, taking))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        return taking

    def _check_room(self, principal: str, replaced: _Sequence | None) -> None:
        """Raises CallError where there is no room for one more sequence of a principal. `replaced`: whose place it
        takes.
        """
        more = 1 if replaced is None else 0
        if self._counts[principal] + more > SEQUENCES_PRINCIPAL_MAX or len(self) + more > self._max:
            text = (
                f"{self._counts[principal]} sequences of {principal!r} are open already, {len(self)} in all; at most "
            )
            text += f"{SEQUENCES_PRINCIPAL_MAX} may be, {self._max} in all: end some with 'sequence_end'"
            raise CallError("STREAMS_EXHAUSTED", text)

    def _judge_anew(self, sequence: _Sequence, taking: RequestStream, rights: Rights) -> None:
        """Holds a sequence to the rights that its principal has now. Raises CallError where it may not go on."""
        try:
            self._front.streams.judge_anew(taking.stream, rights)
        except CallError:
            self._leave(sequence)
            raise

    # ---- out ----

    async def _pump(self, sequence: _Sequence, taking: RequestStream) -> None:
        """Gives the calls of a sequence their answers, until it is over and all are given."""
        stream = taking.stream
        error: BaseException | None = None
        try:
            while True:
                item = stream.next()
                if item is not None:
                    if isinstance(item, tuple):
                        now_ns, outcomes = item
                        for outcome in outcomes:
                            answer = taking.answer(outcome, now_ns)
                            call = sequence.calls.get(outcome.held.frame.frame_id)
                            if answer is not None and call is not None and not call.done():
                                call.set_result(answer)
                    stream.written()
                elif stream.closed:
                    break
                elif stream.ended.done() or (sequence.over and taking.idle):
                    self._leave(sequence)
                    stream.close()
                else:
                    await stream.outbox.changed.wait()
            error = stream.ended.exception() if stream.ended.done() else None
        except CallError as broken:
            error = broken
        except Exception:
            error = internal("the answers of a sequence")
        finally:
            self._close(sequence, taking, error)

    def _close(self, sequence: _Sequence, taking: RequestStream, error: BaseException | None) -> None:
        """Closes the stream of a sequence. Calls that still wait get the error."""
        self._leave(sequence)
        stream = taking.stream
        stream.end(None)
        stream.close()
        stream.abandon()
        self._front.streams.closed(stream, taking.opened_as)
        self._release(stream.principal)
        for call in sequence.calls.values():
            if not call.done():
                call.set_exception(error or CallError("FRAME_CANCELLED", "the sequence is over"))

    # ---- the end ----

    def _leave(self, sequence: _Sequence) -> None:
        """Has a sequence take no more requests. Its stream is closed once what it took is answered."""
        sequence.over = True
        if self._begun.get(sequence.key) is sequence:
            del self._begun[sequence.key]
        if sequence.taking is not None:
            sequence.taking.stream.outbox.changed.set()

    def _release(self, principal: str) -> None:
        self._counts[principal] -= 1
        if not self._counts[principal]:
            del self._counts[principal]

    def end_all(self) -> None:
        """Ends all sequences once their calls are answered."""
        for sequence in list(self._begun.values()):
            self._leave(sequence)

    def watch(self, now_ns: int) -> None:
        """Ends sequences that are idle for long. It must be called periodically."""
        for sequence in list(self._begun.values()):
            taking = sequence.taking
            if taking is not None and taking.idle and now_ns - taking.stream.heard_ns > SEQUENCE_IDLE_NS_MAX:
                self._leave(sequence)
