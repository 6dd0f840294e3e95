"""Hot swaps at 70 % load: no frame is lost or answered by a mix of versions, and the on-time ratio stays within 0.2
points of the stretches without a swap, which alternate with those with.
"""

import asyncio
import shutil
import time
from pathlib import Path

import grpc

from duly.core.types import OutcomeStatus
from duly.v1 import inference_pb2, inference_pb2_grpc, model_pb2, model_pb2_grpc
from tests import graphs
from tests.chaos.account import AccountedStream, frame
from tests.chaos.rig import Rig
from tests.chaos.row_faults import settle
from tests.chaos.verdict import CannotRun, Finding, Plan

LOAD = 0.7
FAILED = int(OutcomeStatus.FAILED)
STREAMS = 6
BUDGET_PLANS = 12
"""The budget of a frame, in times of a batch of one."""
ROUNDS = 12
"""Matrix products in a frame: a few milliseconds."""
STRETCH_S = 10.0
SLACK, SLACK_QUICK = 0.002, 0.3
"""How far the ratio may lie below that without swaps. A quick run says only that streams go on: its
four swaps come back to back on a machine that does other things."""
RPC_SECONDS_MAX = 120.0


def numbered(number: int) -> graphs.onnx.ModelProto:
    """y[N,1] = `number` times x, after some milliseconds of work."""
    graph = graphs.slow(rounds=ROUNDS)
    graph.graph.node[-1].output[0] = "plain"
    graph.graph.node.append(graphs.helper.make_node("Mul", ["plain", "number"], ["y"]))
    graph.graph.initializer.append(graphs.numpy_helper.from_array(graphs.np.float32(number), "number"))
    return graph


def publish(models: Path, staging: Path, number: int) -> None:
    """Puts a version into its place in whole, unless it is there."""
    if (models / "m" / str(number)).exists():
        return
    graphs.save(staging, "m", numbered(number), version=number, toml="batch_sizes = [1]\n")
    (models / "m").mkdir(parents=True, exist_ok=True)
    if not (models / "m" / "model.toml").exists():
        shutil.copy(staging / "m" / "model.toml", models / "m" / "model.toml")
    (staging / "m" / str(number)).rename(models / "m" / str(number))


async def one_frame_s(channel: grpc.aio.Channel) -> float:
    """Returns what a frame takes on its lane, the median of some."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    taken = []
    for number in range(40):
        answer = await stub.Infer(inference_pb2.InferRequest(model="m", frame=frame(number, [[1]])))
        timing = answer.outcome.timing
        taken.append((timing.finished_nano - timing.started_nano) / 1e9)
    return sorted(taken)[len(taken) // 2]


async def swap(channel: grpc.aio.Channel, models: Path, staging: Path, old: int) -> int:
    """Publishes, loads and activates the next version, and unloads the one before at once, which finishes what it has
    taken. Returns the number of the new one.
    """
    new = old + 1
    # In a thread, as a disk that takes its time must not make this client late.
    await asyncio.to_thread(publish, models, staging, new)
    stub = model_pb2_grpc.ModelServiceStub(channel)
    wait = {"timeout": RPC_SECONDS_MAX}
    await stub.LoadModel(model_pb2.LoadModelRequest(name="m", version=str(new)), **wait)
    await stub.ActivateVersion(model_pb2.ActivateVersionRequest(name="m", version=str(new)), **wait)
    try:
        await stub.UnloadModel(model_pb2.UnloadModelRequest(name="m", version=str(old)), **wait)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
    await asyncio.to_thread(shutil.rmtree, models / "m" / str(old))
    return new


async def show(plan: Plan, finding: Finding) -> None:
    models, staging = plan.folder / "models", plan.folder / "staging"
    publish(models, staging, 1)
    swaps_wanted = plan.of(4, 200)
    stretch_s = STRETCH_S if plan.full else 4.0
    async with Rig(models, plan.folder / "server") as rig, grpc.aio.insecure_channel(rig.address) as channel:
        plan_s = await one_frame_s(channel)
        period_s = STREAMS * plan_s / LOAD
        budget_s = max(BUDGET_PLANS * plan_s, 0.05)
        streams = [
            AccountedStream(
                channel,
                "m",
                period_s=period_s,
                budget_s=budget_s,
                factor=None,
                shape=(1, 1),
                phase_s=index * period_s / STREAMS,
            )
            for index in range(STREAMS)
        ]
        for stream in streams:
            await stream.open()
        runs = asyncio.gather(*(stream.run() for stream in streams))
        await asyncio.sleep(1.0)
        stretches: list[tuple[bool, float, float]] = []
        active = 1
        while active <= swaps_wanted and rig.alive and not runs.done():
            began_s = time.monotonic()
            await asyncio.sleep(stretch_s)
            stretches.append((False, began_s, time.monotonic()))
            began_s = time.monotonic()
            while time.monotonic() - began_s < stretch_s and active <= swaps_wanted:
                active = await swap(channel, models, staging, active)
                finding.count("swaps")
            stretches.append((True, began_s, time.monotonic()))
        for stream in streams:
            stream.stop()
        accounts = await runs
        if not rig.alive:
            raise CannotRun(f"the server is gone: {rig.tail()[-300:]}")
    for account in accounts:
        settle(account, finding)
    ratios = {}
    for swapping in (False, True):
        hits = total = 0
        for kind, since_s, until_s in stretches:
            if kind is swapping:
                for account in accounts:
                    some, of = account.on_time(budget_s, since_s, until_s)
                    hits, total = hits + some, total + of
        ratios[swapping] = hits / max(total, 1)
    finding.counts["% on time without"] = round(100 * ratios[False], 3)
    finding.counts["% on time with swaps"] = round(100 * ratios[True], 3)
    finding.counts["ms a frame"] = round(1e3 * plan_s, 2)
    versions = {answer.version for account in accounts for answer in account.answers.values() if answer.version}
    finding.counts["versions that answered"] = len(versions)
    failed = sum(account.statuses()["FAILED"] for account in accounts)
    reasons = {answer.reason for account in accounts for answer in account.answers.values() if answer.status == FAILED}
    finding.check(not failed, f"{failed} frames FAILED: {sorted(reasons)[:3]}")
    slack = SLACK if plan.full else SLACK_QUICK
    finding.check_speed(
        ratios[True] >= ratios[False] - slack,
        f"on time {ratios[True]:.2%} while versions were swapped, {ratios[False]:.2%} without",
    )
    finding.check(rig.status == 0, f"the server ended with status {rig.status}")
