"""Calls whose client acts at the worst moment: nothing is left of them, and every frame is counted."""

import asyncio
from typing import Any, NoReturn

import grpc
import pytest

from duly.rpc.duly_v1.inference_service import InferenceService
from duly.runtime.admission import Admission
from duly.streams.open_streams import OpenStreams
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from tests.streams.bench import MS, Bench

TURNS = 50


class Call:
    """A transport whose other end the test plays: what the client sends, and when it takes what is written."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes | object] = asyncio.Queue()
        self.answered = asyncio.Event()
        """Something was written."""
        self.reads = asyncio.Event()
        """The client takes what is written."""
        self.reads.set()
        self.over = False
        self.error = ""

    def send(self, **request: Any) -> None:
        self.sent.put_nowait(pb.StreamRequest(**request).SerializeToString())

    def frames(self, *frame_ids: int) -> None:
        tensors = [tensor_pb2.Tensor(data=b"1")]
        self.send(frames=pb.FrameBatch(frames=[pb.Frame(frame_id=n, tensors=tensors) for n in frame_ids]))

    def end(self) -> None:
        self.over = True
        self.reads.set()
        self.sent.put_nowait(b"")

    # ---- what the service sees ----

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def read(self) -> bytes | object:
        message = await self.sent.get()
        if self.over:
            raise grpc.aio.UsageError("the call is over")
        return message

    async def write(self, message: pb.StreamResponse) -> None:
        await self.reads.wait()
        if self.over:
            raise grpc.aio.UsageError("the call is over")
        self.answered.set()

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: object) -> NoReturn:
        await self.reads.wait()
        self.error = details
        raise grpc.aio.AbortError


class Served:
    """One stream over such a transport, and one that is open all the while from the same address."""

    def __init__(self) -> None:
        self.bench = Bench()
        admission = Admission(lambda: self.bench.driver.scheduler, self.bench.clock, enforce=False)
        self.streams = OpenStreams(self.bench.host, self.bench.metrics, admission, slow_reader_timeout_s=1)
        self.service = InferenceService(self.streams, 1000)
        self.call, self.other = Call(), Call()
        self.tasks_before = len(asyncio.all_tasks())

    async def open(self) -> "asyncio.Task[None]":
        """Opens both, and returns the handler of the first."""
        handlers = []
        for call in (self.other, self.call):
            call.send(open=pb.OpenStream(model="m", backlog_policy=pb.BACKLOG_POLICY_ALL, default_budget_nano=50 * MS))
            handlers.append(asyncio.create_task(self.service.stream(None, call)))  # type: ignore[arg-type]
            await call.answered.wait()
        self.others = handlers[0]
        return handlers[1]

    @property
    def use_bytes(self) -> int:
        """Bytes that are counted as unanswered for the principal of both streams."""
        return self.streams._uses["127.0.0.1"].bytes

    async def turns(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def nothing_is_left(self, frames: int) -> None:
        self.call.end()
        await self.turns()
        while self.bench.lane.running:
            self.bench.end_batch()
        assert len(self.streams) == 1
        assert self.use_bytes == self.bench.driver.held.bytes == 0
        self.others.cancel()
        self.other.end()
        await self.turns()
        assert not len(self.streams)
        assert not self.streams._uses
        assert sum(self.bench.counts().values()) == frames
        assert len(asyncio.all_tasks()) == self.tasks_before


@pytest.fixture
async def served() -> Served:
    return Served()


async def test_frames_that_come_when_the_stream_has_ended_are_not_taken(served: Served) -> None:
    """The end of the call waits for its client to read; the client goes on sending meanwhile."""
    handler = await served.open()
    served.call.reads.clear()
    served.call.send(clock_ping=pb.ClockPing(ping_id=1))
    await served.turns()
    served.bench.clock.now_ns += 2_000 * MS
    served.streams.watch()
    await served.turns()
    served.call.frames(1, 2, 3)
    await served.turns()
    assert served.use_bytes == 0
    served.call.reads.set()
    with pytest.raises(grpc.aio.AbortError):
        await handler
    assert "slow_reader_timeout_s" in served.call.error
    await served.nothing_is_left(frames=0)


async def test_outcomes_are_counted_though_the_client_goes_while_they_are_flushed(served: Served) -> None:
    handler = await served.open()
    served.call.reads.clear()
    served.call.send(clock_ping=pb.ClockPing(ping_id=1))
    served.call.frames(1)
    await served.turns()
    served.bench.end_batch()  # its outcome waits behind the answer to the ping
    served.call.send(open=pb.OpenStream(model="m"))
    await served.turns()
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    await served.nothing_is_left(frames=1)


async def test_a_used_up_id_is_named_by_its_path_in_the_message(served: Served) -> None:
    handler = await served.open()
    served.call.frames(1, 1)
    trailers: list[Any] = []
    abort = served.call.abort

    async def listen(code: grpc.StatusCode, details: str, trailing_metadata: Any) -> NoReturn:
        trailers.extend(trailing_metadata)
        await abort(code, details, trailing_metadata)

    served.call.abort = listen  # type: ignore[method-assign]
    with pytest.raises(grpc.aio.AbortError):
        await handler
    assert b"frames.frames.frame_id" in dict(trailers)["grpc-status-details-bin"]
    await served.nothing_is_left(frames=1)
