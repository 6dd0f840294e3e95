"""Calls of KServe's protocol against the server's own front end, over scripted lanes, a clock that the test moves and a
transport that takes what the test lets it. A call's client sends bytes, and may go at any moment.
"""

import asyncio
import copy
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import grpc

from duly.core.events import ModelGone, ModelReady, TimerFired
from duly.core.types import Verdict
from duly.models.kserve import KServe
from duly.models.repository import ModelVersion
from duly.models.spec import ELEMENT_BYTES, ModelConfig, Signature
from duly.rpc.kserve import messages as ks
from duly.rpc.kserve.front_end import FrontEnd
from duly.rpc.kserve.inference_service import KServeInference
from duly.rpc.kserve.regions import Regions, Sharing
from duly.runtime.admission import Admission
from duly.runtime.catalogue import LoadedVersion
from duly.runtime.driver import Driver
from duly.runtime.outcome import Output
from duly.runtime.worker_port import BatchResult
from duly.streams.limits import CriticalLimits, Limits, PrincipalLimits, ServerLimits, StreamLimits
from duly.streams.open_streams import OpenStreams
from tests.rpc.kserve.drawn_requests import MODELS
from tests.rpc.kserve.read_requests import texts_in
from tests.runtime.fake_lane import FakeLane
from tests.streams.bench import Bench

MS = 1_000_000
FRAMES_MAX = 64
"""How many frames of a stream may be unanswered."""
LIMITS = Limits(
    StreamLimits(FRAMES_MAX, 4096, 60_000 * MS), PrincipalLimits(), ServerLimits(64, 16_384), CriticalLimits(8, 1.0)
)
TURNS_MAX = 20_000


class _Admits(Admission):
    """Finds room for every stream at once, as judging them is not what is looked at."""

    async def _judge(self, *_: object) -> Verdict:
        return Verdict(True, "", 0.0, 0)


class _Lane(FakeLane):
    """Gives every output of its model, of sizes that differ where they may."""

    def __init__(self, model: str, signature: Signature) -> None:
        super().__init__(model, "cpu:0")
        self._signature = signature

    def end(self, driver: Driver, finished_ns: int | None = None, **reasons: dict[int, str]) -> None:
        action, payloads = self.running.pop()

        def outputs(index: int) -> list[Output]:
            seen = payloads[index][-1].data
            given: list[Output] = []
            for place, spec in enumerate(self._signature.outputs):
                shape = tuple(len(seen) % 5 if extent == -1 else extent for extent in spec.shape)
                given.append((place, shape, bytes(ELEMENT_BYTES[spec.datatype] * prod(shape))))
            return given

        now_ns = finished_ns or driver.clock()
        driver.batch_ended(action.batch_id, BatchResult(now_ns, now_ns, outputs, **reasons))


class Call:
    """The server's end of one call, as gRPC shows it to a handler."""

    def __init__(self, connection: str = "ipv4:127.0.0.1:1", seconds: float | None = None) -> None:
        self._connection = connection
        self._seconds = seconds
        self._sent: asyncio.Queue[object] = asyncio.Queue()
        self.reads = asyncio.Event()
        """Set while the client takes what is written."""
        self.reads.set()
        self.over = False
        """Whether the client has ended it."""
        self._ended = False
        self.replies: list[bytes] = []
        self.status: tuple[grpc.StatusCode, str] | None = None

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self._sent.put_nowait(message)

    @property
    def unread(self) -> int:
        """How many messages the server has not read."""
        return self._sent.qsize()

    def half_close(self) -> None:
        self._sent.put_nowait(grpc.aio.EOF)

    def go(self, handler: "asyncio.Task[Any]") -> None:
        """The client cancels the call, or is gone."""
        self.over = True
        self.end()
        handler.cancel()

    def end(self) -> None:
        """The call has ended."""
        self._ended = True
        self.reads.set()
        self._sent.put_nowait(b"")

    # ---- what the service sees ----

    def peer(self) -> str:
        return self._connection

    def time_remaining(self) -> float | None:
        return self._seconds

    async def read(self) -> object:
        message = await self._sent.get()
        if self._ended:
            raise grpc.aio.UsageError("the call is over")
        return message

    async def write(self, message: bytes) -> None:
        await self.reads.wait()
        if self._ended:
            raise grpc.aio.UsageError("the call is over")
        self.replies.append(message)

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: object) -> NoReturn:
        await self.reads.wait()
        self.status = code, details
        raise grpc.aio.AbortError


