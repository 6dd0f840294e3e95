"""Worker faults at random moments under load: every frame has one outcome, no stream breaks, nothing leaks, and the
lane is back within a second and its warm-up.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import grpc

from tests import graphs
from tests.chaos.account import Account, AccountedStream
from tests.chaos.lying_worker import CLOSE, LIED, NAMES, UNASKED, signal_of
from tests.chaos.rig import LYING, Rig
from tests.chaos.verdict import Finding, Plan

LANES = 2
MODELS = ("double", "twice")
PERIOD_S, BUDGET_S = 0.02, 0.2
PAUSE_S_MAX = 0.15
"""Greatest pause between a lane's return and the next fault."""
BACK_S, BACK_S_QUICK = 1.0, 5.0
"""A lane is to be back after this and the time that a worker needs to start and warm up. A quick run, on a machine that
does other things, bears more."""
ANSWER_S_MAX = 25.0
"""A worker that is to lie with its next answer has one after this at the latest."""
BACK_S_MAX = 25.0
"""After this a lane counts as lost."""
BORNE, BORNE_S = ("the memory limit", "shared memory shrunk"), 2.0
"""What need not cost a worker its life: one batch fails, or the kernel does not let it happen. After BORNE_S it did
not."""
LEAK_BYTES, LEAK_DESCRIPTORS = 24 << 20, 4
LOOK_S = 0.01
STREAMS_A_MODEL = 3
REFUSED_S = 0.5
ROUND_S = 20.0
"""Streams are closed and opened anew this often, so that each one's account is settled while the run goes on."""

KILLS: dict[str, int] = {
    "SIGKILL": signal.SIGKILL,
    "SIGSTOP": signal.SIGSTOP,
    "SIGSEGV": signal.SIGSEGV,
    "SIGABRT": signal.SIGABRT,
    "SIGBUS": signal.SIGBUS,
}
FAULTS: dict[str, int] = KILLS | {name: signal_of(name) for name in (*NAMES, CLOSE, UNASKED)}


async def show(plan: Plan, finding: Finding) -> None:
    chance = random.Random(plan.seed)
    models = plan.folder / "models"
    for model in MODELS:
        graphs.save(models, model, graphs.scaling(), toml="batch_sizes = [1, 4]\n")
    lanes = ",".join(f"cpu:{lane}" for lane in range(LANES))
    rig = Rig(models, plan.folder / "server", "--lanes", lanes, entry=LYING)
    started_s = time.monotonic()
    async with rig:
        # What a worker takes to start is known from the server's own start: one after another, on every lane.
        warm_s = (time.monotonic() - started_s) / (LANES * len(MODELS))
        async with grpc.aio.insecure_channel(rig.address) as channel:
            await _serve_awhile(rig, channel, finding, 1.0)
            before = rig.usage()
            faults = plan.of(40, 1000)
            names = [list(FAULTS)[index % len(FAULTS)] for index in range(faults)]
            chance.shuffle(names)
            done = asyncio.Event()
            loading = asyncio.create_task(_load(channel, finding, done, chance))
            try:
                await _harm(rig, finding, names, warm_s + (BACK_S if plan.full else BACK_S_QUICK), chance)
            finally:
                done.set()
                await loading
            await _serve_awhile(rig, channel, finding, 2.0)
        await asyncio.sleep(1.0)
        after = rig.usage() if rig.alive else None
    finding.counts["ms of a worker's start"] = round(1e3 * warm_s)
    if after is None:
        finding.failures.append(f"the server is gone, status {rig.status}")
        return
    finding.check(
        after.rss_bytes - before.rss_bytes < LEAK_BYTES + 16_384 * faults,
        f"the server's memory grew from {before.rss_bytes >> 20} to {after.rss_bytes >> 20} MiB",
    )
    for what in ("descriptors", "processes", "shared_bytes"):
        was, now = getattr(before, what), getattr(after, what)
        slack = LEAK_DESCRIPTORS if what == "descriptors" else 0
        finding.check(now <= was + slack, f"{what} grew from {was} to {now}")
    finding.counts["MiB grown"] = round((after.rss_bytes - before.rss_bytes) / 2**20, 1)
    finding.check(rig.status == 0, f"the server ended with status {rig.status}: {rig.tail()[-300:]}")


