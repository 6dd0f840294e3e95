"""One open stream: frames come in through `read`, outcomes leave through `write`, each a long-lived task.

The reader never waits for inference. The writer sends all outcomes that are ready together in one message. What waits
for the writer is bounded: while a client does not read, the server does not read from it either.
"""

import asyncio
import time
from collections import deque
from typing import Any

import grpc
import structlog

from duly.core.events import Advice, FrameRefused, FramesCancelled
from duly.core.types import Frame, OutcomeStatus, Verdict
from duly.metrics import Metrics
from duly.rpc.codec import FrameReader, InvalidFrame, OutcomeWriter, parse, tensor_spec
from duly.rpc.errors import REASON_CHARS_MAX, CallError
from duly.rpc.terms import Limits, clock_of, ordering_of, stream_terms, wanted_outputs
from duly.runtime.catalogue import Catalogue, LoadedVersion
from duly.runtime.driver import Driver
from duly.runtime.outcome import Outcome
from duly.v1 import inference_pb2

_log = structlog.get_logger("duly.stream")

FRAMES_A_TURN = 64
CANCELS_A_TURN = 1024
"""Of one message, before other streams have their turn."""
AGE_NS_MAX = 10 * 365 * 86_400 * 10**9
"""Older frames count as being of this age: what is written must fit the wire's 64 bits."""
VERSIONS_IN_FLIGHT_MAX = 8
"""Versions that may have frames of one stream in flight; no budget is so long that more are activated within it."""
OUTBOX_FRAMES = 64
"""Outcomes of one message at most, and how many may wait beyond the in-flight credit before reading stops."""
_BROKEN = "the server failed on an outcome of the stream; its log says more"


