"""Runs the demo's server: `duly serve` in a process of its own, as anybody would start it, and stopped afterwards."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duly_client import DulyError

STOP_SECONDS_MAX = 15.0
"""How long a server that was asked to stop may take: its own grace for frames in flight is 10 s."""
LOG_LINES_MAX = 50
"""Number of newest lines of the server's log that are kept, to say why it ended."""
LOG_LINE_BYTES_MAX = 1 << 20


class ServerFailed(Exception):
    """The server did not start, or ended by itself; the message has the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the server's log."""

    at_ns: int
    """When it was read, by the monotonic clock."""
    entry: dict[str, Any]
    """What it says, `event` first; empty: nothing that can be read."""


@asynccontextmanager
async def serving(
    models: Path,
    on_loading: Callable[[str], None],
    options: Sequence[str] = (),
    on_event: Callable[[Event], None] | None = None,
) -> AsyncIterator[str]:
    """Runs a server of the repository `models` on a free port of loopback, and gives its address once it serves.

    The server takes its settings from the environment, and further ones from the `options` of its command line.
    `on_loading("MODEL/VERSION on LANES")` is called when it begins to load a model, and `on_event` with each line of
    its log that comes once it serves.

    Raises:
        ServerFailed: the server did not start. Also raised in place of the DulyError that its end caused in the block.
    """
    command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(models), "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--admission=advise",  # machines differ, and the demo shows what becomes of streams that are too much
        "--log-format=json",
        "--log-level=info",
        *options,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        limit=LOG_LINE_BYTES_MAX,
        process_group=0,  # Ctrl-C in the terminal is for the demo, which then stops the server
    )
    log: deque[str] = deque(maxlen=LOG_LINES_MAX)
    drain: asyncio.Task[None] | None = None
    try:
        address = await _address(process, log, on_loading)
        drain = asyncio.create_task(_drain(process, log, on_event))
        try:
            yield address
        except DulyError as error:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # a lost connection is noticed before the end of its process
                    await process.wait()
            if process.returncode is None:
                raise
            raise ServerFailed(f"the server ended by itself: {_last_words(process.returncode, log)}") from error
    finally:
        await _stop(process)
        if drain is None:
            drain = asyncio.create_task(_drain(process, log))
        # The server's workers end a moment after it. Until then they hold the pipe, too, so its end does not come.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(drain, STOP_SECONDS_MAX)


async def _address(process: Process, log: deque[str], on_loading: Callable[[str], None]) -> str:
    """Reads from the server's log where it listens. It waits as long as models load, which the server itself bounds."""
    while (line := await _log_line(process, log)) is not None:
        entry = _parsed(line)
        if entry.get("event") == "loading":
            on_loading(f"{entry.get('model')} on {entry.get('lanes')}")
        elif entry.get("event") == "serving" and "address" in entry:
            return str(entry["address"])
    raise ServerFailed(f"the server did not start: {_last_words(await process.wait(), log)}")


async def _drain(process: Process, log: deque[str], on_event: Callable[[Event], None] | None = None) -> None:
    """Reads the log to its end; without that the server would wait for room in the pipe."""
    while (line := await _log_line(process, log)) is not None:
        if on_event is not None:
            on_event(Event(time.monotonic_ns(), _parsed(line)))


async def _log_line(process: Process, log: deque[str]) -> str | None:
    """The next line of the log that is not blank; None at its end."""
    assert process.stderr is not None
    while True:
        try:
            line = await process.stderr.readline()
        except ValueError:  # longer than any line of the server; the reader dropped it
            continue
        if not line:
            return None
        if text := line.decode(errors="replace").strip():
            log.append(text)
            return text


def _parsed(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:  # a line of a library, or of Python itself
        return {}
    return entry if isinstance(entry, dict) else {}


def _last_words(code: int, log: deque[str]) -> str:
    """Why a server ended, in one line: the errors that it printed, else how it ended and the last line of its log."""
    errors = [line.removeprefix("duly:").strip() for line in log if line.startswith("duly:")]
    if errors:
        return " ".join(errors)
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return f"{how}; its log ends with: {log[-1]}" if log else how


async def _stop(process: Process) -> None:
    try:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:  # too slow, or stopped a second time while waiting
            process.kill()  # its workers die with it
            await process.wait()
