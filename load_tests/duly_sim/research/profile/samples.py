"""Where a process spends its processor time: its threads by the kernel's account, the event loop's by samples of its
stack, which py-spy takes from outside.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

from duly_sim.research.profile.stages import stage_of

SAMPLES_PER_S = 400
END_S_MAX = 60.0


class ProfileError(Exception):
    """The process cannot be looked at; the text says why."""


@dataclass(slots=True)
class Times:
    """Processor time of one stretch, in seconds."""

    main_s: float
    others_s: float
    """All threads but the main one, which are gRPC's."""


def times(pid: int) -> Times:
    """What the process has used so far."""
    threads = {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(pid).threads()}
    main_s = threads.pop(pid)
    return Times(main_s, sum(threads.values()))


class Sampler:
    """Samples the main thread of a process while a `with` block runs; `shares` then has what it did."""

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid = pid
        self._seconds = seconds
        self.shares: dict[str, float] = {}
        """The share of each stage of the samples in which the thread ran."""

    def __enter__(self) -> "Sampler":
        self._folder = tempfile.TemporaryDirectory(prefix="duly-profile-")
        self._file = Path(self._folder.name) / "samples"
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--format", "raw", "--nonblocking"]
        command += ["--rate", str(SAMPLES_PER_S), "--duration", str(max(1, round(self._seconds)))]
        command += ["--pid", str(self._pid), "--output", str(self._file)]
        try:
            self._spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise ProfileError("py-spy is not installed: pip install py-spy") from None
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            said = self._spy.communicate(timeout=END_S_MAX)[1]
            if not self._file.exists():
                raise ProfileError(f"py-spy could not look at the server: {said.strip()[-500:]}")
            self.shares = shares(self._file.read_text(encoding="utf-8").splitlines())
        finally:
            self._spy.kill()
            self._folder.cleanup()


def shares(lines: list[str]) -> dict[str, float]:
    """The share of each stage of these samples: "frame;frame;... count" a line, the outermost frame first."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        counts[stage_of(stack.split(";"))] += int(count)
    total = counts.total()
    return {stage: count / total for stage, count in counts.items()}
