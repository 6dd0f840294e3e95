"""The handlers of InferenceService: streams and single frames, their opening, watching and end."""

import asyncio
import time
from typing import Any

import grpc

from duly.core.types import Verdict
from duly.metrics import Metrics
from duly.rpc.codec import parse
from duly.rpc.errors import CallError, abort, guarded, internal
from duly.rpc.session import Session
from duly.rpc.terms import Limits, principal_of
from duly.runtime.admission import Admission, Busy, Refused
from duly.runtime.catalogue import Catalogue, ModelError
from duly.runtime.driver import Driver
from duly.v1 import inference_pb2

OPEN_SECONDS_MAX = 10.0
"""How long a call may be open before its OpenStream comes."""
OPENING_MAX = 128
"""Calls whose OpenStream has not come yet."""
FLUSH_SECONDS = 1.0
"""How long the end of a broken stream waits for its last outcomes to be sent."""


class Streams:
    def __init__(
        self,
        driver: Driver,
        catalogue: Catalogue,
        metrics: Metrics,
        admission: Admission,
        limits: Limits,
        streams_max: int,
        slow_reader_timeout_s: float,
    ) -> None:
        self._driver = driver
        self._catalogue = catalogue
        self._metrics = metrics
        self._admission = admission
        self._limits = limits
        self.streams_max = streams_max
        self._slow_reader_ns = int(slow_reader_timeout_s * 1e9)
        self._open: dict[Session, asyncio.Future[None]] = {}
        self._opening = 0
        self.draining = False
        self.message_bytes_max = 0
        """Largest message that the transport reads."""

    def __len__(self) -> int:
        return len(self._open)

    def open_by_model(self) -> dict[str, int]:
        """May be called from any thread."""
        counts: dict[str, int] = {}
        for session in list(self._open):
            counts[session.model] = counts.get(session.model, 0) + 1
        return counts

    async def stream(self, _: object, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """InferenceService.Stream."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            session = await self._open_session(ended, context)
        except (CallError, ModelError) as error:
            await abort(context, error)
        except Exception:
            await abort(context, internal("the opening of a stream"))
        model = session.model
        self._metrics.stream_opened(model)
        session.log.debug("stream opened")
        # Never cancelled: a cancelled read or write leaks inside gRPC (grpc#43360). Both end with the call.
        reader = asyncio.create_task(self._read(session, ended, context))
        writer = asyncio.create_task(self._write(session, ended, context))
        broken: CallError | ModelError | None = None
        try:
            try:
                await ended
            except (CallError, ModelError) as error:
                broken = error
            finally:
                session.close()
                if broken is not None and not writer.done():
                    await asyncio.wait([writer], timeout=FLUSH_SECONDS)
                session.abandon()
                self._metrics.stream_closed(model)
                session.log.debug("stream closed", reason=str(broken or ""), half_closed=reader.done())
            if broken is not None:
                # Behind a client that does not read this waits, counted as an open stream, until it does or is gone.
                await abort(context, broken)
        finally:
            del self._open[session]

    async def _open_session(
        self, ended: "asyncio.Future[None]", context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> Session:
        request = await self._first_message(context)
        self._check_room()
        session = self._session(request, context)
        try:
            async with self._admission.turn(session.terms) as verdict:
                self._check_room()
                session.open()
                self._open[session] = ended
                session.greet(self.message_bytes_max, verdict)
        except Refused as refused:
            raise _refusal(refused.verdict, session.variants, self._limits.budget_ns_max) from None
        except Busy as busy:
            raise CallError("ADMISSION_BUSY", f"{busy}; try again in a moment") from None
        return session

    def _check_room(self) -> None:
        if self.draining:
            raise CallError("DRAINING", "the server is draining; open the stream elsewhere")
        if len(self._open) >= self.streams_max:
            raise CallError("STREAMS_EXHAUSTED", f"{self.streams_max} streams are open already (streams_max)")

    async def _first_message(self, context: "grpc.aio.ServicerContext[Any, Any]") -> inference_pb2.OpenStream:
        # Not a time-out that cancels it: a cancelled read leaks inside gRPC. It ends with the call.
        if self._opening >= OPENING_MAX:
            raise CallError("STREAMS_EXHAUSTED", f"{OPENING_MAX} calls wait for their OpenStream already")
        reading = asyncio.ensure_future(context.read())
        self._opening += 1
        try:
            await asyncio.wait([reading], timeout=OPEN_SECONDS_MAX)
        finally:
            self._opening -= 1
        if not reading.done():
            reading.add_done_callback(lambda read: read.cancelled() or read.exception())
            raise CallError("FIRST_MESSAGE_NOT_OPEN", f"no message came within {OPEN_SECONDS_MAX:g} s", "open")
        message = reading.result()
        if message is grpc.aio.EOF:
            raise CallError("FIRST_MESSAGE_NOT_OPEN", "the stream ended before its first message, an OpenStream")
        request = parse(inference_pb2.StreamRequest, message)
        if request.WhichOneof("request") != "open":
            raise CallError("FIRST_MESSAGE_NOT_OPEN", "the first message should be an OpenStream", "open")
        return request.open

    def _session(self, open_: inference_pb2.OpenStream, context: "grpc.aio.ServicerContext[Any, Any]") -> Session:
        served = self._catalogue.find(open_.model, open_.version)
        principal = principal_of(context.peer())
        return Session(open_, served, self._driver, self._catalogue, self._metrics, self._limits, principal)

    async def _read(
        self, session: Session, ended: "asyncio.Future[None]", context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        try:
            await session.read(context)
            session.finish()
        except (CallError, ModelError) as error:
            _end(ended, error)
        except (grpc.aio.UsageError, grpc.aio.BaseError):
            _end(ended, None)  # the call is over
        except Exception:
            _end(ended, internal("a message of a stream"))

    async def _write(
        self, session: Session, ended: "asyncio.Future[None]", context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        try:
            await session.write(context)
            _end(ended, None)
        except CallError as error:
            _end(ended, error)
        except (grpc.aio.UsageError, grpc.aio.BaseError):
            _end(ended, None)  # the call is over
        except Exception:
            _end(ended, internal("the outcomes of a stream"))

    def watch(self) -> None:
        """Ends streams whose clients do not take what is written to them. Called now and then."""
        now_ns = self._driver.clock()
        for session, ended in self._open.items():
            stuck_ns = session.stuck_ns(now_ns)
            if stuck_ns > self._slow_reader_ns and not ended.done():
                session.log.warning("client does not read", stuck_s=stuck_ns / 1e9)
                text = f"the client took nothing for {stuck_ns / 1e9:.0f} s (slow_reader_timeout_s)"
                _end(ended, CallError("CLIENT_TOO_SLOW", text))

    def drain(self) -> None:
        """Opens no more streams and takes no more single frames."""
        self.draining = True

    def end_all(self) -> None:
        """Ends every stream once its outcomes are sent. Call it when every frame is answered."""
        for ended in self._open.values():
            _end(ended, CallError("DRAINING", "the server has stopped; every frame was answered"))

    # ---- single frames ----

    @guarded
    async def infer(self, message: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> inference_pb2.InferResponse:
        """InferenceService.Infer: a stream of one frame."""
        request = parse(inference_pb2.InferRequest, message)
        if self.draining:
            raise CallError("DRAINING", "the server is draining; ask elsewhere")
        session = self._session(
            inference_pb2.OpenStream(
                model=request.model,
                version=request.version,
                stream_class=request.stream_class,
                backlog_policy=inference_pb2.BACKLOG_POLICY_ALL,
                outputs=request.outputs,
                clock=request.clock if request.HasField("clock") else None,
            ),
            context,
        )
        session.open()
        try:
            frame = request.frame
            remaining_s = context.time_remaining()
            # None where the call has no deadline, whatever its type says.
            if remaining_s is not None and frame.budget_nano >= 0:  # type: ignore[redundant-expr]
                budget_ns = frame.budget_nano or session.terms.budget_ns
                frame.budget_nano = max(1, min(budget_ns, int(remaining_s * 1e9)))
            session.take(frame, time.time_ns())
            await session.answered()
            return inference_pb2.InferResponse(outcome=session.outcomes().outcomes.outcomes[0])
        finally:
            session.close()
            session.abandon()


def _refusal(verdict: Verdict, variants: list[str], budget_ns_max: int) -> CallError:
    """The counter-offer in words and, each alone, as metadata: period_nano, budget_nano (no more than a stream may ask
    for), variant.
    """
    offers: dict[str, str] = {}
    words: list[str] = []
    if verdict.counter_period_ns:
        offers["period_nano"] = str(verdict.counter_period_ns)
        words.append(f"with a period of {verdict.counter_period_ns / 1e6:.4g} ms")
    if 0 < verdict.counter_budget_ns <= budget_ns_max:
        offers["budget_nano"] = str(verdict.counter_budget_ns)
        words.append(f"with a budget of {verdict.counter_budget_ns / 1e6:.4g} ms")
    if verdict.counter_rank >= 0:
        offers["variant"] = variants[verdict.counter_rank]
        words.append(f"with variant_lowest {offers['variant']}")
    offer = (
        f"it would open {' or '.join(words)}"
        if words
        else "nothing near it would do: fewer or faster models, or more lanes"
    )
    return CallError("ADMISSION_REFUSED", f"the stream does not fit: {verdict.reason}; {offer}", metadata=offers)


def _end(ended: "asyncio.Future[None]", error: Exception | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
