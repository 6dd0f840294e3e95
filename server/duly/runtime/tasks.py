"""Background tasks: what is started here is never silently gone."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

_log = structlog.get_logger("duly.tasks")

RESTART_SECONDS = 1.0
"""Between the failure of a task and its next start: a fault that is there to stay must not take the loop."""


def watch_over(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
    """Runs `work()` in a task of its own until it returns or the task is cancelled.

    Where it raises, which nobody expects of it, that is logged with its name and it is begun again a moment later: for
    watchers and for whatever may be done over.
    """
    return asyncio.get_running_loop().create_task(_again_and_again(name, work), name=name)


async def _again_and_again(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await work()
            return
        except Exception:
            _log.exception("task failed, it is begun again", task=name)
            await asyncio.sleep(RESTART_SECONDS)


def once(name: str, work: Coroutine[Any, Any, None], failed: Callable[[str], None]) -> "asyncio.Task[None]":
    """Runs `work` in a task of its own. Where it raises, this is logged, and `failed(reason)` is called."""
    return asyncio.get_running_loop().create_task(_once(name, work, failed), name=name)


async def _once(name: str, work: Coroutine[Any, Any, None], failed: Callable[[str], None]) -> None:
    try:
        await work
    except Exception as error:
        _log.exception("task failed", task=name)
        failed(f"{name} failed: {type(error).__name__}")
