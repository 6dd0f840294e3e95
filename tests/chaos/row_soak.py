"""A soak at 70 % load with churn: streams come and go, versions are swapped, workers die. Memory stays within 2 %, and
the p99 of the last tenth is at most 1.1 times that of the first.
"""

import asyncio
import os
import random
import signal
import time

import grpc
import numpy as np

from tests.chaos.account import RESULTS, Account, AccountedStream
from tests.chaos.rig import Rig
from tests.chaos.row_faults import settle
from tests.chaos.row_swaps import BUDGET_PLANS, LOAD, STREAMS, one_frame_s, publish, swap
from tests.chaos.verdict import Finding, Plan

LIFE_S = 20.0
"""The mean life of a stream, after which another takes its place."""
SWAP_S, DEATH_S = 60.0, 45.0
"""The time between two swaps and between two deaths of a worker."""
LOOK_S = 2.0
AGAIN_S = 0.2
"""A stream that cannot be opened, as the worker was just killed, is opened again after this."""
WARM_SHARE = 0.1
"""The share of the soak that is no part of the trend of its memory."""
MEMORY_SHARE, P99_RATIO = 0.02, 1.1


async def show(plan: Plan, finding: Finding) -> None:
    chance = random.Random(plan.seed)
    models, staging = plan.folder / "models", plan.folder / "staging"
    publish(models, staging, 1)
    seconds = 3600 * plan.hours
    memory: list[tuple[float, int, int, int]] = []
    latencies: list[tuple[float, float]] = []
    began_s = time.monotonic()
    async with Rig(models, plan.folder / "server") as rig, grpc.aio.insecure_channel(rig.address) as channel:
        plan_s = await one_frame_s(channel)
        period_s, budget_s = STREAMS * plan_s / LOAD, max(BUDGET_PLANS * plan_s, 0.2)
        until_s = time.monotonic() + seconds
        active = 1

        async def sensor() -> None:
            while time.monotonic() < until_s:
                stream = AccountedStream(
                    channel,
                    "m",
                    period_s=period_s,
                    budget_s=budget_s,
                    factor=None,
                    shape=(1, 1),
                    phase_s=chance.uniform(0, period_s),
                )
                try:
                    await stream.open()
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    finding.count("opens while no lane served")
                    await asyncio.sleep(AGAIN_S)
                    continue
                running = asyncio.create_task(stream.run())
                life_s = min(chance.expovariate(1 / LIFE_S), until_s - time.monotonic())
                await asyncio.wait([running], timeout=max(life_s, 0.1))
                stream.stop()
                _keep(await running, finding, latencies)

        async def swaps() -> None:
            nonlocal active
            while time.monotonic() + SWAP_S < until_s:
                await asyncio.sleep(SWAP_S)
                try:
                    active = await swap(channel, models, staging, active)
                    finding.count("swaps")
                except grpc.aio.AioRpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION):
                        raise
                    finding.count("swaps put off by a death")

        async def deaths() -> None:
            while time.monotonic() + DEATH_S < until_s:
                await asyncio.sleep(DEATH_S)
                workers = rig.workers()
                if workers:
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    finding.count("deaths")

        async def look() -> None:
            while time.monotonic() < until_s:
                usage = rig.usage()
                memory.append((time.monotonic(), usage.rss_bytes, usage.descriptors, usage.processes))
                await asyncio.sleep(LOOK_S)

        await asyncio.gather(*(sensor() for _ in range(STREAMS)), swaps(), deaths(), look())
    finding.counts["hours"] = round((time.monotonic() - began_s) / 3600, 3)
    _judge(finding, memory, latencies)
    finding.check(rig.status == 0, f"the server ended with status {rig.status}")


def _keep(account: Account, finding: Finding, latencies: list[tuple[float, float]]) -> None:
    settle(account, finding)
    finding.count("failed with their worker", account.statuses()["FAILED"])
    finding.count("in time", account.statuses()["ON_TIME"])
    answers = [each for each in account.answers.values() if each.status in RESULTS]
    latencies += [(each.due_s, each.came_s - each.due_s) for each in answers]


def _judge(finding: Finding, memory: list[tuple[float, int, int, int]], latencies: list[tuple[float, float]]) -> None:
    warm = memory[int(WARM_SHARE * len(memory)) :]
    tenth = max(1, len(warm) // 10)
    first, last = (float(np.median([each[1] for each in part])) for part in (warm[:tenth], warm[-tenth:]))
    finding.counts["MiB first tenth"], finding.counts["MiB last tenth"] = (
        round(first / 2**20, 1),
        round(last / 2**20, 1),
    )
    finding.check(
        abs(last / first - 1) <= MEMORY_SHARE, f"memory went from {first / 2**20:.1f} to {last / 2**20:.1f} MiB"
    )
    for what, place in (("descriptors", 2), ("processes", 3)):
        was, now = (float(np.median([each[place] for each in part])) for part in (warm[:tenth], warm[-tenth:]))
        finding.check(now <= was + 1, f"{what} went from {was:g} to {now:g}")
    latencies.sort()
    part = max(1, len(latencies) // 10)
    early, late = (
        float(np.quantile([each[1] for each in some], 0.99)) for some in (latencies[:part], latencies[-part:])
    )
    finding.counts["ms p99 first tenth"], finding.counts["ms p99 last tenth"] = (
        round(1e3 * early, 2),
        round(1e3 * late, 2),
    )
    finding.check(late <= P99_RATIO * early, f"p99 went from {1e3 * early:.2f} to {1e3 * late:.2f} ms")
