"""Runs a trainer within limits, and tells how it ended.

    python -m duly_learn.learner.limited BYTES COMMAND...

is what is run: it gives up what a trainer must not take and becomes the command. A trainer ends with the learner, and
with all that it has started in its process group.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from duly.die_with_parent import die_with_parent
from duly.runtime.process_end import how_it_ended

TOLD_CHARS_MAX = 2000
"""Of what a trainer prints, so much of the end is told."""
FILE_BYTES_MAX = 8 << 30
"""A trainer writes no larger file; it gets an error, or is ended, where it tries."""
_LOOK_SECONDS = 0.05
_READ_BYTES = 65_536


class TrainerFailed(Exception):
    """A trainer took too long, or ended with an error. The message says which, with its last lines."""


def run_limited(
    command: Sequence[str], bytes_max: int, seconds_max: float, environment: Mapping[str, str], folder: Path
) -> None:
    """Runs a command in `folder` until it ends. Raises TrainerFailed, or OSError where it cannot be started."""
    launcher = [sys.executable, "-P", "-m", "duly_learn.learner.limited", str(bytes_max), *command]
    process = subprocess.Popen(
        launcher, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=dict(environment), cwd=folder, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    printed = b""
    os.set_blocking(process.stdout.fileno(), False)
    ends_s = time.monotonic() + seconds_max
    try:
        while not (ended := _has_ended(process.pid)) and time.monotonic() < ends_s:
            printed = _tail(printed, process.stdout.fileno())
            time.sleep(_LOOK_SECONDS)
        printed = _tail(printed, process.stdout.fileno())
    finally:
        # Also what it has left behind. It is not reaped before, so that the number is still that of its own group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        process.stdout.close()
    said = printed.decode(errors="replace").strip()[-TOLD_CHARS_MAX:]
    if not ended:
        raise TrainerFailed(f"the trainer was not done after {seconds_max:g} s and was ended{_last_words(said)}")
    if code:
        raise TrainerFailed(f"the trainer failed: {how_it_ended(code)}{_last_words(said)}")


def _has_ended(pid: int) -> bool:
    """Whether a child has ended, which stays to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _tail(printed: bytes, descriptor: int) -> bytes:
    try:
        return (printed + os.read(descriptor, _READ_BYTES))[-4 * TOLD_CHARS_MAX :]
    except BlockingIOError:
        return printed


def _last_words(said: str) -> str:
    return f"; its last lines: {said}" if said else ""


def _become(bytes_max: int, command: list[str]) -> None:
    die_with_parent(os.getppid())
    for limit, most in (
        (resource.RLIMIT_AS, bytes_max),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, FILE_BYTES_MAX),
    ):
        _, hard = resource.getrlimit(limit)  # nobody may raise that
        lowest = most if hard == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(limit, (lowest, lowest))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]} cannot be run: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
