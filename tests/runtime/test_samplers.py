"""What is sampled: how late the event loop runs, and workers that hang."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from duly.metrics import Metrics
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig
from duly.runtime import samplers
from duly.runtime.catalogue import Catalogue, LoadedVersion
from duly.runtime.samplers import PLANS_MAX, SAMPLE_SECONDS, Samplers

MS = 1_000_000
TIMEOUT_MS = 1000.0


@dataclass
class FakeWorker:
    model: str = "m/1"
    lane: str = "cpu:0"
    running_since_ns: int | None = None
    planned_ns: int = 0
    reasons: list[str] = field(default_factory=list)

    def give_up(self, reason: str) -> None:
        self.reasons.append(reason)


def watched(worker: FakeWorker, now_ns: int) -> Samplers:
    catalogue = Catalogue(("cpu:0",))
    loaded = LoadedVersion(ModelVersion("m", "1", Path(), Path(), ModelConfig(), ()))
    loaded.workers["cpu:0"] = worker  # type: ignore[assignment]
    catalogue.put(loaded)
    return Samplers(lambda: now_ns, catalogue, Metrics(), TIMEOUT_MS)


@pytest.mark.parametrize(
    ("since_ms", "planned_ms", "hangs"),
    [
        (None, 0, False),
        (1000, 1, False),
        (1001, 1, True),
        (PLANS_MAX * 100, 100, False),
        (PLANS_MAX * 100 + 1, 100, True),
    ],
)
async def test_a_worker_hangs_beyond_the_time_out_and_twenty_plans(
    since_ms: int | None, planned_ms: int, hangs: bool
) -> None:
    now_ns = 10_000 * MS
    worker = FakeWorker(running_since_ns=None if since_ms is None else now_ns - since_ms * MS)
    worker.planned_ns = planned_ms * MS
    watched(worker, now_ns).kill_hung_workers()
    assert bool(worker.reasons) == hangs
    if hangs:
        assert since_ms is not None
        assert worker.reasons == [f"its worker did not answer for {since_ms / 1000:.1f} s and was killed"]


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
