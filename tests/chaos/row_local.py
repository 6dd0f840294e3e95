"""Clients that share memory with the server and are killed as they write, change their frames all the time or lie, and
a server that dies and comes again, beside others over gRPC and through shared memory: every frame has one outcome, and
nothing is left of who has gone.
"""

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator

import numpy as np

from duly_client import Client, DulyError, Outcome, Status
from tests import graphs
from tests.chaos.local_clients import KINDS, LARGE, SMALL
from tests.chaos.measured import python
from tests.chaos.rig import Rig, Usage, free_address
from tests.chaos.verdict import Finding, Plan

PERIOD_S, BUDGET_MS = 0.02, 2000.0
END_S_MAX = 30.0
ON_TIME_MIN = 0.99
BORNE = {Status.ON_TIME, Status.LATE, Status.EXPIRED, Status.SHED, Status.SUPERSEDED}
"""What a frame may become because others want the lane, too; anything else is harm."""
LEAK_DESCRIPTORS = 2
HELD = ("duly_frames_in_flight", "duly_payload_bytes", "duly_shared_bytes", "duly_streams_open")
"""What the server tells of that it holds for streams: a frame without its outcome would be there for ever."""
GONE_S_MAX = 10.0
RESTARTS = (signal.SIGKILL, signal.SIGTERM)
SERVED_AFTER = 5
"""So many frames of each stream must have a result after the server came again."""


class Bystander:
    """Sends at its own period until it is told to stop, and keeps account of what became of each frame."""

    def __init__(self, target: str, transport: str, model: str) -> None:
        self.name = f"{model} over {transport}"
        self.sent: dict[int, int] = {}
        """The value of each frame."""
        self.outcomes: dict[int, Status] = {}
        self.results = 0
        self.wrong: list[str] = []
        self._client = Client(target, transport="grpc" if transport == "gRPC" else None)
        self._model = model
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        try:
            async with self._client as client:
                async with client.stream(self._model, backlog="ALL", budget_ms=BUDGET_MS) as stream:
                    reading = asyncio.create_task(self._read(aiter(stream)))
                    while not self._stopping.is_set() and not reading.done():
                        value = len(self.sent) % 100 + 1
                        self.sent[await stream.send(self._frame(value))] = value
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(self._stopping.wait(), PERIOD_S)
                    await stream.finish()
                    await asyncio.wait_for(reading, END_S_MAX)
        except (DulyError, TimeoutError) as error:
            self.wrong.append(f"the stream broke: {type(error).__name__}: {error}")

    def _frame(self, value: int) -> np.ndarray:
        return np.full(4, value, np.float32) if self._model == SMALL[0] else np.full((480, 640, 3), value, np.uint8)

    async def _read(self, outcomes: AsyncIterator[Outcome]) -> None:
        async for outcome in outcomes:
            if outcome.frame_id in self.outcomes:
                self.wrong.append(f"frame {outcome.frame_id} was answered twice")
            self.outcomes[outcome.frame_id] = outcome.status
            if outcome.status in (Status.ON_TIME, Status.LATE):
                self.results += 1
                value = (outcome.frame_id - 1) % 100 + 1  # ids begin at 1
                expected = 2 * value if self._model == SMALL[0] else value
                if not (outcome.outputs["y"] == expected).all():
                    self.wrong.append(f"frame {outcome.frame_id} has a wrong result")

    def stop(self) -> None:
        self._stopping.set()

    def settle(self, finding: Finding, unharmed: bool) -> None:
        finding.count("frames", len(self.sent))
        missing = self.sent.keys() - self.outcomes.keys()
        finding.check(not missing, f"{self.name}: {len(missing)} of {len(self.sent)} frames had no outcome")
        finding.check(self.outcomes.keys() <= self.sent.keys(), f"{self.name}: frames answered that were never sent")
        finding.failures.extend(f"{self.name}: {each}" for each in self.wrong[:3])
        if unharmed:
            statuses = Counter(self.outcomes.values())
            harmed = {status.name: times for status, times in statuses.items() if status not in BORNE}
            finding.check(not harmed, f"{self.name}: {harmed} of {len(self.sent)} frames")
            ratio = statuses[Status.ON_TIME] / max(1, len(self.sent))
            finding.check_speed(ratio >= ON_TIME_MIN, f"{self.name}: {ratio:.2%} of {len(self.sent)} frames on time")


async def show(plan: Plan, finding: Finding) -> None:
    models = plan.folder / "models"
    graphs.save(models, SMALL[0], graphs.scaling(), toml="batch_sizes = [1, 4]\n")
    graphs.save(models, LARGE[0], graphs.copying(("N", 480, 640, 3), graphs.UINT8), toml="batch_sizes = [1, 2]\n")
    path, address = str(plan.folder / "local.sock"), free_address()
    options = ("--local", path, "--drain-grace-s", "2", "--metrics", "127.0.0.1:0")
    rigs = [Rig(models, plan.folder / f"server{index}", *options, listen=address) for index in range(1 + len(RESTARTS))]
    try:
        await rigs[0].start()
        await _harm(plan, finding, rigs[0], path)
        await _restart(plan, finding, rigs, path)
    finally:
        for rig in rigs:
            if rig.address:
                await rig.stop()
    finding.check(
        rigs[-1].status == 0, f"the last server ended with status {rigs[-1].status}: {rigs[-1].tail()[-300:]}"
    )