class Served:
    """One server's front end."""

    def __init__(self) -> None:
        self.bench = bench = Bench(LIMITS)
        self.lanes: list[FakeLane] = [bench.lane]
        for name in MODELS:
            self.load(name)
        admission = _Admits(lambda: bench.driver.scheduler, bench.clock, enforce=False)
        self.streams = OpenStreams(bench.host, bench.metrics, admission, slow_reader_timeout_s=1)
        self.service = KServeInference(FrontEnd(self.streams, Regions(Sharing.OFF, lambda _: None), 500 * MS))
        self._seqs_before = next(copy.copy(bench.driver.seqs))
        self.tasks_before = len(asyncio.all_tasks())

    def load(
        self, name: str, version: str = "1", *, signature: Signature | None = None, rows_max: int | None = None
    ) -> None:
        """Has a version of a model served, as the active one. `signature`: where it is another one than the model's.
        `rows_max`: how many rows a request may have, where its author states that.
        """
        config = ModelConfig(kserve=KServe(max_batch_size=rows_max))
        loaded = LoadedVersion(ModelVersion(name, version, Path(), Path(), config, ()))
        loaded.signature = signature or MODELS[name]
        self.bench.activate(loaded)
        self.add_lane(name, version, signature=signature)

    def add_lane(self, name: str, version: str, *, signature: Signature | None = None) -> None:
        lane = _Lane(f"{name}/{version}", signature or MODELS[name])
        self.lanes.append(lane)
        self.bench.driver.add_worker(lane)
        times: dict[int, tuple[int, ...]] = {1: (MS,), 4: (2 * MS,)}
        self.bench.driver.submit(ModelReady(lane.model, "cpu:0", "default", times, True))

    def lose_lane(self, lane: FakeLane, why: str) -> None:
        """What happens where a worker dies, or its model is unloaded."""
        self.lanes.remove(lane)
        self.bench.driver.remove_worker(lane)  # type: ignore[arg-type]
        lane.gone = True
        self.bench.driver.submit(ModelGone(lane.model, "cpu:0", why))

    @property
    def frames_taken(self) -> int:
        """How many frames were taken, of all calls."""
        return next(copy.copy(self.bench.driver.seqs)) - self._seqs_before

    def stream(self, call: Call) -> "asyncio.Task[Any]":
        handler = asyncio.create_task(self.service.stream(None, call))  # type: ignore[arg-type]
        handler.add_done_callback(lambda _: call.end())
        return handler

    def infer(self, message: bytes, call: Call) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.service.infer(message, call))  # type: ignore[arg-type]

    async def turn(self) -> None:
        """Lets everybody do what they can, a worker answer, and a millisecond pass."""
        await asyncio.sleep(0)
        for lane in self.lanes:
            if lane.running:
                lane.end(self.bench.driver)
        self.bench.clock.now_ns += MS
        if not any(lane.running for lane in self.lanes) and self.bench.driver.held:
            self.bench.driver.submit(TimerFired())

    async def until_over(self, *handlers: "asyncio.Task[Any]") -> None:
        for _ in range(TURNS_MAX):
            if all(handler.done() for handler in handlers):
                for handler in handlers:
                    if not handler.cancelled() and not isinstance(handler.exception(), grpc.aio.AbortError | None):
                        handler.result()
                return
            await self.turn()
        raise AssertionError("a call hangs")

    async def nothing_is_left(self) -> None:
        """Raises AssertionError where calls that are over have left anything behind."""
        self.service._sequences.end_all()
        for _ in range(TURNS_MAX):
            if len(asyncio.all_tasks()) <= self.tasks_before and not self.bench.driver.held:
                break
            await self.turn()
        bench, memory = self.bench, self.bench.host.memory
        assert len(asyncio.all_tasks()) == self.tasks_before, asyncio.all_tasks()
        assert not len(self.streams), f"{len(self.streams)} streams are open for nobody"
        assert not self.streams._uses, self.streams._uses
        assert not self.service.sequences
        assert not self.service._calls
        assert not len(self.service._places)
        assert not bench.driver.held
        assert bench.driver.held.bytes == 0
        assert memory.outcomes == 0
        assert memory.result_bytes == 0
        assert not memory._streams
        counted = sum(bench.counts().values())
        assert counted == self.frames_taken, f"{self.frames_taken} frames were taken, {counted} outcomes counted"


