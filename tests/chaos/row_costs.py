"""What one set of server options costs beside another, in alternating rounds: CPU a frame, throughput, latency.

`--one` and `--other` are options of `duly serve`, such as "" and "--tls-cert c.pem --tls-key k.pem". What clients need
to reach such a server is taken from `CHAOS_ONE_*` and `CHAOS_OTHER_*` in the environment: CA, CERTIFICATE and KEY are
files, TOKEN the bearer token, TARGET_NAME the name in the certificate.
"""

import asyncio
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil

from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc
from tests import graphs
from tests.chaos.account import frame
from tests.chaos.rig import Rig
from tests.chaos.verdict import Finding, Plan

WINDOW = 8
STREAMS = 4
ALONE_FRAMES = 400
RATIO_MAX = float(os.environ.get("CHAOS_COST_RATIO_MAX", "0"))
"""The greatest ratio of CPU a frame that is borne; 0: any."""


@dataclass(slots=True)
class Side:
    """One server and what was measured of it, a figure a round."""

    name: str
    rig: Rig
    cpu_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)

    def channel(self) -> grpc.aio.Channel:
        given = {name: os.environ.get(f"CHAOS_{self.name}_{name}") for name in ("CA", "CERTIFICATE", "KEY", "TOKEN")}
        if not given["CA"]:
            return grpc.aio.insecure_channel(self.rig.address)
        files = [Path(given[name] or os.devnull).read_bytes() or None for name in ("CA", "KEY", "CERTIFICATE")]
        credentials = grpc.ssl_channel_credentials(*files)
        if given["TOKEN"]:
            token = grpc.access_token_call_credentials(given["TOKEN"])
            credentials = grpc.composite_channel_credentials(credentials, token)
        named = os.environ.get(f"CHAOS_{self.name}_TARGET_NAME", "localhost")
        return grpc.aio.secure_channel(self.rig.address, credentials, [("grpc.ssl_target_name_override", named)])

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
    rounds, seconds = plan.of(4, 20), 1.0 if not plan.full else 4.0
    one, other = (
        Side(name, Rig(models, plan.folder / name, *options))
        for name, options in zip(("ONE", "OTHER"), plan.arguments, strict=True)
    )
    async with one.rig, other.rig:
        for side in (one, other):
            await side.measure(seconds / 2)
            for figures in (side.cpu_us, side.per_s, side.p50_ms, side.p99_ms):
                figures.clear()
        for index in range(rounds):
            for side in (one, other) if index % 2 else (other, one):
                await side.measure(seconds)
    finding.counts["rounds"] = rounds
    for what in ("cpu_us", "per_s", "p50_ms", "p99_ms"):
        first, second = getattr(one, what), getattr(other, what)
        ratios = [b / a for a, b in zip(first, second, strict=True)]
        median = statistics.median(ratios)
        finding.counts[what] = (
            f"{statistics.median(first):.4g} -> {statistics.median(second):.4g}, ratio {median:.3f} "
            f"({min(ratios):.3f}-{max(ratios):.3f})"
        )
        if what == "cpu_us" and RATIO_MAX:
            finding.check(
                median <= RATIO_MAX, f"CPU a frame is {median:.3f} times as much, at most {RATIO_MAX:g} is borne"
            )
