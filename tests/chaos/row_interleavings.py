"""Interleavings of cancel and close against the law: simulated ones over the real streams, driver and scheduler, ones
of the scheduler alone, and live ones over gRPC with real workers.
"""

import asyncio
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import grpc

from duly.core.events import FramesCancelled, StreamClosed
from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc, server_pb2, server_pb2_grpc
from tests import graphs
from tests.chaos.account import CLASSES, AccountedStream, frame
from tests.chaos.interleaved import worlds
from tests.chaos.rig import Rig
from tests.chaos.row_faults import settle
from tests.chaos.verdict import Finding, Plan
from tests.core.law_run import Random, run

CHUNK = 5_000
CORE_RUNS_A_CHUNK = 20
AT_ONCE = 24
"""Calls that are under way at once."""
GONE_S_MAX = 15.0


def _core(seed: int) -> tuple[int, int]:
    """Runs the scheduler alone. Returns (cancels and closes, events)."""
    acts = events = 0
    for each in range(seed, seed + CORE_RUNS_A_CHUNK):
        log = run(Random(each)).log
        events += len(log)
        acts += sum(isinstance(event, FramesCancelled | StreamClosed) for _, event in log)
    return acts, events


async def show(plan: Plan, finding: Finding) -> None:
    await asyncio.to_thread(_simulated, plan, finding)
    await _live(plan, finding)


def _simulated(plan: Plan, finding: Finding) -> None:
    wanted = plan.of(20_000, 1_000_000)
    processes = os.cpu_count() or 1
    did: Counter[str] = Counter()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        seeds = range(plan.seed * 10**9, plan.seed * 10**9 + wanted // CHUNK * 10**6, 10**6)
        done = [pool.submit(worlds, seed, CHUNK) for seed in seeds]
        core = [pool.submit(_core, seed) for seed in range(0, CORE_RUNS_A_CHUNK * plan.of(2, 100), CORE_RUNS_A_CHUNK)]
        for future in done:
            try:
                did += future.result()
            except AssertionError as error:
                finding.failures.append(f"simulated: {error}; {' '.join(getattr(error, '__notes__', []))}")
        for alone in core:
            try:
                acts, events = alone.result()
                did["alone"] += acts
                did["events"] += events
            except AssertionError as error:
                finding.failures.append(f"the scheduler alone: {error}; {getattr(error, '__notes__', [])[:1]}")
    finding.counts["simulated interleavings"] = did["cancels"] + did["closes"]
    finding.counts["simulated streams"] = did["streams"]
    finding.counts["simulated frames"] = did["frames"]
    finding.counts["of the scheduler alone"] = did["alone"]
    simulated = did["cancels"] + did["closes"]
    finding.check(simulated >= wanted, f"{simulated} simulated interleavings, {wanted} were wanted")


async def _live(plan: Plan, finding: Finding) -> None:
    models = plan.folder / "models"
    graphs.save(models, "double", graphs.scaling(), toml="batch_sizes = [1, 4]\n")
    graphs.save(models, "sum", graphs.summing(), toml=graphs.SUMMING)
    graphs.save(models, "slow", graphs.slow(rounds=4), toml="batch_sizes = [1]\n")
    wanted = plan.of(400, 20_000)
    chance = random.Random(plan.seed)
    async with Rig(models, plan.folder / "server") as rig:
        before = rig.usage()
        async with grpc.aio.insecure_channel(rig.address) as channel:
            beside = AccountedStream(channel, "double", period_s=0.02, budget_s=1.0)
            await beside.open()
            beside_run = asyncio.create_task(beside.run())
            left = iter(range(wanted))
            acts: Counter[str] = Counter()
            faults: list[str] = []

            async def caller() -> None:
                for _ in left:
                    await _call(channel, random.Random(chance.randrange(2**60)), acts, faults)

            await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
            beside.stop()
            settle(await beside_run, finding)
            statistics = await _quiet(channel)
        finding.counts["live interleavings"] = acts["cancels"] + acts["closes"]
        finding.failures.extend(faults[:5])
        finding.check(
            not statistics.frames_in_flight and not statistics.streams_open,
            f"{statistics.frames_in_flight} frames and {statistics.streams_open} streams are left with the server",
        )
        after = rig.usage()
        finding.check(
            after.descriptors <= before.descriptors + 4, f"descriptors: {before.descriptors}, then {after.descriptors}"
        )
    finding.check(rig.status == 0, f"the server ended with status {rig.status}")


async def _call(channel: grpc.aio.Channel, chance: random.Random, acts: Counter[str], faults: list[str]) -> None:
    """One call that is cancelled at a random moment, or ends well after frames were cancelled."""
    model = chance.choice(["double", "sum", "slow"])
    values = {"double": [1, 2, 3, 4], "sum": [1, 2], "slow": [[1]]}[model]
    call = inference_pb2_grpc.InferenceServiceStub(channel).Stream()
    opening = pb.OpenStream(
        model=model,
        stream_class=CLASSES["STANDARD"],  # type: ignore[arg-type]
        backlog_policy=chance.randint(1, 3),  # type: ignore[arg-type]
        backlog_frames=0,
        ordering=chance.randint(1, 3),  # type: ignore[arg-type]
        default_budget_nano=10**9,
    )
    if opening.backlog_policy == pb.BACKLOG_POLICY_KEEP_LAST:
        opening.backlog_frames = 2
    got: Counter[int] = Counter()
    sent = 0

    async def read() -> None:
        while (response := await call.read()) is not grpc.aio.EOF:
            for outcome in response.outcomes.outcomes:
                got[outcome.frame_id] += 1

    reading = None
    try:
        await call.write(pb.StreamRequest(open=opening))
        reading = asyncio.create_task(read())
        for _ in range(chance.randint(1, 6)):
            count = chance.randint(1, 4)
            batch = [frame(sent + index, values) for index in range(1, count + 1)]
            sent += count
            await call.write(pb.StreamRequest(frames=pb.FrameBatch(frames=batch)))
            if chance.random() < 0.6:
                ids = [max(0, sent - back) for back in chance.sample(range(5), 2)]
                await call.write(pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=ids)))
                acts["cancels"] += 1
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, 0.003))
            if chance.random() < 0.15:
                call.cancel()  # RST_STREAM
                acts["closes"] += 1
                return
        await call.done_writing()
        if chance.random() < 0.3:
            call.cancel()
            acts["closes"] += 1
            return
        await asyncio.wait_for(reading, 20)
        if sorted(got) != list(range(1, sent + 1)) or any(times > 1 for times in got.values()):
            faults.append(f"a call of {sent} frames ended well with outcomes {dict(got)}")
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            acts["refused for now"] += 1  # on a machine that is busy a plan may be too long for the budget
            return
        faults.append(f"a call broke: {error}"[:300])
    except TimeoutError:
        faults.append(f"a call of {sent} frames did not end; {len(got)} outcomes came")
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.wait([reading])
        call.cancel()


async def _quiet(channel: grpc.aio.Channel) -> server_pb2.Statistics:
    """Returns the server's statistics once nothing is under way, or when that takes too long."""
    stub = server_pb2_grpc.ServerServiceStub(channel)
    end_s = time.monotonic() + GONE_S_MAX
    while True:
        statistics = (await stub.GetStatistics(server_pb2.GetStatisticsRequest())).statistics
        if (not statistics.frames_in_flight and not statistics.streams_open) or time.monotonic() > end_s:
            return statistics
        await asyncio.sleep(0.1)