async def _harm(rig: Rig, finding: Finding, names: list[str], bearable_s: float, chance: random.Random) -> None:
    """Does the faults, each to a worker that serves."""
    late: Counter[str] = Counter()
    worst_s, worst = 0.0, ""
    for name in names:
        if not rig.alive:
            finding.failures.append(f"the server died before {name!r}")
            return
        await asyncio.sleep(chance.uniform(0, PAUSE_S_MAX))
        # The middle of a batch is the moment that counts, and it is short: some of the faults meet one.
        victim = chance.choice(sorted(rig.workers()))
        replaced = len(rig.events("worker replaced"))
        try:
            os.kill(victim, FAULTS[name])
        except ProcessLookupError:
            finding.failures.append(f"a worker was gone before {name!r}")
            continue
        finding.count("faults")
        back_s = await _back(rig, victim, replaced, name)
        if back_s is None:
            if name in BORNE:
                finding.count("borne")
                continue
            finding.failures.append(f"after {name!r} no fresh worker came within {BACK_S_MAX:g} s")
            if name not in NAMES:
                return
            continue
        if back_s > worst_s:
            worst_s, worst = back_s, name
        if back_s > bearable_s:
            late[name] += 1
    finding.counts[f"s to come back at worst, after {worst!r}"] = round(worst_s, 2)
    for name, times in late.items():
        finding.check_speed(False, f"after {name!r} the lane was back later than {bearable_s:.1f} s, {times} times")


async def _back(rig: Rig, victim: int, replaced: int, name: str) -> float | None:
    """Waits until the worker is replaced. Returns how long after the fault that was. None: it never was."""
    bearable_s = BORNE_S if name in BORNE else BACK_S_MAX
    told_s = began_s = time.monotonic()
    while time.monotonic() - began_s < BACK_S_MAX and rig.alive:
        gone = not os.path.exists(f"/proc/{victim}")
        if name in NAMES and not gone and began_s - told_s < ANSWER_S_MAX and _process_name(victim) != LIED:
            began_s = time.monotonic()  # it lies with its next answer, which may be a while where another lane suffices
        if gone and len(rig.events("worker replaced")) > replaced:
            return time.monotonic() - began_s
        if not gone and time.monotonic() - began_s > bearable_s:
            return None
        await asyncio.sleep(LOOK_S)
    return None


def _process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return LIED  # it was gone before anybody looked


async def _load(channel: grpc.aio.Channel, finding: Finding, done: asyncio.Event, chance: random.Random) -> None:
    while not done.is_set():
        streams: list[AccountedStream] = []
        try:
            await _open(channel, chance, streams)
        except grpc.aio.AioRpcError as error:
            # A worker that has just warmed up beside much else may be planned too slow until it has run a little.
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            finding.count("streams refused for now")
            for stream in streams:
                stream.cancel()
            await asyncio.sleep(REFUSED_S)
            continue
        runs = asyncio.gather(*(stream.run() for stream in streams))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), ROUND_S)
        for stream in streams:
            stream.stop()
        for account in await runs:
            settle(account, finding)


async def _open(channel: grpc.aio.Channel, chance: random.Random, streams: list[AccountedStream]) -> None:
    """Opens all streams and adds them to `streams`, at least those before the one that is refused."""
    for model in MODELS:
        for index in range(STREAMS_A_MODEL):
            stream = AccountedStream(
                channel,
                model,
                period_s=PERIOD_S,
                budget_s=BUDGET_S,
                ordering=1 + index % 3,
                backlog=1 + 2 * (index % 2),
                phase_s=chance.uniform(0, PERIOD_S),
            )
            await stream.open()
            streams.append(stream)


async def _serve_awhile(rig: Rig, channel: grpc.aio.Channel, finding: Finding, seconds: float) -> None:
    streams: list[AccountedStream] = []
    await _open(channel, random.Random(0), streams)
    runs = asyncio.gather(*(stream.run() for stream in streams))
    await asyncio.sleep(seconds)
    for stream in streams:
        stream.stop()
    for account in await runs:
        settle(account, finding)
        served = account.statuses()["ON_TIME"]
        finding.check(served > 0, f"a stream of an unharmed server got {dict(account.statuses())}")


def settle(account: Account, finding: Finding) -> None:
    """Counts the frames of a stream, and what broke the law."""
    finding.count("streams")
    finding.count("frames", len(account.sent))
    finding.counts["without outcome"] = int(finding.counts.get("without outcome", 0)) + account.missing
    finding.check(not account.broken, f"a stream broke: {account.broken}")
    finding.check(account.missing <= 0, f"{account.missing} frames of a stream had no outcome")
    finding.failures.extend(account.wrong[:3])
