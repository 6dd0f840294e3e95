"""Waiting for what a server does by itself, which ends one way or the other."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable

LONGEST_SECONDS = 120.0
"""What has not come by then never will, however slow the machine is."""
LOOK_SECONDS = 0.02


async def until(
    there: Callable[[], object | Awaitable[object]],
    what: str = "what this test waits for",
    seconds: float = LONGEST_SECONDS,
) -> None:
    """Waits until `there()` is so. Raises TimeoutError, which says `what` did not come about."""
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + seconds
    while True:
        found = there()
        if await found if isawaitable(found) else found:
            return
        if loop.time() > ends_s:
            raise TimeoutError(f"not so after {seconds:g} s: {what}")
        await asyncio.sleep(LOOK_SECONDS)