class Session:
    """One open stream. Is the runtime's Sink for it."""

    def __init__(
        self,
        open_: inference_pb2.OpenStream,
        served: LoadedVersion,
        driver: Driver,
        catalogue: Catalogue,
        metrics: Metrics,
        limits: Limits,
        principal: str,
    ) -> None:
        """Raises CallError where the request is wrong."""
        assert served.signature is not None
        self.terms = stream_terms(open_, served, limits, principal)
        self._ordering = ordering_of(open_.ordering)
        self._clock = clock_of(open_.clock, "clock") if open_.HasField("clock") else None
        self._wanted = wanted_outputs(open_.outputs, served.signature)
        self._open = open_
        self._driver = driver
        self._catalogue = catalogue
        self._metrics = metrics
        self._limits = limits
        self._follows_active = not open_.version
        self._newest_id = -1
        self._bytes = 0
        self._unanswered = 0
        self._received: dict[int, tuple[int, int, int]] = {}
        """By frame id: wall clock at receipt, capture to receipt, its uncertainty; ns."""
        self._outbox: deque[Outcome] = deque()
        self._messages: deque[inference_pb2.StreamResponse] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ending = False
        self._write_began_ns = 0
        self._closed = False
        self._broken = False
        """An outcome got lost on its way to it: it must end."""
        self._writers: dict[str, OutcomeWriter] = {}
        """By version: frames of an earlier one may still be in flight."""
        self._use(served)
        self.stream_id = 0
        self.log = _log

    def open(self) -> None:
        """From now on the scheduler knows the stream; it must be closed."""
        self.stream_id = self._driver.open_stream(self, self.terms)
        self.log = _log.bind(stream=self.stream_id, stream_name=self._open.stream_name, model=self.model)

    def _use(self, served: LoadedVersion) -> None:
        assert served.signature is not None
        self._served = served
        self._signature = served.signature
        """What the version took when this was made; it may be loaded again from other files."""
        self._reader = FrameReader(served.signature)
        self._writers[served.key] = OutcomeWriter(served.signature, self._wanted)
        if len(self._writers) > VERSIONS_IN_FLIGHT_MAX:
            del self._writers[next(iter(self._writers))]

    def greet(self, message_bytes_max: int, verdict: Verdict) -> None:
        """Tells the client what was agreed, before anything else."""
        assert self._served.signature is not None
        terms, signature = self.terms, self._served.signature
        planned_ns = self._driver.scheduler.planned_one_ns(self._served.key, terms.variant_rank_max)
        outputs = [spec for spec in signature.outputs if not self._wanted or spec.name in self._wanted]
        self._send(
            inference_pb2.StreamResponse(
                opened=inference_pb2.StreamOpened(
                    stream_id=self.stream_id,
                    version=self._served.version.version,
                    inputs=map(tensor_spec, signature.inputs),
                    outputs=map(tensor_spec, outputs),
                    variants=self.variants[: terms.variant_rank_max + 1],
                    stream_class=int(terms.stream_class),  # type: ignore[arg-type]  # equal numbers
                    backlog_policy=int(terms.backlog),  # type: ignore[arg-type]
                    backlog_frames=terms.backlog_frames if terms.backlog.name == "KEEP_LAST" else 0,
                    ordering=self._open.ordering or inference_pb2.ORDERING_UNORDERED,
                    default_budget_nano=terms.budget_ns,
                    planned_latency_nano=planned_ns,
                    utilisation=verdict.utilisation,
                    frames_in_flight_max=terms.frames_in_flight_max,
                    bytes_in_flight_max=self._limits.bytes_in_flight_max,
                    message_bytes_max=message_bytes_max,
                    server_time_unix_nano=time.time_ns(),
                    gap_policy=int(terms.gap) if terms.gap else 0,  # type: ignore[arg-type]
                    predicted_latency_nano=verdict.predicted_latency_ns,
                    admission_warning="" if verdict.accepted else verdict.reason,
                )
            )
        )

    @property
    def variants(self) -> list[str]:
        """Names of the model's, best first."""
        return self._served.version.config.variant_names

    @property
    def model(self) -> str:
        """Version that serves the stream now, NAME/VERSION."""
        return self._served.key

    # ---- in ----

    async def read(self, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """Takes messages until the client half-closes. Raises CallError where it breaks the protocol."""
        while True:
            message = await context.read()
            if message is grpc.aio.EOF:
                return
            request = parse(inference_pb2.StreamRequest, message)
            match request.WhichOneof("request"):
                case "frames":
                    now_unix_ns = time.time_ns()
                    for nth, frame in enumerate(request.frames.frames, start=1):
                        self.take(frame, now_unix_ns)
                        if nth % FRAMES_A_TURN == 0:
                            await self._let_others_run()
                            if self._closed:
                                return
                case "clock_ping":
                    self._ping(request.clock_ping)
                case "cancel":
                    ids = request.cancel.frame_ids
                    for start in range(0, len(ids), CANCELS_A_TURN):
                        some = tuple(ids[start : start + CANCELS_A_TURN])
                        self._driver.submit(FramesCancelled(self.stream_id, some))
                        await self._let_others_run()
                        if self._closed:
                            return
                case "open":
                    raise CallError("STREAM_OPENED_TWICE", "the stream is open already; frames are expected", "open")
                case _:
                    raise CallError("MESSAGE_MALFORMED", "a message has none of open, frames, clock_ping and cancel")
            if not self._room.is_set():
                await self._room.wait()
            if self._closed:
                return

    async def _let_others_run(self) -> None:
        """A long message of one stream must not hold up the others."""
        await asyncio.sleep(0)
        await self._room.wait()

    def take(self, frame: inference_pb2.Frame, now_unix_ns: int) -> None:
        """Its outcome will be sent, whatever is wrong with it. Raises CallError where its id is used up."""
        frame_id = frame.frame_id
        if frame_id <= self._newest_id:
            text = f"frame id {frame_id} came after {self._newest_id}; ids must increase"
            raise CallError("FRAME_ID_NOT_INCREASING", text, "frames.frames.frame_id")
        self._newest_id = frame_id
        served = self._served
        now = self._catalogue.active(served.version.name) if self._follows_active else self._catalogue.current(served)
        if now is not None and (now is not served or now.signature is not self._signature):
            self._change_version(now)
        now_ns = self._driver.clock()
        capture_to_receipt_ns = uncertainty_ns = 0
        if self._clock is not None and frame.capture_time_unix_nano:
            captured_unix_ns = frame.capture_time_unix_nano + self._clock.offset_ns
            # A capture in the future is the clocks' error, not a gift of time.
            capture_to_receipt_ns = min(max(0, now_unix_ns - captured_unix_ns), AGE_NS_MAX)
            uncertainty_ns = self._clock.uncertainty_ns
        budget_ns = frame.budget_nano or self.terms.budget_ns
        deadline_ns = now_ns - capture_to_receipt_ns + budget_ns
        self._received[frame_id] = (now_unix_ns, capture_to_receipt_ns, uncertainty_ns)
        self._ordering.arrived(frame_id)
        self._unanswered += 1
        key = self._served.key
        if not 0 < budget_ns <= self._limits.budget_ns_max:
            reason = f"budget_nano should be 0 to {self._limits.budget_ns_max}, got {budget_ns}"
            self._refuse(frame_id, now_ns, now_ns, OutcomeStatus.INVALID, reason)
            return
        try:
            payload, size_bytes = self._reader.payload(frame)
        except InvalidFrame as error:
            self._refuse(frame_id, now_ns, deadline_ns, OutcomeStatus.INVALID, str(error))
            return
        if self._bytes + size_bytes > self._limits.bytes_in_flight_max:
            reason = f"more than {self._limits.bytes_in_flight_max} bytes of the stream are unanswered"
            self._refuse(frame_id, now_ns, deadline_ns, OutcomeStatus.SHED, reason)
        elif not self._driver.payloads.fits(size_bytes):
            self._refuse(frame_id, now_ns, deadline_ns, OutcomeStatus.SHED, "the server's memory for payloads is full")
        else:
            self._bytes += size_bytes
            taken = Frame(0, self.stream_id, frame_id, key, deadline_ns, frame.must_run, now_ns)
            self._driver.take_frame(taken, payload, size_bytes)

    def _refuse(self, frame_id: int, now_ns: int, deadline_ns: int, status: OutcomeStatus, reason: str) -> None:
        """Answers a frame that the scheduler never sees."""
        frame = Frame(0, self.stream_id, frame_id, self._served.key, deadline_ns, received_ns=now_ns)
        frame.stream_class = self.terms.stream_class
        if self.terms.gap is not None:
            self._driver.submit(FrameRefused(self.stream_id))
        self.deliver(Outcome(frame, status, reason[:REASON_CHARS_MAX], 0))

    def _change_version(self, active: LoadedVersion) -> None:
        if active.signature is None:
            return  # it is being loaded again
        wanted_outputs(self._wanted, active.signature)
        key = self._served.key
        self._use(active)
        if active.key != key:
            text = f"version {active.version.version} is active"
            self._advise(inference_pb2.StreamAdvice.KIND_VERSION_CHANGED, text)

    def _ping(self, ping: inference_pb2.ClockPing) -> None:
        received_unix_ns = time.time_ns()
        if ping.HasField("clock"):
            self._clock = clock_of(ping.clock, "clock_ping.clock")
        pong = inference_pb2.ClockPong(
            ping_id=ping.ping_id,
            client_send_unix_nano=ping.client_send_unix_nano,
            server_receive_unix_nano=received_unix_ns,
        )
        self._send(inference_pb2.StreamResponse(clock_pong=pong))

    # ---- out ----

    def deliver(self, outcome: Outcome) -> None:
        self._bytes -= outcome.size_bytes
        self._outbox.extend(self._ordering.push(outcome))
        if len(self._outbox) > self.terms.frames_in_flight_max + OUTBOX_FRAMES and not self._closed:
            self._room.clear()
        self._wake.set()

    def advise(self, advice: Advice, reason: str, period_ns: int) -> None:
        self._advise(int(advice), reason, period_ns)

    def fail(self) -> None:
        self._broken = True
        self._wake.set()

    def _advise(self, kind: int, reason: str, period_ns: int = 0) -> None:
        advice = inference_pb2.StreamAdvice(
            kind=kind,  # type: ignore[arg-type]  # equal numbers
            period_nano=period_ns,
            version=self._served.version.version,
            reason=reason,
        )
        self._send(inference_pb2.StreamResponse(advice=advice))

    def _send(self, message: inference_pb2.StreamResponse) -> None:
        self._messages.append(message)
        if len(self._messages) > OUTBOX_FRAMES and not self._closed:
            self._room.clear()
        self._wake.set()

    async def write(self, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """Sends what there is to send until `finish` was called and everything is sent."""
        while True:
            while self._messages or self._outbox:
                message = self._messages.popleft() if self._messages else self.outcomes()
                if message.HasField("clock_pong"):
                    message.clock_pong.server_send_unix_nano = time.time_ns()
                self._write_began_ns = self._driver.clock()
                await context.write(message)
                self._write_began_ns = 0
                self._room.set()
            if self._broken:
                raise CallError("INTERNAL", _BROKEN)
            if self._ending and not self._unanswered:
                return
            self._wake.clear()
            await self._wake.wait()

    async def answered(self) -> None:
        """Returns when there is an outcome to send. Raises CallError where none will come."""
        while not self._outbox:
            if self._broken:
                raise CallError("INTERNAL", _BROKEN)
            self._wake.clear()
            await self._wake.wait()

    def outcomes(self) -> inference_pb2.StreamResponse:
        """The outcomes that are ready, as one message, counted as sent."""
        now_ns = self._driver.clock()
        message = inference_pb2.StreamResponse()
        batch = message.outcomes
        outbox = self._outbox
        for _ in range(min(len(outbox), OUTBOX_FRAMES)):
            outcome = outbox.popleft()
            frame = outcome.frame
            received_unix_ns, capture_to_receipt_ns, uncertainty_ns = self._received.pop(frame.frame_id)
            status = outcome.status
            if status is OutcomeStatus.ON_TIME and now_ns > frame.deadline_ns:
                status, outcome.reason = OutcomeStatus.LATE, "it waited to be sent"
            self._writers[frame.model].add(
                batch, outcome, status, now_ns, received_unix_ns, (capture_to_receipt_ns, uncertainty_ns)
            )
            latency_ns = now_ns - frame.received_ns
            age_ns = latency_ns + capture_to_receipt_ns if uncertainty_ns else -1
            self._metrics.outcome(
                frame.model, frame.stream_class, status, latency_ns, frame.deadline_ns - now_ns, age_ns
            )
            self._unanswered -= 1
        return message

    def finish(self) -> None:
        """No more frames come: `write` returns when all are answered."""
        self._ending = True
        self._wake.set()

    def stuck_ns(self, now_ns: int) -> int:
        """How long the client has not been taking what is written to it."""
        return now_ns - self._write_began_ns if self._write_began_ns else 0

    def close(self) -> None:
        """No frame is run for it any more: what waits is CANCELLED. `write` sends what there is and returns."""
        self._closed = True
        self._room.set()
        self._driver.close_stream(self.stream_id)
        self._outbox.extend(self._ordering.release())
        self._unanswered = len(self._outbox)
        self.finish()

    def abandon(self) -> None:
        """Nobody reads any more: what was not sent is counted all the same. `write` returns."""
        self._messages.clear()
        now_ns = self._driver.clock()
        for outcome in self._outbox:
            frame = outcome.frame
            latency_ns = now_ns - frame.received_ns
            self._metrics.outcome(
                frame.model, frame.stream_class, OutcomeStatus.CANCELLED, latency_ns, frame.deadline_ns - now_ns, -1
            )
        self._outbox.clear()
        self._unanswered = 0
        self.finish()
