"""A soak at 70 % load with churn: streams come and go, versions are swapped, workers die. Memory stays within 2 %, and
the p99 of the last tenth is at most 1.1 times that of the first.

How fast a shared machine is changes by the minute, and at 70 % load a little slower means far longer queues. So the
streams send at 70 % of what the lane can do now, by how long their last frames took it, and the p99 is judged in times
of that. A death and a swap each delay some of all frames, so that a p99 of all says how many of them came in that
tenth: it is printed, and judged is that of the frames beside them.
"""

import asyncio
import os
import random
import signal
import statistics
import time
from itertools import islice
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
LASTS_S, BEFORE_S = 3.0, 0.1
"""Frames that are due so long after the end of a death or a swap, or so little before it, may have waited for the lane,
or behind others that have.
"""
PACE_S, PACE_FRAMES = 0.5, 30
"""So often the periods are set anew, by so many last frames of each stream."""

V = TypeVar("V")


async def show(plan: Plan, finding: Finding) -> None:
    chance = random.Random(plan.seed)
    models, staging = plan.folder / "models", plan.folder / "staging"
    publish(models, staging, 1)
    seconds = 3600 * plan.hours
    memory: list[tuple[float, int, int, int]] = []
    latencies: list[tuple[float, float, float]] = []
    changes_s: list[tuple[float, float]] = []
    live: set[AccountedStream] = set()
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
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                        raise
                    finding.count(f"opens refused: {error.code().name}")
                    await asyncio.sleep(AGAIN_S)
                    continue
                live.add(stream)
                running = asyncio.create_task(stream.run())
                life_s = min(chance.expovariate(1 / LIFE_S), until_s - time.monotonic())
                await asyncio.wait([running], timeout=max(life_s, 0.1))
                stream.stop()
                live.discard(stream)
                _keep(await running, finding, latencies)

        async def pace() -> None:
            nonlocal period_s
            while time.monotonic() < until_s:
                await asyncio.sleep(PACE_S)
                last = [
                    answer.lane_s
                    for stream in live
                    for answer in islice(reversed(stream.account.answers.values()), PACE_FRAMES)
                    if answer.status in RESULTS
                ]
                if last:
                    period_s = STREAMS * statistics.median(last) / LOAD
                    for stream in live:
                        stream.period_s = period_s

        async def swaps() -> None:
            nonlocal active
            while time.monotonic() + SWAP_S < until_s:
                await asyncio.sleep(SWAP_S)
                since_s = time.monotonic()
                try:
                    active = await swap(channel, models, staging, active)
                    finding.count("swaps")
                except grpc.aio.AioRpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION):
                        raise
                    finding.count("swaps put off by a death")
                changes_s.append((since_s - BEFORE_S, time.monotonic() + LASTS_S))

        async def deaths() -> None:
            while time.monotonic() + DEATH_S < until_s:
                await asyncio.sleep(DEATH_S)
                workers = rig.workers()
                if workers:
                    now_s = time.monotonic()
                    changes_s.append((now_s - BEFORE_S, now_s + LASTS_S))
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    finding.count("deaths")

        async def look() -> None:
            while time.monotonic() < until_s:
                usage = rig.usage()
                memory.append((time.monotonic(), usage.rss_bytes, usage.descriptors, usage.processes))
                await asyncio.sleep(LOOK_S)

        await asyncio.gather(*(sensor() for _ in range(STREAMS)), pace(), swaps(), deaths(), look())
    finding.counts["hours"] = round((time.monotonic() - began_s) / 3600, 3)
    _judge_memory(finding, memory)
    _judge_latency(finding, latencies, changes_s)
    finding.check(rig.status == 0, f"the server ended with status {rig.status}")


def _keep(account: Account, finding: Finding, latencies: list[tuple[float, float, float]]) -> None:
    settle(account, finding)
    finding.count("failed with their worker", account.statuses()["FAILED"])
    finding.count("in time", account.statuses()["ON_TIME"])
    answers = [each for each in account.answers.values() if each.status in RESULTS]
    latencies += [(each.due_s, each.came_s - each.due_s, each.lane_s) for each in answers]


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


def _judge_latency(
    finding: Finding, latencies: list[tuple[float, float, float]], changes_s: list[tuple[float, float]]
) -> None:
    """`latencies`: for each result, when its frame was due, how long it took, and how long it took its lane."""
    latencies.sort()
    due_s = np.array([due for due, _, _ in latencies])
    beside = np.ones(len(latencies), bool)
    for since_s, until_s in changes_s:
        beside[np.searchsorted(due_s, since_s) : np.searchsorted(due_s, until_s)] = False
    quiet = [each for each, one in zip(latencies, beside, strict=True) if one]
    tenths = _tenths(quiet)
    lane_s = [float(np.median([lane for _, _, lane in part])) for part in tenths]
    p99_s = [_p99_s(part) for part in tenths]
    times = [p99 / lane for p99, lane in zip(p99_s, lane_s, strict=True)]
    for what, values, figures in (
        ("times of a frame p99 beside deaths and swaps of each tenth", times, 2),
        ("ms that a frame takes its lane", [1e3 * each for each in lane_s], 2),
        ("ms p99 beside deaths and swaps", [1e3 * each for each in p99_s], 1),
        ("ms p99 of all", [1e3 * _p99_s(part) for part in _tenths(latencies)], 1),
    ):
        finding.counts[what] = " ".join(f"{each:.{figures}f}" for each in values)
    finding.check(times[-1] <= P99_RATIO * times[0], f"p99 went from {times[0]:.2f} to {times[-1]:.2f} times a frame")


def _tenths(values: list[V]) -> list[list[V]]:
    part = max(1, len(values) // 10)
    return [values[number * part : (number + 1) * part] for number in range(10)]


def _p99_s(latencies: list[tuple[float, float, float]]) -> float:
    return float(np.quantile([took for _, took, _ in latencies], 0.99))
