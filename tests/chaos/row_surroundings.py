"""What happens around a server: full disks, readers that stop reading, a removed repository, signals, pauses, hung
workers, clocks that are set, lines that are cut or fall silent. Each has a stated behaviour, and no frame is lost.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from duly.v1 import model_pb2, model_pb2_grpc, server_pb2, server_pb2_grpc
from duly_client import Client, Status
from tests import graphs
from tests.chaos import certificates, http2
from tests.chaos.account import Account, AccountedStream
from tests.chaos.measured import python
from tests.chaos.rig import Rig, free_address
from tests.chaos.row_faults import settle
from tests.chaos.surroundings import Line, SetClock, relay_to, small_disk
from tests.chaos.verdict import CannotRun, Finding, Plan

HOUR_S = 3600
PERIOD_S, BUDGET_S = 0.01, 0.5
ON_TIME_MIN = 0.9
"""What a server whose surroundings are at fault serves in time all the same, on a machine that does other things."""
LINE_FREE_S_MAX = 6.0
"""A link that fell silent gives back what it reserved after so long."""
HEALTH_S_MAX = 1.0
GRACE_S = 2.0
CUT_S = 3.0
FILES = 160
"""Files that the server may have open where they are used up."""
REPLACED_S_MAX = 6.0


async def show(plan: Plan, finding: Finding) -> None:
    models = _models(plan.folder / "models")
    for part in (
        disk_full,
        log_nobody_reads,
        recording_nobody_reads,
        repository_removed,
        signals,
        paused,
        hung_worker,
        health_nobody_reads,
        clock_set,
        descriptors_used_up,
        silent_line,
        line_cut,
        certificates.show,
    ):
        name = part.__name__ if part is not certificates.show else "certificates_replaced"
        if not plan.wants(name):
            continue
        folder = plan.folder / name
        folder.mkdir()
        before, began_s = len(finding.failures), time.monotonic()
        try:
            await asyncio.wait_for(part(plan, finding, models, folder), 120)
        except CannotRun as error:
            finding.skipped.append(f"{name}: {error}")
            continue
        except Exception as error:
            finding.failures.append(f"it ended early: {type(error).__name__}: {error}"[:300])
        finding.count("parts")
        finding.failures[before:] = [f"{name}: {failure}" for failure in finding.failures[before:]]
        held = "FAILED" if len(finding.failures) > before else "held"
        finding.say(f"{name}: {held}, {time.monotonic() - began_s:.0f} s")


def _models(root: Path) -> Path:
    graphs.save(root, "double", graphs.scaling(), toml="batch_sizes = [1, 4]\n")
    graphs.save(root, "sum", graphs.summing(), toml=graphs.SUMMING)
    return root


@contextlib.asynccontextmanager
async def sending(address: str, finding: Finding, **more: object) -> AsyncIterator[AccountedStream]:
    """A stream under load, whose account is settled in the end."""
    async with grpc.aio.insecure_channel(address) as channel:
        stream = AccountedStream(channel, "double", **({"period_s": PERIOD_S, "budget_s": BUDGET_S} | more))  # type: ignore[arg-type]
        await stream.open()
        running = asyncio.create_task(stream.run())
        try:
            await asyncio.sleep(0.3)
            yield stream
        finally:
            stream.stop()
            settle(await running, finding)


def _served(finding: Finding, account: Account, ratio_min: float = ON_TIME_MIN, since_s: float = 0.0) -> None:
    hits, total = account.on_time(BUDGET_S, since_s)
    finding.check(
        total > 0 and hits >= ratio_min * total, f"{hits} of {total} frames in time, {dict(account.statuses())}"
    )


async def disk_full(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """A recording on a disk that is full ends, and nothing else."""
    with small_disk(folder / "disk") as disk:
        async with Rig(models, folder, "--record", str(disk / "recording")) as rig:
            async with sending(rig.address, finding) as stream:
                (disk / "rest").write_bytes(b"")
                with contextlib.suppress(OSError), (disk / "rest").open("wb") as rest:
                    while rest.write(bytes(4096)):
                        rest.flush()
                await asyncio.sleep(plan.of(3, 20))
            _served(finding, stream.account)
        finding.check(rig.status == 0, f"the server ended with status {rig.status}")


async def log_nobody_reads(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """A pipe that nobody reads takes no more of the log, and the server goes on."""
    reading, writing = os.pipe()
    try:
        async with Rig(models, folder, "--log-level", "debug", listen=free_address(), mute=writing) as rig:
            async with sending(rig.address, finding) as stream, grpc.aio.insecure_channel(rig.address) as channel:
                for _ in range(plan.of(400, 2000)):
                    other = AccountedStream(channel, "double", period_s=1, budget_s=1)
                    await asyncio.wait_for(other.open(), 10)
                    other.cancel()
            _served(finding, stream.account)
        finding.check(rig.stopped_s is not None and rig.stopped_s < 5, f"it stopped after {rig.stopped_s} s")
    finally:
        os.close(reading)
        os.close(writing)


async def recording_nobody_reads(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """A recording into a pipe whose reader pauses holds up nobody, or is refused at start."""
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        rig = Rig(models, folder, "--record", str(fifo))
        try:
            await rig.start()
        except RuntimeError:
            finding.check("cannot record" in rig.tail(), f"it did not start: {rig.tail()[-200:]}")
            return
        async with sending(rig.address, finding, period_s=0.002) as stream:
            await asyncio.sleep(plan.of(4, 10))
        _served(finding, stream.account)
        await rig.stop()
        finding.check(rig.stopped_s is not None and rig.stopped_s < 5, f"it stopped after {rig.stopped_s} s")
    finally:
        os.close(reading)


async def repository_removed(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """What is loaded is served on. A worker that dies cannot be replaced, and that is said."""
    mine = shutil.copytree(models, folder / "mine")
    async with Rig(mine, folder) as rig, grpc.aio.insecure_channel(rig.address) as channel:
        async with sending(rig.address, finding) as stream:
            shutil.rmtree(mine)
            await asyncio.sleep(1.0)
            _served(finding, stream.account)
            for pid in rig.workers():
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(1.5)
            request = health_pb2.HealthCheckRequest(service="double")
            health = await health_pb2_grpc.HealthStub(channel).Check(request)
            served = stream.account.statuses()
            back = health.status == health_pb2.HealthCheckResponse.SERVING
            finding.check(not back or "worker replaced" in rig.tail(), "health says SERVING and no worker is there")
            try:
                stub = model_pb2_grpc.ModelServiceStub(channel)
                await stub.LoadModel(model_pb2.LoadModelRequest(name="double", version="2"), timeout=20)
                finding.failures.append("a version was loaded from a repository that is not there")
            except grpc.aio.AioRpcError as error:
                allowed = (
                    grpc.StatusCode.NOT_FOUND,
                    grpc.StatusCode.FAILED_PRECONDITION,
                    grpc.StatusCode.PERMISSION_DENIED,
                )
                finding.check(error.code() in allowed, f"LoadModel said {error.code().name}: {error.details()}")
            finding.check(sum(served.values()) > 0, "nothing was answered")
        finding.check(rig.alive, f"the server is gone: {rig.tail()[-200:]}")


async def signals(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """SIGHUP, SIGUSR1, SIGUSR2 and SIGQUIT lose no frame, whatever they are taken for."""
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        async with Rig(models, folder / number.name, "--drain-grace-s", str(GRACE_S)) as rig:
            async with grpc.aio.insecure_channel(rig.address) as channel:
                stream = AccountedStream(channel, "double", period_s=PERIOD_S, budget_s=BUDGET_S)
                await stream.open()
                running = asyncio.create_task(stream.run())
                await asyncio.sleep(0.5)
                rig.signal(number)
                await asyncio.sleep(1.0)
                stream.stop()
                account = await running
            drained = "draining" in rig.log.read_text() or "DRAINING" in account.broken
            if not drained:
                finding.check(not account.broken, f"{number.name}: the stream broke: {account.broken}")
            # What was written while the server left never came to it.
            lost = [i for i in account.sent if i not in account.answers]
            answered = max(account.answers, default=0)
            gaps = [i for i in lost if i < answered]
            finding.check(not gaps, f"{number.name}: frames {gaps[:5]} were passed over")
            finding.check(drained or not lost, f"{number.name}: {len(lost)} frames had no outcome")
            finding.count("signals")


async def paused(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """A server that was stopped and goes on kills no worker that is well."""
    async with Rig(models, folder) as rig:
        async with sending(rig.address, finding):
            for pause_s in (1.5, plan.of(4, 12)):
                rig.signal(signal.SIGSTOP)
                await asyncio.sleep(pause_s)
                rig.signal(signal.SIGCONT)
                await asyncio.sleep(1.0)
        replaced = len(rig.events("worker replaced"))
        finding.check(not replaced, f"{replaced} workers were replaced after a pause of the server alone")


async def hung_worker(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """The grace is kept though a worker hangs."""
    async with Rig(models, folder, "--drain-grace-s", str(GRACE_S)) as rig:
        async with grpc.aio.insecure_channel(rig.address) as channel:
            stream = AccountedStream(channel, "double", period_s=PERIOD_S, budget_s=60.0)
            await stream.open()
            running = asyncio.create_task(stream.run())
            await asyncio.sleep(0.5)
            for pid in rig.workers():
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.1)
            await rig.stop()
            account = await running
        last = max(account.answers, default=0)
        gaps = [number for number in account.sent if number not in account.answers and number < last]
        finding.check(not gaps, f"frames {gaps[:5]} were passed over")
        finding.check(
            rig.stopped_s is not None and rig.stopped_s < GRACE_S + 2.5,
            f"it stopped after {rig.stopped_s} s, grace {GRACE_S:g} s",
        )


async def health_nobody_reads(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """A watcher that takes nothing keeps nobody from the truth and the server from no end."""
    async with Rig(models, folder, "--drain-grace-s", str(GRACE_S)) as rig:
        held = []
        for name in ("", "double"):
            raw = http2.Raw(rig.address, window=0)
            body = health_pb2.HealthCheckRequest(service=name)
            raw.send(raw.call("/grpc.health.v1.Health/Watch"), http2.message(body), end=True)
            held.append(raw)
        await asyncio.sleep(0.3)
        async with grpc.aio.insecure_channel(rig.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service="double"))
            first = await watch.read()
            finding.check(first.status == health_pb2.HealthCheckResponse.SERVING, f"health began with {first.status}")
            began_s = time.monotonic()
            for pid in rig.workers():
                os.kill(pid, signal.SIGKILL)
            try:
                second = await asyncio.wait_for(watch.read(), HEALTH_S_MAX)
                finding.check(
                    second.status == health_pb2.HealthCheckResponse.NOT_SERVING, f"then it said {second.status}"
                )
                finding.counts["ms until health is right"] = round(1e3 * (time.monotonic() - began_s))
            except TimeoutError:
                finding.failures.append(f"health said SERVING {HEALTH_S_MAX:g} s after all workers were killed")
            watch.cancel()
            await asyncio.sleep(1.5)
            models_stub = model_pb2_grpc.ModelServiceStub(channel)
            try:
                await models_stub.UnloadModel(model_pb2.UnloadModelRequest(name="double", version="1"), timeout=20)
                await asyncio.sleep(0.2)
                try:
                    after = await stub.Check(health_pb2.HealthCheckRequest(service="double"))
                    finding.check(
                        after.status != health_pb2.HealthCheckResponse.SERVING,
                        "an unloaded model is said to be SERVING",
                    )
                except grpc.aio.AioRpcError as error:
                    finding.check(error.code() is grpc.StatusCode.NOT_FOUND, f"health: {error.code().name}")
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                    raise
        await rig.stop()
        finding.check(
            rig.stopped_s is not None and rig.stopped_s < GRACE_S + 3,
            f"it stopped after {rig.stopped_s} s beside watchers",
        )
        for raw in held:
            raw.close()


async def clock_set(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """The server's wall clock is set by an hour, both ways, under a client whose clock stays."""
    clock = SetClock(folder / "clock")
    async with Rig(models, folder, env=clock.env) as rig:
        async with Client(rig.address) as client, client.stream("double", budget_ms=2000, backlog="ALL") as stream:
            for step_s in (0, HOUR_S, -HOUR_S, -HOUR_S, 2 * HOUR_S):
                clock.step(step_s)
                sent = 0
                outcomes = []
                end_s = time.monotonic() + plan.of(2, 4)
                while time.monotonic() < end_s:
                    await stream.send(np.full(4, 1, np.float32))
                    sent += 1
                    outcomes.append(await anext(stream))
                bad = [(each.status.name, each.reason) for each in outcomes if each.status is not Status.ON_TIME]
                finding.count("frames", sent)
                finding.count("clock steps")
                finding.check(len(outcomes) == sent, f"{sent} frames, {len(outcomes)} outcomes")
                finding.check(
                    not bad, f"after a step of {step_s} s {len(bad)} of {sent} frames were not in time: {bad[:1]}"
                )


