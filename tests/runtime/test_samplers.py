"""What is sampled: how late the event loop runs. `test_hang` has what is held against workers."""

import asyncio
from collections.abc import Callable

import pytest

from duly.metrics import Metrics
from duly.runtime import samplers
from duly.runtime.catalogue import Catalogue
from duly.runtime.samplers import SAMPLE_SECONDS, Samplers

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