def id_of(message: bytes) -> str | None:
    """Returns the id with which a request has to be answered; None: its message is none."""
    try:
        return str(ks.ModelInferRequest.FromString(message).id)
    except Exception:
        return None


def read_reply(message: bytes) -> ks.ModelStreamInferResponse:
    """Reads a reply of a stream. Raises AssertionError where it is none that a client can use."""
    reply = ks.ModelStreamInferResponse.FromString(message)
    check_response(reply.infer_response)
    if reply.error_message:
        assert not reply.infer_response.outputs
    return reply


def check_response(response: ks.ModelInferResponse) -> None:
    """Raises AssertionError where its outputs are not what they say."""
    assert len(response.outputs) == len(response.raw_output_contents)
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            assert texts_in(raw) == prod(output.shape), output
        elif "shared_memory_region" not in output.parameters:
            size = ELEMENT_BYTES[output.datatype]
            assert len(raw) == size * prod(output.shape), (output, len(raw))


async def answered_all(served: Served, messages: Sequence[bytes], actions: bytes = b"") -> None:
    """Sends messages over one stream call and some unary ones, and half-closes. Raises AssertionError unless each gets
    exactly one reply, or its call ends with a status, and nothing is left. `actions`: what the client does between.
    """
    call = Call()
    stream = served.stream(call)
    unary: list[tuple[bytes, Call, asyncio.Task[Any]]] = []
    gone = False
    for nth, message in enumerate(messages):
        action = actions[nth] if nth < len(actions) else 0
        if action & 1:
            each = Call("ipv4:127.0.0.1:2", seconds=(None, 1.0)[action >> 1 & 1])
            unary.append((message, each, served.infer(message, each)))
        else:
            call.send(message)
        if action & 4:
            call.reads.clear()
        if action & 8:
            call.reads.set()
        for _ in range(action >> 4 & 3):
            await served.turn()
        if action & 64 and unary:
            _, each, handler = unary[action % len(unary)]
            each.go(handler)
        if action & 0xF8 == 0x80:
            call.go(stream)
            gone = True
            break
    call.reads.set()
    call.half_close()
    await served.until_over(stream, *(handler for _, _, handler in unary))
    sent = [message for nth, message in enumerate(messages) if not (nth < len(actions) and actions[nth] & 1)]
    replies = [read_reply(message) for message in call.replies]
    if call.status is None and not gone:
        ids = [id_of(message) for message in sent]
        assert sorted(reply.infer_response.id for reply in replies) == sorted((each or "")[:1024] for each in ids)
    elif call.status is not None:
        assert call.status[0] in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED), call.status
    assert len(replies) <= len(sent)
    for message, each, handler in unary:
        if each.over and handler.cancelled():
            continue
        if each.status is not None:
            assert each.status[0] not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), each.status
            continue
        response = ks.ModelInferResponse.FromString(handler.result())
        check_response(response)
        assert response.id == id_of(message)
    await served.nothing_is_left()