async def descriptors_used_up(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """Somebody takes all connections that the server's files allow and says nothing: a worker that dies is replaced."""
    async with Rig(models, folder, hard_files=FILES) as rig, sending(rig.address, finding) as stream:
        process = await python("tests.chaos.attacks", "idle_connections", f"--address={rig.address}", "--seconds=8")
        assert process.stdout is not None
        await process.stdout.readline()
        await asyncio.sleep(2.0)
        for pid in rig.workers():
            os.kill(pid, signal.SIGKILL)
        began_s = time.monotonic()
        while len(rig.events("worker replaced")) < 2 and time.monotonic() - began_s < REPLACED_S_MAX:
            await asyncio.sleep(0.1)
        replaced = len(rig.events("worker replaced"))
        finding.check(replaced == 2, f"{replaced} of 2 workers were replaced within {REPLACED_S_MAX:g} s")
        told = json.loads(await process.stdout.read())
        await process.wait()
        finding.count("idle connections", told.get("connections", 0))
        recovered_s = time.monotonic()
        await asyncio.sleep(1.0)
        _served(finding, stream.account, since_s=recovered_s)


async def silent_line(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """A line that falls silent gives back the share that its CRITICAL stream was promised."""
    async with Rig(models, folder) as rig, relay_to(rig.address) as relay:
        async with grpc.aio.insecure_channel(relay.address) as far, grpc.aio.insecure_channel(rig.address) as near:
            stream = AccountedStream(
                far, "double", period_s=PERIOD_S, budget_s=BUDGET_S, stream_class="CRITICAL", promise=True
            )
            await stream.open()
            running = asyncio.create_task(stream.run())
            await asyncio.sleep(0.5)
            relay.silence()
            began_s = time.monotonic()
            stub = server_pb2_grpc.ServerServiceStub(near)
            while time.monotonic() - began_s < 4 * LINE_FREE_S_MAX:
                told = await stub.GetStatistics(server_pb2.GetStatisticsRequest())
                if not told.statistics.streams_open:
                    break
                await asyncio.sleep(0.1)
            took_s = time.monotonic() - began_s
            finding.counts["s until a silent line is free"] = round(took_s, 1)
            finding.check(took_s <= LINE_FREE_S_MAX, f"a silent line's stream was still open after {took_s:.1f} s")
            stream.stop()
            stream.cancel()
            running.cancel()


async def line_cut(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    """The network between two namespaces is cut and healed: the client has one outcome for each frame, and is served
    again.
    """
    with Line() as line:
        port = 20_000 + os.getpid() % 10_000
        async with Rig(models, folder, wrap=line.wrap, listen=f"{line.THERE}:{port}", env={"no_proxy": "*"}) as rig:
            outcomes = []
            sent = 0
            async with (
                Client(rig.address) as client,
                client.stream("double", budget_ms=300, backlog="ALL") as stream,
            ):

                async def read() -> None:
                    async for outcome in stream:
                        outcomes.append(outcome)

                reading = asyncio.create_task(read())
                healed_s = 0.0
                for phase_s, act in ((1.0, line.cut), (CUT_S, line.heal), (10.0, None)):
                    end_s = time.monotonic() + phase_s
                    while time.monotonic() < end_s:
                        await stream.send(np.full(4, 1, np.float32))
                        sent += 1
                        await asyncio.sleep(PERIOD_S)
                    if act:
                        act()
                        healed_s = time.monotonic()
                await stream.finish()
                await asyncio.wait_for(reading, 20)
            ids = [outcome.frame_id for outcome in outcomes]
            finding.count("frames", sent)
            finding.check(len(ids) == len(set(ids)) == sent, f"{sent} frames, {len(ids)} outcomes of {len(set(ids))}")
            last = outcomes[-100:]
            hits = sum(outcome.status is Status.ON_TIME for outcome in last)
            finding.check(hits >= 90, f"{time.monotonic() - healed_s:.0f} s after it was healed {hits} of 100 in time")
