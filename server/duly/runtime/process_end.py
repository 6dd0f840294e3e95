"""Waits for the end of worker processes, for a limited time, and says in words how they ended."""

import asyncio
import signal
import subprocess

import structlog

_log = structlog.get_logger("duly.worker")

KILL_SECONDS_MAX = 5.0
"""A worker that was killed is waited for no longer than this. One that hangs in the kernel may never end, and nobody
can help that."""
_SIGNALS = frozenset(map(int, signal.Signals))


async def reap(process: "subprocess.Popen[bytes]", grace_seconds: float) -> int | None:
    """Waits for the end of the process, which is killed after the grace, and returns when its memory is given back.
    Returns its status; None: it does not end.
    """
    time = asyncio.get_running_loop().time
    kill_at = time() + grace_seconds
    while (code := process.poll()) is None:
        if time() >= kill_at:
            process.kill()
        if time() >= kill_at + KILL_SECONDS_MAX:
            _log.error("worker does not end though it was killed", pid=process.pid)
            return None
        await asyncio.sleep(0.005)
    return code


def how_it_ended(code: int | None) -> str:
    """Says how a process ended, from what `reap` returned."""
    if code is None:
        return "it does not end though it was killed"
    if code >= 0:
        return f"exit status {code}"
    # Real-time signals have no names.
    return f"killed by {signal.Signals(-code).name if -code in _SIGNALS else f'signal {-code}'}"
