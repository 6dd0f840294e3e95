"""How fast a program in Python can send: duly's client, and a bare grpc.aio client that speaks the same protocol.

Each client keeps `window` messages of `together` frames in flight on each of `streams` streams, over one connection and
in one event loop, and sends the next message when as many outcomes have come. One process runs one client once:

    python -m duly_load.protocols.python_clients bare --target unix:/tmp/echo.sock --streams 16 --window 8

It prints one JSON object: `frames_per_s`, `cpu_us` (CPU time of this process for each frame, all its threads together),
`p50_ms` and `p99_ms` (from the sending of a message to the last of its outcomes). The clients:

    bare          grpc.aio with messages of protobuf, made and parsed for each frame, as anybody would write it
    bare-bytes    the same, but sends one message again and again that was made before: the least that grpc.aio costs in
                  Python; for a server that does not look at frame ids, such as the null echo
    duly          `send` and iteration
    duly-batches  `send` and `batches`
    duly-many     `send_many` and `batches`

What this does not know: clients that do something with their outcomes, and servers on other machines.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import click
import grpc
import numpy as np
from numpy.typing import NDArray

from duly.v1 import inference_pb2, tensor_pb2
from duly_client import Client, Stream
from duly_client.channels import LAN_OPTIONS, OPTIONS

WARMUP_SHARE = 0.25
"""The share of a run that passes before its figures count."""
LATENCIES_MAX = 1_000_000
"""The number of latencies that are kept; those after it are not."""
BUDGET_MS = 10_000.0
INPUT = "input"
"""The name of the input, which is that of the model that duly serves in `duly-sim bench`."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a client is to do."""

    target: str
    model: str
    frame_bytes: int
    streams: int
    window: int
    together: int
    seconds: float
    duly_options: bool
    """The bare clients' channel has the options of duly's client."""

    @property
    def frame(self) -> NDArray[np.float32]:
        """The payload of every frame."""
        return np.random.default_rng(1).uniform(-1, 1, self.frame_bytes // 4).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a client did after its warm-up."""

    frames_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


class Count:
    """Counts outcomes of all streams of a client."""

    def __init__(self, seconds: float) -> None:
        began_ns = time.monotonic_ns()
        self._counts_ns = self._counted_ns = began_ns + int(seconds * WARMUP_SHARE * 1e9)
        self._ends_ns = began_ns + int(seconds * 1e9)
        self._counting = False
        self._cpu_ns = 0
        self._frames = 0
        self._latencies_ns: list[int] = []
        self.over = False

    def came(self, frames: int, sent_ns: int) -> None:
        """All `frames` outcomes of a message came that was sent at `sent_ns`."""
        now_ns = time.monotonic_ns()
        if not self._counting:
            if now_ns >= self._counts_ns:
                self._counting, self._counts_ns, self._cpu_ns = True, now_ns, time.process_time_ns()
        elif not self.over:
            self._frames += frames
            if len(self._latencies_ns) < LATENCIES_MAX:
                self._latencies_ns.append(now_ns - sent_ns)
            if now_ns >= self._ends_ns:
                self.over, self._counted_ns = True, now_ns
                self._cpu_ns = time.process_time_ns() - self._cpu_ns

    def figures(self) -> Figures:
        """Raises RuntimeError where too little came to say anything."""
        if not self.over:
            raise RuntimeError("the server ended the streams before the time was over")
        p50_ms, p99_ms = (float(each) / 1e6 for each in np.quantile(self._latencies_ns, (0.5, 0.99)))
        seconds = (self._counted_ns - self._counts_ns) / 1e9
        return Figures(self._frames / seconds, self._cpu_ns / 1e3 / self._frames, p50_ms, p99_ms)


class InFlight:
    """The messages of one stream whose outcomes have not all come, in the order of their sending."""

    def __init__(self, load: Load, count: Count) -> None:
        self._together = load.together
        self._count = count
        self._sent_ns: deque[int] = deque()
        self._outcomes = 0

    def sent(self) -> None:
        """A message is being sent."""
        self._sent_ns.append(time.monotonic_ns())

    def came(self, outcomes: int) -> int:
        """So many outcomes came. Returns the number of messages that may be sent for it."""
        self._outcomes += outcomes
        messages, self._outcomes = divmod(self._outcomes, self._together)
        for _ in range(messages):
            self._count.came(self._together, self._sent_ns.popleft())
        return 0 if self._count.over else messages


# ---- the bare clients ----


async def bare(load: Load, count: Count) -> None:
    """Messages of protobuf, made for each frame."""
    frame = load.frame

    def request(first_id: int) -> bytes:
        made = inference_pb2.StreamRequest(
            frames=inference_pb2.FrameBatch(
                frames=[
                    inference_pb2.Frame(
                        frame_id=frame_id,
                        capture_time_unix_nano=time.time_ns(),
                        tensors=[
                            tensor_pb2.Tensor(
                                name=INPUT,
                                datatype=tensor_pb2.DATA_TYPE_FP32,
                                shape=frame.shape,
                                data=frame.tobytes(),
                            )
                        ],
                    )
                    for frame_id in range(first_id, first_id + load.together)
                ]
            )
        )
        return made.SerializeToString()

    await _bare(load, count, request)


async def bare_bytes(load: Load, count: Count) -> None:
    """The same message each time."""
    frame = load.frame
    tensor = tensor_pb2.Tensor(name=INPUT, datatype=tensor_pb2.DATA_TYPE_FP32, shape=frame.shape, data=frame.tobytes())
    frames = [inference_pb2.Frame(frame_id=nth, tensors=[tensor]) for nth in range(1, load.together + 1)]
    message = inference_pb2.StreamRequest(frames=inference_pb2.FrameBatch(frames=frames)).SerializeToString()
    await _bare(load, count, lambda _: message)


async def _bare(load: Load, count: Count, request: Callable[[int], bytes]) -> None:
    options = (*OPTIONS, *LAN_OPTIONS) if load.duly_options else None
    async with grpc.aio.insecure_channel(load.target, options) as channel:
        start: Any = channel.stream_stream(
            "/duly.v1.InferenceService/Stream",
            request_serializer=None,
            response_deserializer=inference_pb2.StreamResponse.FromString,
        )
        await asyncio.gather(*(_bare_stream(start(None), load, count, request) for _ in range(load.streams)))


async def _bare_stream(call: Any, load: Load, count: Count, request: Callable[[int], bytes]) -> None:
    opening = inference_pb2.OpenStream(
        model=load.model,
        backlog_policy=inference_pb2.BACKLOG_POLICY_ALL,
        default_budget_nano=int(BUDGET_MS * 1e6),
    )
    await call.write(inference_pb2.StreamRequest(open=opening).SerializeToString())
    if not (await call.read()).HasField("opened"):
        raise RuntimeError("the stream was not opened")
    in_flight = InFlight(load, count)
    next_id = 1
    sending = load.window
    while not count.over:
        for _ in range(sending):
            in_flight.sent()
            await call.write(request(next_id))
            next_id += load.together
        response = await call.read()
        if response is grpc.aio.EOF:
            break
        sending = in_flight.came(len(response.outcomes.outcomes))
    call.cancel()


# ---- duly's client ----


async def duly(load: Load, count: Count) -> None:
    """One frame after the other, one outcome after the other."""

    async def run(stream: Stream, in_flight: InFlight, frame: NDArray[np.float32]) -> None:
        async for _ in stream:
            for _ in range(in_flight.came(1)):
                in_flight.sent()
                await stream.send(frame)
            if count.over:
                break

    await _duly(load, count, run)


async def duly_batches(load: Load, count: Count) -> None:
    """One frame after the other, outcomes together."""

    async def run(stream: Stream, in_flight: InFlight, frame: NDArray[np.float32]) -> None:
        async for outcomes in stream.batches():
            for _ in range(in_flight.came(len(outcomes))):
                in_flight.sent()
                await stream.send(frame)
            if count.over:
                break

    await _duly(load, count, run)


async def duly_many(load: Load, count: Count) -> None:
    """Frames together, outcomes together."""

    async def run(stream: Stream, in_flight: InFlight, frame: NDArray[np.float32]) -> None:
        frames = [frame] * load.together
        async for outcomes in stream.batches():
            for _ in range(in_flight.came(len(outcomes))):
                in_flight.sent()
                await stream.send_many(frames)
            if count.over:
                break

    await _duly(load, count, run)


Run = Callable[[Stream, InFlight, NDArray[np.float32]], Awaitable[None]]


async def _duly(load: Load, count: Count, run: Run) -> None:
    """Fills the windows of all streams, then lets `run` go on with each."""
    frame = load.frame

    async def one(client: Client) -> None:
        # The null echo does not say what it takes, so that nothing could be compared.
        opening = client.stream(load.model, budget_ms=BUDGET_MS, backlog="ALL", check=False)
        async with opening as stream:
            in_flight = InFlight(load, count)
            for _ in range(load.window):
                in_flight.sent()
                if load.together > 1:
                    await stream.send_many([frame] * load.together)
                else:
                    await stream.send(frame)
            await run(stream, in_flight, frame)

    async with Client(load.target, reconnect=False) as client:
        await asyncio.gather(*(one(client) for _ in range(load.streams)))


CLIENTS = {
    "bare": bare,
    "bare-bytes": bare_bytes,
    "duly": duly,
    "duly-batches": duly_batches,
    "duly-many": duly_many,
}


async def measure(client: str, load: Load) -> Figures:
    """Runs one of CLIENTS."""
    count = Count(load.seconds)
    await CLIENTS[client](load, count)
    return count.figures()


@click.command()
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.option("--target", required=True, help="HOST:PORT or unix:PATH")
@click.option("--model", default="mlp", show_default=True)
@click.option("--frame-bytes", type=click.IntRange(4, 1 << 24), default=1024, show_default=True)
@click.option("--streams", type=click.IntRange(1, 1000), default=16, show_default=True)
@click.option("--window", type=click.IntRange(1, 1000), default=8, show_default=True)
@click.option("--together", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=3.0, show_default=True)
@click.option("--duly-options", is_flag=True, help="Give the bare clients' channel the options of duly's client.")
def main(client: str, **options: Any) -> None:
    """Send with CLIENT in a closed loop."""
    click.echo(json.dumps(asdict(asyncio.run(measure(client, Load(**options))))))


if __name__ == "__main__":
    main()
