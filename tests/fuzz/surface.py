"""Real streams over a scripted lane that messages of any bytes are given to, as `rpc` gives them."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc

from duly.core.events import TimerFired
from duly.core.types import Verdict
from duly.models.spec import Signature, TensorSpec
from duly.rpc.duly_v1.codec import StreamCodec
from duly.rpc.duly_v1.inference_service import InferenceService
from duly.runtime.worker_port import BatchResult
from duly.streams.errors import CallError
from duly.streams.stream import Stream
from duly.streams.terms import StreamRequest
from duly.v1 import inference_pb2 as pb
from tests.streams.bench import Bench, version

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="x", datatype="UINT8", shape=(-1, 2), bytes_max=64),
        TensorSpec(name="image", datatype="UINT8", shape=(4, 4, 3), encodings=("PNG", "JPEG"), bytes_max=64),
    ),
    outputs=(TensorSpec(name="y", datatype="UINT8", shape=(1,), bytes_max=1),),
    batch_sizes=(1, 4),
    any_size=True,
    stateful=False,
)


ONE_INPUT = Signature(
    inputs=(TensorSpec(name="x", datatype="UINT8", shape=(-1, 2), bytes_max=64),),
    outputs=SIGNATURE.outputs,
    batch_sizes=(1, 4),
    any_size=True,
    stateful=False,
)
"""Frames of such a model may be read without protobuf."""


class Messages:
    """The server's end of a call whose client has sent these messages and half-closed."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self._messages = list(reversed(messages))

    async def read(self) -> Any:
        await asyncio.sleep(0)
        return self._messages.pop() if self._messages else grpc.aio.EOF


class Surface:
    """One server's streams; a stream a run."""

    def __init__(self, runner: asyncio.Runner, signature: Signature) -> None:
        self._runner = runner
        self._signature = signature
        self._runner.run(self._make())

    async def _make(self) -> None:
        self.bench = Bench()
        loaded = version()
        loaded.signature = self._signature
        self.bench.activate(loaded)
        self.bench.lane.end = self._end  # type: ignore[method-assign]
        # It opens no stream here, and asks the host for limits alone.
        self._service = InferenceService(self.bench.host, 1 << 22)  # type: ignore[arg-type]

    def _end(self, driver: Any) -> None:
        action, _ = self.bench.lane.running.pop()
        now_ns = driver.clock()
        driver.batch_ended(action.batch_id, BatchResult(now_ns, now_ns, lambda index: [(0, (1,), b"y")]))

    def run(self, messages: Sequence[bytes], **asked: object) -> None:
        """Gives a stream these messages. Raises AssertionError where the law is broken or the server is at fault."""
        self._runner.run(self._run(messages, asked))

    async def _run(self, messages: Sequence[bytes], asked: dict[str, object]) -> None:
        bench = self.bench
        request = StreamRequest(model="m", default_budget_ns=50_000_000, **asked)  # type: ignore[arg-type]
        stream = Stream(request, bench.catalogue.find("m"), bench.host, "somebody", bench.use)
        stream.open(Verdict(True, "", 0.0, 0))
        codec = StreamCodec(stream.signature, stream.wanted)
        reading = asyncio.ensure_future(self._service._read(stream, codec, Messages(messages)))  # type: ignore[arg-type]
        answered: Counter[int] = Counter()
        quiet = 0
        while quiet < 3:
            self._step(stream, codec, answered)
            await asyncio.sleep(0)
            quiet = quiet + 1 if reading.done() and not bench.lane.running and not bench.driver.held else 0
            bench.clock.now_ns += 1_000_000
            if not bench.lane.running and bench.driver.held:
                bench.driver.submit(TimerFired())
        self._step(stream, codec, answered)
        taken = stream._newest_id >= 0
        assert not answered or taken, "outcomes without frames"
        assert all(times == 1 for times in answered.values()), f"answered more than once: {answered}"
        if stream.ended.done() and (error := stream.ended.exception()) is not None:
            assert isinstance(error, CallError), repr(error)
            assert error.reason != "INTERNAL", str(error)
        stream.close()
        stream.abandon()
        assert not bench.driver.held, "frames are held for a stream that is gone"
        assert bench.use.bytes == 0, f"{bench.use.bytes} bytes are counted for nobody"

    def _step(self, stream: Any, codec: StreamCodec, answered: Counter[int]) -> None:
        if self.bench.lane.running:
            self.bench.lane.end(self.bench.driver)
        while (item := stream.next()) is not None:
            if isinstance(item, tuple):
                message = pb.StreamResponse.FromString(codec.outcomes(*item))
                for outcome in message.outcomes.outcomes:
                    answered[outcome.frame_id] += 1
                    assert outcome.status in pb.OutcomeStatus.values(), outcome
            stream.written()
