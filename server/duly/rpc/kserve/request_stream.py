"""An open stream that takes requests: each becomes one frame or several, and gets one answer.

A request with several rows has one verdict. As soon as one of its frames gets no result, those that wait are withdrawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from duly.core.fates import DOES_NOT_FIT, RESULTS
from duly.core.types import BacklogPolicy, OutcomeStatus
from duly.models.kserve_model import rows_max
from duly.models.spec import Signature
from duly.rpc.kserve.common_requests import CommonRequest, common_of
from duly.rpc.kserve.messages import ModelInferRequest
from duly.rpc.kserve.parameters import Asked
from duly.rpc.kserve.regions import CallRegions
from duly.rpc.kserve.replies import ID_CHARS_MAX, Answer, ReplyWriter, Times
from duly.rpc.kserve.requests import Payload, RequestReader, Wanted
from duly.runtime.outcome import Outcome
from duly.streams.errors import CallError, InvalidFrame
from duly.streams.stream import Stream

_GRAVEST: Final = (
    OutcomeStatus.INVALID,
    OutcomeStatus.FAILED,
    OutcomeStatus.SHED,
    OutcomeStatus.SUPERSEDED,
    OutcomeStatus.SKIPPED,
    OutcomeStatus.EXPIRED,
    OutcomeStatus.CANCELLED,
    OutcomeStatus.LATE,
    OutcomeStatus.ON_TIME,
)
"""What a request comes to whose frames have several outcomes: the first of these that is among them. That the rest was
withdrawn follows from what came before."""


@dataclass(slots=True)
class Underway:
    """A request that is not answered yet."""

    request_id: str
    asked: Asked
    wanted: Sequence[Wanted] | None
    frame_ids: range
    outcomes: dict[int, Outcome] | None = None
    """Those of its frames that are answered, by frame id; None: it has one frame."""
    withdrawn: bool = False
    """Whether the frames that waited were taken back, as another one gets no result."""


class RequestStream:
    def __init__(self, stream: Stream, regions: CallRegions) -> None:
        """The stream must be open, and is closed by the caller."""
        self.stream = stream
        self.opened_as = stream.model
        """The model version that it was opened for."""
        self.regions = regions
        """The shared memory of whoever sends the requests."""
        self._batched = False
        """Whether the model takes rows, and whether the version did that served the stream before."""
        self._reader = self._reader_for(stream)
        self._writer: ReplyWriter | None = None
        self._next_id = 1
        self._underway: dict[int, Underway] = {}
        """The requests that are not answered, by the ids of their frames."""

    @property
    def idle(self) -> bool:
        """Whether everything that it took is answered."""
        return not self._underway

    def use(self, regions: CallRegions) -> None:
        """Has the requests from now on use the shared memory of another call."""
        self.regions = self._reader.regions = regions

    def _reader_for(self, stream: Stream) -> RequestReader:
        signature = stream.signature
        rows = rows_max(stream.served.version.config, signature, stream.terms.frames_in_flight_max)
        self._batched_before, self._batched = self._batched, rows > 0
        return RequestReader(signature, rows, self.regions)

    # ---- in ----

    def take(self, request: ModelInferRequest, asked: Asked, budget_ns: int) -> range:
        """Takes a request, which will be answered. Returns the ids of its frames. Raises CallError where it is refused
        before it is one, and InvalidTerms where the stream can't go on with a new version.
        """
        stream = self.stream
        self.follow()
        if len(request.id) > ID_CHARS_MAX:
            text = f"id has {len(request.id)} characters, at most {ID_CHARS_MAX} are taken"
            raise CallError("INVALID_REQUEST", text)
        wanted = self._reader.wanted(request)
        frames, problem = self._frames(request)
        if len(frames) > 1 and stream.terms.backlog is not BacklogPolicy.ALL:
            text = f"the request has {len(frames)} rows, which one with parameter 'backlog' {stream.terms.backlog.name}"
            raise CallError("INVALID_REQUEST", f"{text} can't have: each would take the place of the one before it")
        first = self._next_id
        self._next_id = first + len(frames)
        underway = Underway(request.id, asked, wanted, range(first, self._next_id), {} if len(frames) > 1 else None)
        received_unix_ns = stream.wall.now_ns()
        for frame_id in underway.frame_ids:
            self._underway[frame_id] = underway
            try:
                held = stream.take(frame_id, asked.captured_unix_ns, budget_ns, False, received_unix_ns)
            except BaseException:
                for number in range(first, frame_id + 1):
                    self._underway.pop(number, None)
                raise
            if held is None:
                continue
            payload = None if problem else frames[frame_id - first]
            if payload is None:
                stream.refuse(held, DOES_NOT_FIT, problem)
            else:
                held.last = asked.ends and frame_id == underway.frame_ids[-1]
                stream.submit(held, *payload)
        return underway.frame_ids

    def common_of(self, message: bytes, request: ModelInferRequest) -> CommonRequest | None:
        """Returns what a request that was taken has in common with others like it; None: nothing that makes them easier
        to read.
        """
        if len(request.raw_input_contents) != 1 or self._reader.wanted(request) is not None:
            return None
        if self._reader.signature.inputs[0].is_text:  # whose lengths are looked at each time
            return None
        frames, problem = self._frames(request)
        frame = frames[0]
        if problem or frame is None or len(frames) != 1 or len(frame[0]) != 1:
            return None
        return common_of(message, request, frame)

    def follow(self) -> Signature:
        """Returns what the model's version takes that serves the requests from now on. Raises InvalidTerms as `take`
        does.
        """
        self.stream.follow()
        if self.stream.signature is not self._reader.signature:
            self._reader = self._reader_for(self.stream)
        return self._reader.signature

    def take_common(self, request_id: str, frame: Payload, asked: Asked, budget_ns: int) -> None:
        """Takes a request that is like others before it, and has this one frame. What they have in common must have
        been learnt for what `follow` returns. Raises as `take` does.
        """
        frame_id = self._next_id
        self._next_id = frame_id + 1
        stream = self.stream
        self._underway[frame_id] = Underway(request_id, asked, None, range(frame_id, frame_id + 1))
        try:
            held = stream.take(frame_id, 0, budget_ns, False, stream.wall.now_ns())
        except BaseException:
            del self._underway[frame_id]
            raise
        if held is not None:
            stream.submit(held, *frame)

    def _frames(self, request: ModelInferRequest) -> tuple[Sequence[Payload | None], str]:
        """Returns (payloads of the request's frames, ""), or ([None], what is wrong with them). Raises CallError."""
        try:
            return self._reader.frames(request), ""
        except InvalidFrame as error:
            return [None], str(error)

    # ---- out ----

    def common_reply(self, outcome: Outcome, now_ns: int) -> bytes | None:
        """Returns the ModelStreamInferResponse to a request of one row that came out as nearly all do, sent at
        `now_ns`; None: `answer` says what it comes to.
        """
        frame_id = outcome.held.frame.frame_id
        underway = self._underway.get(frame_id)
        if underway is None or underway.outcomes is not None or underway.wanted is not None:
            return None
        writer = self._writer
        if writer is None or writer.signature is not outcome.held.signature:
            writer = self.writer((outcome,))
        reply = writer.common(underway.request_id, outcome, now_ns)
        if reply is not None:
            del self._underway[frame_id]
        return reply

    def answer(self, outcome: Outcome, now_ns: int) -> Answer | None:
        """Returns the answer that an outcome makes whole, which is sent at `now_ns`. None: more of the request's
        outcomes are to come, or the request was refused when some of its frames had been taken.
        """
        frame_id = outcome.held.frame.frame_id
        underway = self._underway.pop(frame_id, None)
        if underway is None:
            return None
        outcomes = underway.outcomes
        if outcomes is None:
            return self._whole(underway, (outcome,), now_ns)
        outcomes[frame_id] = outcome
        if len(outcomes) < len(underway.frame_ids):
            if outcome.status not in RESULTS and not underway.withdrawn:
                underway.withdrawn = True
                self.stream.withdraw([number for number in underway.frame_ids if number not in outcomes])
            return None
        return self._whole(underway, [outcomes[number] for number in underway.frame_ids], now_ns)

    def _whole(self, underway: Underway, outcomes: Sequence[Outcome], now_ns: int) -> Answer:
        gravest = outcomes[0]
        if len(outcomes) > 1:
            gravest = min(outcomes, key=lambda outcome: _GRAVEST.index(outcome.status))
        times = _times(outcomes, now_ns)
        status, reason = gravest.status, gravest.reason
        results = outcomes if status in RESULTS else ()
        asked = underway.asked
        guards = list(dict.fromkeys([name for outcome in outcomes for name in outcome.guards]))
        return Answer(underway.request_id, status.name, reason, times, results, underway.wanted, asked.outcomes, guards)

    def give_up(self) -> list[Underway]:
        """Returns the requests that are not answered, and never will be by an outcome."""
        left = list({id(underway): underway for underway in self._underway.values()}.values())
        self._underway.clear()
        return left

    def writer(self, outcomes: Sequence[Outcome]) -> ReplyWriter:
        """Returns what writes the replies with these results of one request, or, where there are none, a reply of the
        stream.
        """
        signature = outcomes[0].held.signature if outcomes else self.stream.signature
        if self._writer is None or self._writer.signature is not signature:
            model = outcomes[0].held.frame.model if outcomes else self.stream.model
            name, _, version = model.rpartition("/")
            batched = self._batched if signature is self._reader.signature else self._batched_before
            self._writer = ReplyWriter(signature, batched, name, version)
        return self._writer


def _times(outcomes: Sequence[Outcome], now_ns: int) -> Times:
    slack_ns, queue_ns, run_ns = outcomes[0].held.frame.deadline_ns - now_ns, 0, 0
    for outcome in outcomes:
        held, run = outcome.held, outcome.run
        slack_ns = min(slack_ns, held.frame.deadline_ns - now_ns)
        if run is None:
            queue_ns = max(queue_ns, now_ns - held.received_ns)
        else:
            queue_ns = max(queue_ns, run.started_ns - held.received_ns)
            run_ns = max(run_ns, run.finished_ns - run.started_ns)
    return Times(slack_ns // 1000, max(0, queue_ns) // 1000, max(0, run_ns) // 1000)
