"""Runs a server's recording again on a fresh scheduler and compares what it does with what was recorded.

The scheduler is deterministic, so a difference means that it is not the version that was recorded, or a bug. A
recording replays in the time that the scheduler itself takes, which makes it also a load to profile the scheduler with.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duly.core.scheduler import Scheduler
from duly.runtime.recording import read_recording
from duly.runtime.recording_lines import in_short


@dataclass(frozen=True, slots=True)
class Difference:
    """The first step that went otherwise."""

    line: int
    """The line of its event in the recording."""
    now_ns: int
    event: str
    recorded: Any
    """The first action that differs, in short; None: there was none."""
    replayed: Any


@dataclass(frozen=True, slots=True)
class Replay:
    """What a recording held, as far as it was replayed."""

    events: int
    actions: int
    frames: int
    span_ns: int
    """The time from the first event to the last."""
    difference: Difference | None
    skipped: int = 0
    """Events of segments that begin without the state of their scheduler, so that they could not be replayed."""


def replay(path: Path) -> Replay:
    """Replays up to the first difference. Raises duly.runtime.recording.RecordingError and OSError."""
    scheduler: Scheduler | None = None
    events = actions = frames = skipped = 0
    first_ns = last_ns = None
    for step in read_recording(path):
        if step.begins:
            scheduler = step.scheduler
        if scheduler is None:
            skipped += 1
            continue
        replayed = in_short(scheduler.step(step.now_ns, step.event))
        events += 1
        actions += len(replayed)
        frames += sum(action[0] == "end" for action in replayed)
        first_ns, last_ns = step.now_ns if first_ns is None else first_ns, step.now_ns
        if replayed != step.actions:
            differing = next(
                index
                for index in range(max(len(replayed), len(step.actions)))
                if replayed[index : index + 1] != step.actions[index : index + 1]
            )
            difference = Difference(
                step.line,
                step.now_ns,
                type(step.event).__name__,
                next(iter(step.actions[differing:]), None),
                next(iter(replayed[differing:]), None),
            )
            return Replay(events, actions, frames, last_ns - first_ns, difference, skipped)
    return Replay(events, actions, frames, (last_ns or 0) - (first_ns or 0), None, skipped)
