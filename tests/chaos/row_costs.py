"""What TLS with a token costs, and what the sandbox of workers costs, beside a server without, in alternating rounds:
CPU a frame, throughput, latency. `--one` and `--other` compare servers with any other options.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass, field

import grpc
import psutil

from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc
from tests import graphs
from tests.access.credentials import RIGHT, ca, issue, policy, write_pair
from tests.chaos.account import frame
from tests.chaos.rig import Rig
from tests.chaos.verdict import Finding, Plan

WINDOW = 8
STREAMS = 4
ALONE_FRAMES = 400


@dataclass(slots=True)
class Side:
    """One server and what was measured of it, a figure a round."""

    rig: Rig
    tls: bool
    """Whether its clients speak TLS and show a token."""
    cpu_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)

    def channel(self) -> grpc.aio.Channel:
        if not self.tls:
            return grpc.aio.insecure_channel(self.rig.address)
        token = grpc.access_token_call_credentials(RIGHT)
        plain = grpc.ssl_channel_credentials(ca("ca").certificate)
        return grpc.aio.secure_channel(self.rig.address, grpc.composite_channel_credentials(plain, token))

    def cpu_s(self) -> float:
        """The CPU time of the server and its workers so far."""
        process = psutil.Process(self.rig.pid)
        return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))

    async def measure(self, seconds: float) -> None:
        """Measures one round: streams that keep a window full, then single frames one after another."""
        async with self.channel() as channel:
            cpu_s, began_s = self.cpu_s(), time.monotonic()
            frames = sum(await asyncio.gather(*(_flood(channel, began_s + seconds) for _ in range(STREAMS))))
            took_s = time.monotonic() - began_s
            self.cpu_us.append(1e6 * (self.cpu_s() - cpu_s) / frames)
            self.per_s.append(frames / took_s)
            latencies = sorted(await _alone(channel))
        self.p50_ms.append(1e3 * latencies[len(latencies) // 2])
        self.p99_ms.append(1e3 * latencies[int(0.99 * len(latencies))])


async def _open(channel: grpc.aio.Channel) -> "grpc.aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]":
    call = inference_pb2_grpc.InferenceServiceStub(channel).Stream()
    opening = pb.OpenStream(model="double", backlog_policy=pb.BACKLOG_POLICY_ALL, default_budget_nano=5 * 10**9)
    await call.write(pb.StreamRequest(open=opening))
    await call.read()
    return call


async def _flood(channel: grpc.aio.Channel, until_s: float) -> int:
    call = await _open(channel)
    sent = got = 0
    while time.monotonic() < until_s or got < sent:
        while sent - got < WINDOW and time.monotonic() < until_s:
            sent += 1
            await call.write(pb.StreamRequest(frames=pb.FrameBatch(frames=[frame(sent, [1, 2, 3, 4])])))
        if got < sent:
            response = await call.read()
            got += len(response.outcomes.outcomes)
    call.cancel()
    return got


async def _alone(channel: grpc.aio.Channel) -> list[float]:
    call = await _open(channel)
    taken = []
    for number in range(1, ALONE_FRAMES + 1):
        began_s = time.monotonic()
        await call.write(pb.StreamRequest(frames=pb.FrameBatch(frames=[frame(number, [1, 2, 3, 4])])))
        while not (await call.read()).outcomes.outcomes:
            continue
        taken.append(time.monotonic() - began_s)
    call.cancel()
    return taken


async def show(plan: Plan, finding: Finding) -> None:
    models = plan.folder / "models"
    graphs.save(models, "double", graphs.scaling())
    certificate, key = write_pair(plan.folder, issue("ca", "localhost", "127.0.0.1"))
    tls = ("--policy", str(policy(plan.folder)), "--tls-cert", str(certificate), "--tls-key", str(key))
    pairs = {"TLS and token": ((), tls), "sandbox": (("--sandbox", "off"), ())}
    if any(plan.arguments):
        pairs = {"options": plan.arguments}
    for what, (one, other) in pairs.items():
        sides = [
            Side(Rig(models, plan.folder / f"{what}-{index}", *options), "--tls-cert" in options)
            for index, options in enumerate((one, other))
        ]
        await _compare(plan, finding, what, *sides)


async def _compare(plan: Plan, finding: Finding, name: str, one: Side, other: Side) -> None:
    rounds, seconds = plan.of(4, 20), 1.0 if not plan.full else 4.0
    async with one.rig, other.rig:
        for side in (one, other):
            await side.measure(seconds / 2)
            for figures in (side.cpu_us, side.per_s, side.p50_ms, side.p99_ms):
                figures.clear()
        for index in range(rounds):
            for side in (one, other) if index % 2 else (other, one):
                await side.measure(seconds)
    for what in ("cpu_us", "per_s", "p50_ms", "p99_ms"):
        first, second = getattr(one, what), getattr(other, what)
        ratios = [b / a for a, b in zip(first, second, strict=True)]
        finding.counts[f"{what} of {name}"] = (
            f"{statistics.median(first):.4g} -> {statistics.median(second):.4g}, ratio "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}, {rounds} rounds)"
        )
