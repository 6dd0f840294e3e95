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

from duly_sim.research.profile.stages import LOOP, stage_of

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
    """Samples the main thread of a process while a `with` block runs; `stages_s` then has what it did."""

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid = pid
        self._seconds = seconds
        self.stages_s: dict[str, float] = {}
        """How long the thread was found in each stage, in seconds."""

    def __enter__(self) -> "Sampler":
        self._folder = tempfile.TemporaryDirectory(prefix="duly-profile-")
        self._file = Path(self._folder.name) / "samples"
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--format", "raw"]
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
            self.stages_s = stages_s(self._file.read_text(encoding="utf-8").splitlines())
        finally:
            self._spy.kill()
            self._folder.cleanup()


def stages_s(lines: list[str]) -> dict[str, float]:
    """How long each stage was sampled, in seconds: "frame;frame;... count" a line, the outermost frame first."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        counts[stage_of(stack.split(";"))] += int(count)
    return {stage: count / SAMPLES_PER_S for stage, count in counts.items()}


def shared_out(stages_s: dict[str, float], main_s: float) -> dict[str, float]:
    """Shares out the processor time of the thread, in seconds. The event loop has what no other stage has: it is also
    sampled where it waits, and then takes none. Samples of a thread that another keeps from running count too much.
    """
    found = {stage: spent_s for stage, spent_s in stages_s.items() if stage != LOOP}
    scale = min(1.0, main_s / (sum(found.values()) or 1.0))
    return {stage: spent_s * scale for stage, spent_s in found.items()} | {LOOP: main_s - sum(found.values()) * scale}
