"""The end of worker processes is waited for, but not for ever."""

import subprocess
import sys

import pytest

from duly.runtime import process_end
from duly.runtime.process_end import how_it_ended, reap


class Unkillable:
    """A process that hangs in the kernel."""

    pid = 1

    def __init__(self) -> None:
        self.kills = 0

    def poll(self) -> None:
        return None

    def kill(self) -> None:
        self.kills += 1


async def test_a_process_that_cannot_be_killed_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_end, "KILL_SECONDS_MAX", 0.02)
    process = Unkillable()
    code = await reap(process, 0.0)  # type: ignore[arg-type]
    assert process.kills
    assert how_it_ended(code) == "it does not end though it was killed"


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("", "exit status 0"),
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.abort()", "killed by SIGABRT"),
        ("import os; os.kill(os.getpid(), 40)", "killed by signal 40"),
    ],
)
async def test_how_a_process_ended_is_said(script: str, how: str) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", script]) as process:  # noqa: ASYNC220
        assert how_it_ended(await reap(process, 60.0)) == how
