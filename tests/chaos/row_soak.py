"""A soak at 70 % load with churn: streams come and go, versions are swapped, workers die. Memory stays within 2 %, and
the p99 of the last tenth is at most 1.1 times that of the first.

A dead worker delays about one frame in a hundred, so that a p99 of all frames says how many workers died in that tenth.
It is printed; judged is the p99 of the frames beside the deaths, and apart from it how long the lane was away.
"""

import asyncio
import os
import random
import signal
import time
from typing import TypeVar

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
DEATH_LASTS_S, BEFORE_S = 3.0, 0.1
"""Frames that are due so long after a death, or so little before it, may have waited for the lane, or behind others
that have.
"""

V = TypeVar("V")


async def show(plan: Plan, finding: Finding) -> None:
    chance = random.Random(plan.seed)
    models, staging = plan.folder / "models", plan.folder / "staging"
    publish(models, staging, 1)
    seconds = 3600 * plan.hours
    memory: list[tuple[float, int, int, int]] = []
    latencies: list[tuple[float, float]] = []
    died_s: list[float] = []
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
                    died_s.append(time.monotonic())
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    finding.count("deaths")

        async def look() -> None:
            while time.monotonic() < until_s:
                usage = rig.usage()
                memory.append((time.monotonic(), usage.rss_bytes, usage.descriptors, usage.processes))
                await asyncio.sleep(LOOK_S)

        await asyncio.gather(*(sensor() for _ in range(STREAMS)), swaps(), deaths(), look())
    finding.counts["hours"] = round((time.monotonic() - began_s) / 3600, 3)
    _judge_memory(finding, memory)
    _judge_latency(finding, latencies, died_s)
    finding.check(rig.status == 0, f"the server ended with status {rig.status}")


def _keep(account: Account, finding: Finding, latencies: list[tuple[float, float]]) -> None:
    settle(account, finding)
    finding.count("failed with their worker", account.statuses()["FAILED"])
    finding.count("in time", account.statuses()["ON_TIME"])
    answers = [each for each in account.answers.values() if each.status in RESULTS]
    latencies += [(each.due_s, each.came_s - each.due_s) for each in answers]


def _judge_memory(finding: Finding, memory: list[tuple[float, int, int, int]]) -> None:
    warm = memory[int(WARM_SHARE * len(memory)) :]
    tenths = _tenths(warm)
    medians = [float(np.median([each[1] for each in part])) / 2**20 for part in tenths]
    finding.counts["MiB of each tenth"] = " ".join(f"{each:.1f}" for each in medians)
    first, last = medians[0], medians[-1]
    finding.check(abs(last / first - 1) <= MEMORY_SHARE, f"memory went from {first:.1f} to {last:.1f} MiB")
    for what, place in (("descriptors", 2), ("processes", 3)):
        was, now = (float(np.median([each[place] for each in part])) for part in (tenths[0], tenths[-1]))
        finding.check(now <= was + 1, f"{what} went from {was:g} to {now:g}")


def _judge_latency(finding: Finding, latencies: list[tuple[float, float]], died_s: list[float]) -> None:
    latencies.sort()
    deaths = np.array([-np.inf, *sorted(each - BEFORE_S for each in died_s)])
    due_s = np.array([each[0] for each in latencies])
    beside = due_s - deaths[np.searchsorted(deaths, due_s, "right") - 1] > DEATH_LASTS_S + BEFORE_S
    quiet = [each for each, one in zip(latencies, beside, strict=True) if one]
    p99s = [_p99_ms(part) for part in _tenths(quiet)]
    finding.counts["ms p99 beside deaths of each tenth"] = " ".join(f"{each:.1f}" for each in p99s)
    finding.counts["ms p99 of each tenth"] = " ".join(f"{_p99_ms(part):.1f}" for part in _tenths(latencies))
    finding.check(p99s[-1] <= P99_RATIO * p99s[0], f"p99 went from {p99s[0]:.1f} to {p99s[-1]:.1f} ms")
    waits = [
        max((wait for due, wait in latencies if died <= due <= died + DEATH_LASTS_S), default=0) for died in died_s
    ]
    finding.counts["s longest wait by a death, medians of each tenth"] = " ".join(
        f"{float(np.median(part)):.2f}" for part in _tenths(waits) if part
    )


def _tenths(values: list[V]) -> list[list[V]]:
    part = max(1, len(values) // 10)
    return [values[number * part : (number + 1) * part] for number in range(10)]


def _p99_ms(latencies: list[tuple[float, float]]) -> float:
    return 1e3 * float(np.quantile([each[1] for each in latencies], 0.99)) if latencies else 0.0