async def _harm(plan: Plan, finding: Finding, rig: Rig, path: str) -> None:
    """Rude clients of each kind at once, beside others that must not notice."""
    before = await _still(rig, path)
    bystanders = _bystanders(rig.address, path)
    running = [asyncio.create_task(each.run()) for each in bystanders]
    seconds = plan.of(5, 60)
    await asyncio.gather(*[_rude(finding, kind, path, seconds, plan.seed) for kind in KINDS])
    for each in bystanders:
        each.stop()
    await asyncio.gather(*running)
    for each in bystanders:
        each.settle(finding, unharmed=True)
    if not finding.check(rig.alive, f"the server is gone: {rig.tail()[-300:]}"):
        return
    end_s = time.monotonic() + GONE_S_MAX
    while left := await asyncio.to_thread(_left, rig, before):
        if time.monotonic() > end_s:
            finding.failures.append(f"of who has gone is left: {left}")
            break
        await asyncio.sleep(0.1)
    errors = [entry for entry in rig.events() if entry.get("level") in ("error", "critical")]
    finding.check(not errors, f"the server's log has {len(errors)} errors: {errors[:1]}")


def _left(rig: Rig, before: Usage) -> dict[str, float]:
    """Returns what is left of streams, by what it is; empty: nothing."""
    after = rig.usage()
    left = {
        "descriptors": max(0, after.descriptors - before.descriptors - LEAK_DESCRIPTORS),
        "bytes of memory files": max(0, after.shared_bytes - before.shared_bytes),
    }
    with urllib.request.urlopen(f"http://{rig.metrics}/metrics", timeout=GONE_S_MAX) as page:
        for line in page.read().decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name.partition("{")[0] in HELD:
                left[name] = float(value)
    return {name: number for name, number in left.items() if number}


async def _still(rig: Rig, path: str) -> Usage:
    """Returns what the server uses when everything has been used once and nobody is there."""
    warm = _bystanders(rig.address, path)
    running = [asyncio.create_task(each.run()) for each in warm]
    await asyncio.sleep(0.5)
    for each in warm:
        each.stop()
    await asyncio.gather(*running)
    await asyncio.sleep(0.5)
    return rig.usage()


def _bystanders(address: str, path: str) -> list[Bystander]:
    return [
        Bystander(target, transport, model)
        for target, transport in ((address, "gRPC"), (f"local:{path}", "shared memory"))
        for model in (SMALL[0], LARGE[0])
    ]


async def _rude(finding: Finding, kind: str, path: str, seconds: float, seed: int, *, judged: bool = True) -> None:
    process = await python(
        "tests.chaos.local_clients", kind, f"--path={path}", f"--seconds={seconds}", f"--seed={seed}"
    )
    assert process.stdout is not None
    try:
        told = json.loads(await asyncio.wait_for(process.stdout.read(), seconds + 60))
    except TimeoutError:
        process.kill()
        finding.failures.append(f"{kind}: the rude client hung")
        return
    except ValueError:
        finding.failures.append(f"{kind}: the rude client ended without a word")
        return
    finally:
        await process.wait()
    for what, times in told["counts"].items():
        finding.count(what, times)
    if judged:
        finding.failures.extend(f"{kind}: {each}" for each in told["wrong"])
        finding.check(bool(told["counts"]), f"{kind}: nothing was done")


async def _restart(plan: Plan, finding: Finding, rigs: list[Rig], path: str) -> None:
    """The server dies and comes again, while clients stream and others are killed."""
    bystanders = _bystanders(rigs[0].address, path)
    running = [asyncio.create_task(each.run()) for each in bystanders]
    await _served(finding, bystanders)
    for number, old, new in zip(RESTARTS, rigs, rigs[1:], strict=False):
        killing = asyncio.create_task(_rude(finding, "killed", path, 2.0, plan.seed, judged=False))
        await asyncio.sleep(0.5)
        workers = old.workers()
        if number == signal.SIGKILL:
            old.signal(number)
            while old.alive:
                await asyncio.sleep(0.02)
        await old.stop()
        for pid in workers:  # they end with their server
            while os.path.exists(f"/proc/{pid}"):
                await asyncio.sleep(0.05)
        await new.start()
        finding.count("restarts")
        await _served(finding, bystanders)
        await killing
    for each in bystanders:
        each.stop()
    await asyncio.gather(*running)
    for each in bystanders:
        each.settle(finding, unharmed=False)


async def _served(finding: Finding, bystanders: list[Bystander]) -> None:
    """Waits until each has had results from now on."""
    wanted = {each: each.results + SERVED_AFTER for each in bystanders}
    end_s = time.monotonic() + END_S_MAX
    while any(each.results < results for each, results in wanted.items()):
        if time.monotonic() > end_s:
            late = [each.name for each, results in wanted.items() if each.results < results]
            finding.failures.append(f"no results for {late} within {END_S_MAX:g} s")
            return
        await asyncio.sleep(0.05)
