"""Background tasks that raise: seen, and begun again or told."""

import asyncio

import pytest
from structlog.testing import capture_logs

from duly.runtime import tasks


async def test_a_watcher_that_raises_is_named_and_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "RESTART_SECONDS", 0.0)
    times = 0

    async def watch() -> None:
        nonlocal times
        times += 1
        if times < 3:
            raise RuntimeError("nobody expects this")

    with capture_logs() as lines:
        await tasks.watch_over("the watch", watch)
    assert times == 3
    assert [(line["event"], line["task"]) for line in lines] == [("task failed, it is begun again", "the watch")] * 2


async def test_a_watcher_can_be_cancelled() -> None:
    task = tasks.watch_over("the watch", lambda: asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_can_not_be_begun_again_is_told() -> None:
    told: list[str] = []

    async def work() -> None:
        raise RuntimeError("nobody expects this")

    with capture_logs() as lines:
        await tasks.once("the drain", work(), told.append)
    assert told == ["the drain failed: RuntimeError"]
    assert [line["event"] for line in lines] == ["task failed"]
