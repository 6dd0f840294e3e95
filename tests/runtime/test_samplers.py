"""How late the event loop runs, and when it is looked. `test_hang` has what is held against workers."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from duly.energy import watch
from duly.energy.rapl import Rapl
from duly.metrics import Metrics
from duly.runtime import samplers
from duly.runtime.catalogue import Catalogue
from duly.runtime.samplers import SAMPLE_SECONDS, Samplers, periodically
from tests.energy.powercap import Powercap

MS = 1_000_000
TIMEOUT_MS = 1000.0


async def test_lag_is_counted_from_when_the_loop_was_to_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that wakes 7 ms late each time is 7 ms late and then on its old schedule again: lags do not add up."""
    now_ns = 0
    asked: list[float] = []
    lags: list[int] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        nonlocal now_ns
        asked.append(seconds)
        now_ns += round(seconds * 1e9) + 7 * MS
        if len(lags) == 3:
            enough.set()
            await asyncio.Event().wait()

    metrics = Metrics()
    note: Callable[[int], None] = lags.append
    monkeypatch.setattr(metrics, "loop_lag", note)
    monkeypatch.setattr(samplers.asyncio, "sleep", sleep)
    tasks = Samplers(lambda: now_ns, Catalogue(()), metrics, TIMEOUT_MS).start()
    tasks[1].cancel()
    await enough.wait()
    tasks[0].cancel()
    assert lags == [7 * MS] * 3
    assert asked[:3] == pytest.approx([SAMPLE_SECONDS, SAMPLE_SECONDS - 0.007, SAMPLE_SECONDS - 0.007])


async def test_energy_is_looked_at_until_the_server_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    powercap = Powercap(tmp_path)
    powercap.zone("intel-rapl:0", "package-0", 5_000_000)
    monkeypatch.setattr(samplers, "sources", lambda library: [Rapl(powercap.classes)])
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    metrics = Metrics()
    tasks = Samplers(lambda: 0, Catalogue(()), metrics, TIMEOUT_MS).start()
    while metrics.energy_joules() != {"package-0": 0}:
        await asyncio.sleep(0.01)
    powercap.count("intel-rapl:0", 7_500_000)
    while metrics.energy_joules() != {"package-0": 2.5}:
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while any(thread.name == "energy" for thread in threading.enumerate()):
        await asyncio.sleep(0.01)


async def test_who_looks_periodically_looks_at_whole_multiples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it began, whether timers ring a little early or late, and after the loop was held up."""
    loop = asyncio.get_running_loop()
    now_s = 10.1
    looked_s: list[float] = []
    off_s = [0.0, -0.001, 0.003, 0.6, 0.0]
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        if not off_s:
            enough.set()
            await asyncio.Event().wait()
        now_s += seconds + off_s.pop(0)

    monkeypatch.setattr(loop, "time", lambda: now_s)
    monkeypatch.setattr(samplers.asyncio, "sleep", sleep)
    task = asyncio.create_task(periodically(lambda: looked_s.append(now_s), 0.25))
    await enough.wait()
    task.cancel()
    assert looked_s == pytest.approx([10.25, 10.499, 10.753, 11.6, 11.75])
