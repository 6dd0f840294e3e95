"""Background tasks that never disappear silently."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

_log = structlog.get_logger("duly.tasks")

RESTART_SECONDS = 1.0
"""The pause between the failure of a task and its next start, so that a lasting fault does not take up the loop."""


def watch_over(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
    """Runs `work()` in a task of its own until it returns or the task is cancelled.

    If it raises, the error is logged with the task's name and the work is begun again a moment later. This is for
    watchers and other work that may be repeated.
    """
    return asyncio.get_running_loop().create_task(_repeat(name, work), name=name)


async def _repeat(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await work()
            return
        except Exception:
            _log.exception("task failed, it is begun again", task=name)
            await asyncio.sleep(RESTART_SECONDS)


def once(name: str, work: Coroutine[Any, Any, None], failed: Callable[[str], None]) -> "asyncio.Task[None]":
    """Runs `work` in a task of its own. If it raises, the error is logged and `failed(reason)` is called."""
    return asyncio.get_running_loop().create_task(_once(name, work, failed), name=name)


async def _once(name: str, work: Coroutine[Any, Any, None], failed: Callable[[str], None]) -> None:
    try:
        await work
    except Exception as error:
        _log.exception("task failed", task=name)
        failed(f"{name} failed: {type(error).__name__}")
