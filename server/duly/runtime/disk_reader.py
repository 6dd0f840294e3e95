"""Reads from the repository beside the event loop, one thing at a time and within a time.

A file system over a network may hang for ever. The thread that hangs in it then is no daemon of asyncio's, which would
be waited for at the end of the process, and no second one is started beside it.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from duly.runtime.catalogue import ModelError

SCAN_SECONDS_MAX = 30.0
"""What is read from the repository is given up after this: REPOSITORY_INVALID. A thousand versions take a second."""

_Result = TypeVar("_Result")


class DiskReader:
    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._reading: asyncio.Future[Any] | None = None

    async def read(self, work: Callable[[], _Result], seconds_max: float = SCAN_SECONDS_MAX) -> _Result:
        """Returns what `work()` returns, or raises what it raises. Raises ModelError REPOSITORY_INVALID where it is not
        done in time, or what was read before hangs.
        """
        try:
            async with asyncio.timeout(seconds_max), self._turn:
                if self._reading is not None:
                    await asyncio.wait([self._reading])
                reading = in_thread(work)
                self._reading = reading
                return await asyncio.shield(reading)
        except TimeoutError:
            text = f"the repository's disk did not answer within {seconds_max:g} s"
            raise ModelError("REPOSITORY_INVALID", text) from None


def in_thread(work: Callable[[], _Result]) -> "asyncio.Future[_Result]":
    """Does something in a thread that ends with the process, whatever it hangs in."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()

    def finish(result: _Result | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
            done.exception()  # it counts as seen, even if whoever wanted it is gone
        else:
            done.set_result(result)  # type: ignore[arg-type]  # a result of None is the work's own

    def run() -> None:
        result: _Result | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed where the server has ended meanwhile
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name="repository", daemon=True).start()
    return done
