"""The stages of a run, each with its share of the time, and how they are run: one after the other, in processes of
their own, each until it is done or its time is over. What goes wrong in one is noted, and the next one runs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from tests.gpu.requirements import CHECKOUT

RUN_SECONDS = 480.0
"""What a run may take in all, from its first line to its last."""
REHEARSAL_SECONDS = 1800.0
"""The same of a rehearsal, in which no time is short: it has little to do, wherever it runs."""
SUMMARY_SECONDS = 10.0
"""Of either, what is kept for the summary."""
STOP_SECONDS = 10.0
"""A stage whose time is over gets this long, within its time, to end by itself before it is killed."""
COMPLAINT_LINES = 12
COMPLAINT_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    """That of its file, `stage_NAME.py`."""
    title: str
    seconds: float
    """Its share of the time. What earlier stages have left over comes on top."""
    provider: str = ""
    """The execution provider in place of the lane's own."""
    label: str = ""
    """What its results are called where there are several stages of one file."""

    @property
    def key(self) -> str:
        return self.label or self.name


INSTALL = Stage("install", "installation", 125)
NOT_INSTALLED = (
    "make gpu GPU_ARGS=--prepare installs, however long that takes, and goes on from what was fetched by now"
)
TENSORRT = "TensorrtExecutionProvider"
STAGES = (
    Stage("environment", "the machine and what is installed", 35),
    Stage("worker_tests", "the worker end to end", 80),
    Stage("worker_tests", "the worker end to end, TensorRT", 30, TENSORRT, "worker_tests_tensorrt"),
    Stage("throughput", "throughput and latency for each batch size", 70),
    Stage("throughput", "throughput and latency for each batch size, TensorRT", 35, TENSORRT, "throughput_tensorrt"),
    Stage("overlap", "copies beside runs", 40),
    Stage("overload", "overload: duly beside the floor", 55),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a stage is told."""

    key: str
    lane: str
    provider: str
    """Empty: that of the lane."""
    out: Path
    """The folder for what is kept: its results go into `KEY.json`, after every step anew."""
    scratch: Path
    """A folder for what is not."""
    seconds: float
    """Its time, at whose end it is gone; `own_seconds` of it are its own."""
    rehearsal: bool
    """Whether only the logic is tried, by short measurements."""
    commit: str = ""
    """Of the tree, as who runs it says; empty: nobody has said it."""

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"out": str(self.out), "scratch": str(self.scratch)})

    @classmethod
    def from_json(cls, text: str) -> "Asked":
        said = json.loads(text)
        return cls(**said | {"out": Path(said["out"]), "scratch": Path(said["scratch"])})

    def write(self, results: Mapping[str, object]) -> None:
        """Keeps the results so far: a stage that is stopped leaves what it had."""
        target = self.out / f"{self.key}.json"
        fresh = target.with_suffix(".json.new")
        fresh.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        fresh.replace(target)


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a stage."""

    key: str
    title: str
    status: str
    """done, failed, stopped (its time was over), left out, or interrupted (by who runs it)."""
    seconds: float
    reason: str = ""


def own_seconds(seconds: float) -> float:
    """Returns for how long a stage runs before it is told to end, where its time is `seconds`."""
    return max(seconds - STOP_SECONDS, seconds / 2)


LEFT_OUT = 75
"""The exit status of a stage that does not apply here, and whose last line says why."""


class LeftOut(Exception):
    """The stage does not apply here. The message says why."""


class Interrupted(Exception):
    """Whoever runs it wants it to end."""


def run_all(
    stages: Sequence[Stage],
    launch: Callable[[Stage, float], tuple[list[str], Mapping[str, str]]],
    logs: Path,
    began_s: float,
    say: Callable[[str], None],
    run_seconds: float = RUN_SECONDS,
) -> Iterator[Ended]:
    """Runs the stages, and yields what became of each. After an interruption, or where nothing could be installed, the
    others are not run.

    `launch`: the command and the environment of a stage that is stopped after so many seconds. `began_s`: when the run
    began, on the monotonic clock. `run_seconds`: when all must have ended; shares are scaled to what is left of it.
    """
    end_s = began_s + run_seconds - SUMMARY_SECONDS
    left = sum(stage.seconds for stage in stages)
    interrupted, installed = False, True
    for stage in stages:
        # Its share of what is left, so that what one leaves over helps all that come, and none can take another's.
        seconds = (end_s - time.monotonic()) * stage.seconds / left
        left -= stage.seconds
        if interrupted:
            yield Ended(stage.key, stage.title, "interrupted", 0.0)
            continue
        if not installed:
            yield Ended(stage.key, stage.title, "left out", 0.0, "nothing was installed")
            continue
        say(f"{stage.title} (at most {max(seconds, 0.0):.0f} s)")
        command, environ = launch(stage, seconds)
        ended = _run(stage, command, environ, logs / f"{stage.key}.log", seconds)
        installed = stage is not INSTALL or ended.status == "done"
        interrupted = ended.status == "interrupted"
        say(f"  {ended.status} after {ended.seconds:.0f} s{': ' if ended.reason else ''}{_first(ended.reason)}")
        yield ended


def _run(stage: Stage, command: Sequence[str], environ: Mapping[str, str], log: Path, seconds: float) -> Ended:
    """Runs a stage. An interruption ends it and is noted."""
    began_s = time.monotonic()
    if seconds <= 0:
        return Ended(stage.key, stage.title, "left out", 0.0, "no time was left for it")
    status, reason = "done", ""
    process: subprocess.Popen[bytes] | None = None
    with log.open("wb") as written:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                cwd=CHECKOUT,
                env={**environ, "PYTHONUNBUFFERED": "1"},  # lines of all its processes lie in the order of their time
                start_new_session=True,  # so that all that it starts can be ended with it
            )
            code = process.wait(own_seconds(seconds))
            if code == LEFT_OUT:
                status, reason = "left out", _last_lines(log, 1)
            elif code:
                status, reason = "failed", _last_lines(log)
        except subprocess.TimeoutExpired:
            what = NOT_INSTALLED if stage is INSTALL else "what it had measured by then counts"
            status, reason = "stopped", f"its time of {seconds:.0f} s was over; {what}"
        except (KeyboardInterrupt, Interrupted):
            status = "interrupted"
        finally:
            if process is not None:
                _end(process)
    return Ended(stage.key, stage.title, status, time.monotonic() - began_s, reason)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a stage and all that it has started in its session. What it started elsewhere ends with it."""
    with suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS / 2)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_lines(log: Path, count: int = COMPLAINT_LINES) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(lines[-count:])[-COMPLAINT_CHARS:]


def _first(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


@contextmanager
def interruptible() -> Iterator[None]:
    """Has SIGTERM interrupt as Ctrl-C does, so that a summary is written then, too."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say_to(stream: TextIO = sys.stdout) -> Callable[[str], None]:
    def say(line: str) -> None:
        stream.write(f"{line}\n")
        stream.flush()

    return say
