"""A server whose disk for samples is full: frames are served as ever, and it goes on when there is room again."""

import asyncio
from pathlib import Path

import numpy as np
from prometheus_client import generate_latest
from prometheus_client.registry import CollectorRegistry
from structlog.testing import capture_logs

from duly.metric_families import Families
from duly.sampling.store import read
from duly_client import Client, Feedback, FeedbackStatus
from tests import graphs
from tests.e2e.serving import serving
from tests.sampling.conftest import Mount


async def test_a_full_disk_is_named_and_harms_nobody(small_disk: tuple[Path, Mount], tmp_path: Path) -> None:
    folder, _ = small_disk
    graphs.save(tmp_path / "models", "m", graphs.doubling((None, 1024)))
    frame = np.ones(1024, np.float32)
    with capture_logs() as logs:
        async with (
            serving(tmp_path / "models", sample=folder, sample_frames=1000) as app,
            Client(app.address) as client,
            client.stream("m", budget_ms=30_000) as stream,
        ):
            registry = CollectorRegistry()
            app.metrics.set_gauges(app._gauges)
            registry.register(Families(app.metrics))
            counts = app._sampling.counts

            async def ask() -> int:
                frame_id = await stream.send(frame)
                assert (await anext(stream)).ok
                return frame_id

            first = await ask()
            while not counts.dropped["no_space"]:
                await ask()
                await asyncio.sleep(0)
            assert 'duly_samples_dropped_total{reason="no_space"}' in generate_latest(registry).decode()
            full = counts.written["m"]
            assert full * 8192 <= 256 << 10
            (result,) = await client.feedback([Feedback(stream.key_of(first), first, 1)])
            assert result.status is FeedbackStatus.NOT_KEPT
            assert "No space left" in result.reason
            for path in sorted(folder.rglob("*.npz"))[-4:]:
                path.unlink()
            (result,) = await client.feedback([Feedback(stream.key_of(first), first, 1)])
            assert result.status is FeedbackStatus.JOINED
            while counts.written["m"] == full:
                await ask()
                await asyncio.sleep(0)
            assert counts.restarts == 0
    told = [line["event"] for line in logs if line["log_level"] == "error"]
    assert told[0] == "samples cannot be written, frames are served as ever"
    broken: list[Path] = []
    assert len(list(read(folder, lambda path, reason: broken.append(path)))) >= 5
    assert broken == []
