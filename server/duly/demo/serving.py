"""The demo's server: `duly serve` as a process of its own, as anybody would start it, and nothing of it left behind."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from duly_client import DulyError

STOP_SECONDS_MAX = 15.0
"""A server that was told to stop gets this long: its own grace for frames in flight is 10 s."""
LOG_LINES_MAX = 50
"""Of the server's log that are kept, to tell why it ended."""
LOG_LINE_BYTES_MAX = 1 << 20


class ServerFailed(Exception):
    """The server did not start, or ended by itself; the message has its own last words."""


@asynccontextmanager
async def serving(models: Path, on_loading: Callable[[str], None]) -> AsyncIterator[str]:
    """Runs a server of the repository `models` on loopback, on a free port; gives its address once it serves.

    Its settings are those of the environment. `on_loading("MODEL/VERSION on LANES")` is called when it begins to load
    a model.

    Raises:
        ServerFailed: as soon as it is clear; also in place of the DulyError that its end caused within the block.
    """
    command = [sys.executable, "-m", "duly.cli", "serve", "--models", str(models), "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--log-format=json",
        "--log-level=info",
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
        drain = asyncio.create_task(_drain(process, log))
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
        # Its workers end with it, a moment later; until then the pipe is theirs, too, and can't be closed.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(drain, STOP_SECONDS_MAX)


async def _address(process: Process, log: deque[str], on_loading: Callable[[str], None]) -> str:
    """Where the server listens, read from its log. How long models may take to load is the server's to bound."""
    while (line := await _log_line(process, log)) is not None:
        entry = _parsed(line)
        if entry.get("event") == "loading":
            on_loading(f"{entry.get('model')} on {entry.get('lanes')}")
        elif entry.get("event") == "serving" and "address" in entry:
            return str(entry["address"])
    raise ServerFailed(f"the server did not start: {_last_words(await process.wait(), log)}")


async def _drain(process: Process, log: deque[str]) -> None:
    """Reads on, or the server would wait for room in the pipe."""
    while await _log_line(process, log) is not None:
        pass


async def _log_line(process: Process, log: deque[str]) -> str | None:
    """The next line of the log, blank ones left out; None at its end."""
    assert process.stderr is not None
    while True:
        try:
            line = await process.stderr.readline()
        except ValueError:  # longer than any line of ours; the reader dropped it
            continue
        if not line:
            return None
        if text := line.decode(errors="replace").strip():
            log.append(text)
            return text


def _parsed(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:  # of a library, or of Python itself
        return {}
    return entry if isinstance(entry, dict) else {}


def _last_words(code: int, log: deque[str]) -> str:
    """Why a server ended, in one line: the errors that it told, else how it ended and the last line of its log."""
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
