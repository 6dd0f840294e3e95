"""What a CRITICAL client got in each stretch of time, by its own clock, and what others met who opened streams."""

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType

import grpc

from duly.v1 import inference_pb2 as pb
from tests.chaos.account import AccountedStream
from tests.chaos.rig import ROOT, Rig

RATIO_MIN = 0.999
SLACK = 0.001
"""How far the ratio may lie below that of the undisturbed stretches of the same minute."""
OPEN_PERIOD_S = 0.25
OPEN_SECONDS_MAX = 5.0


@dataclass(slots=True)
class Stretch:
    name: str
    since_s: float
    until_s: float
    disturbed: bool


async def python(*arguments: str, stdin: int = asyncio.subprocess.DEVNULL) -> asyncio.subprocess.Process:
    """Starts a module of this package."""
    paths = [str(ROOT / part) for part in ("server", "clients/python", "load_tests", ".")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", *arguments, stdin=stdin, stdout=asyncio.subprocess.PIPE, env=env, limit=1 << 28
    )


class Measured:
    """A probe of a server, used as `async with Measured(rig) as measured`; its figures are there afterwards."""

    def __init__(self, rig: Rig, budget_ms: float = 50, **options: object) -> None:
        self._rig = rig
        self._budget_s = budget_ms / 1e3
        self._options = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self.frames: list[tuple[float, float, int]] = []
        self.broken = ""
        self.wrong: list[str] = []

    async def __aenter__(self) -> "Measured":
        self._probe = await python(
            "tests.chaos.probe",
            f"--address={self._rig.address}",
            f"--budget-ms={1e3 * self._budget_s}",
            *self._options,
            stdin=asyncio.subprocess.PIPE,
        )
        assert self._probe.stdout is not None
        if await asyncio.wait_for(self._probe.stdout.readline(), 30) != b"open\n":
            raise RuntimeError("the CRITICAL stream was not opened")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._probe.stdin is not None
        assert self._probe.stdout is not None
        self._probe.stdin.close()
        try:
            told = json.loads(await asyncio.wait_for(self._probe.stdout.read(), 60))
        except (TimeoutError, ValueError):
            self._probe.kill()
            self.broken = "the probe ended without a word"
            return
        finally:
            await self._probe.wait()
        self.frames, self.broken, self.wrong = told["frames"], told["broken"], told["wrong"]

    def within(self, *stretches: Stretch) -> tuple[int, int, float]:
        """Returns (frames in time at the client, frames, the worst latency in s) of these stretches."""
        hits = total = 0
        worst_s = 0.0
        for due_s, came_s, status in self.frames:
            if any(each.since_s <= due_s < each.until_s for each in stretches):
                total += 1
                late_s = came_s - due_s if came_s else float("inf")
                worst_s = max(worst_s, late_s)
                hits += status == pb.OUTCOME_STATUS_ON_TIME and late_s <= self._budget_s
        return hits, total, worst_s


@dataclass(slots=True)
class Opens:
    """Somebody who opens a stream, asks one thing and leaves, again and again."""

    tried: int = 0
    served: int = 0
    refusals: list[str] = field(default_factory=list)
    _done: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, address: str) -> None:
        while not self._done.is_set():
            began_s = time.monotonic()
            self.tried += 1
            try:
                async with asyncio.timeout(OPEN_SECONDS_MAX), grpc.aio.insecure_channel(address) as channel:
                    stream = AccountedStream(channel, "double", period_s=10.0, budget_s=2.0)
                    await stream.open()
                    stream.stop()
                    await stream.send_once(began_s)
                    account = await stream.run()
                if account.broken or account.missing or account.wrong:
                    self.refusals.append(account.broken or f"{account.missing} missing, {account.wrong}")
                else:
                    self.served += 1
            except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
                self.refusals.append(
                    f"{error.code().name}: {error.details()}" if hasattr(error, "code") else str(error)
                )
            except TimeoutError:
                self.refusals.append(f"not open after {OPEN_SECONDS_MAX:g} s")
            try:
                await asyncio.wait_for(self._done.wait(), OPEN_PERIOD_S)
            except TimeoutError:
                continue

    def stop(self) -> None:
        self._done.set()
