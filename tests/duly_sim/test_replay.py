"""A server's recording does the same again on a fresh scheduler, and a difference is found and told."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from duly.core.events import (
    BatchFailed,
    BatchFinished,
    DispatchBatch,
    Event,
    FramesArrived,
    FramesCancelled,
    LaneUp,
    ModelReady,
    StreamClosed,
    StreamOpened,
    TimerFired,
)
from duly.core.scheduler import Scheduler
from duly.core.types import BacklogPolicy, Frame, StreamClass, StreamTerms
from duly.runtime.recording_file import RecordingWriter
from duly_sim.cli.replay import replay as command
from duly_sim.simulator.replay import replay

MS = 1_000_000


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two lanes, two variants, streams of every class under overload, a batch that fails, frames that are withdrawn."""
    path = tmp_path / "duly.log"
    writer = RecordingWriter(path, 1 << 24)
    scheduler = Scheduler()
    now_ns = 0
    running: list[int] = []

    def step(event: Event) -> None:
        writer.event(now_ns, event)
        actions = scheduler.step(now_ns, event)
        writer.actions(actions)
        running.extend(action.batch_id for action in actions if isinstance(action, DispatchBatch))

    for lane in ("gpu:0", "gpu:1"):
        step(LaneUp(lane))
        step(ModelReady("m/1", lane, "fp32", {1: (3 * MS,), 4: (6 * MS,)}, True))
        step(ModelReady("m/1", lane, "int8", {1: (MS,), 4: (2 * MS,)}, True, rank=1))
    for nth, stream_class in enumerate(StreamClass, start=1):
        step(StreamOpened(nth, StreamTerms(stream_class, BacklogPolicy.LATEST, 1, 20 * MS, 64, model="m/1")))
    seq = 0
    for turn in range(400):
        now_ns += MS
        frames = []
        for stream_id in (1, 2, 3):
            seq += 1
            frames.append(Frame(seq, stream_id, turn + 1, "m/1", now_ns + (5 + seq * 7 % 20) * MS))
        step(FramesArrived(frames))
        if turn % 5 == 0 and running:
            step(BatchFailed(running.pop(0), "gone") if turn % 50 == 0 else BatchFinished(running.pop(0)))
        if turn % 7 == 0:
            step(FramesCancelled(1 + turn % 3, (turn, turn + 1)))
            step(TimerFired())
    step(StreamClosed(2))
    writer.close()
    return path


def test_a_recording_replays_bit_for_bit(recording: Path) -> None:
    replayed = replay(recording)
    assert replayed.difference is None
    assert replayed.events > 500
    assert replayed.frames > 1000
    assert replayed.span_ns == 400 * MS


def test_the_command_says_so(recording: Path) -> None:
    result = CliRunner().invoke(command, [str(recording)])
    assert result.exit_code == 0
    assert result.output.endswith("actions: the same as recorded\n")


def test_the_first_difference_is_told(recording: Path) -> None:
    lines = recording.read_text().splitlines()
    at = next(nth for nth, line in enumerate(lines) if nth > 300 and line.startswith("[[") and '"end"' in line)
    actions = json.loads(lines[at])
    nth = next(nth for nth, action in enumerate(actions) if action[0] == "end")
    was = list(actions[nth])
    actions[nth][2] = "FAILED" if was[2] != "FAILED" else "LATE"
    lines[at] = json.dumps(actions)
    recording.write_text("\n".join(lines) + "\n")
    difference = replay(recording).difference
    assert difference is not None
    assert (difference.line, difference.recorded, difference.replayed) == (at, actions[nth], was)
    result = CliRunner().invoke(command, [str(recording)])
    assert result.exit_code == 1
    assert f"recorded  {json.dumps(actions[nth])}\n  replayed  {json.dumps(was)}\n" in result.output


def test_actions_that_were_not_recorded_are_a_difference(recording: Path) -> None:
    lines = recording.read_text().splitlines()
    at = next(nth for nth, line in enumerate(lines) if line.startswith("[["))
    del lines[at]
    recording.write_text("\n".join(lines) + "\n")
    difference = replay(recording).difference
    assert difference is not None
    assert (difference.line, difference.recorded) == (at, None)


def test_what_is_no_recording_is_one_line_and_status_2(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text("hello\n")
    result = CliRunner().invoke(command, [str(path)])
    assert result.exit_code == 2
    assert result.output == f'duly-sim: {path}: is no recording: the first line should be {{"duly_recording": 1}}\n'
    assert CliRunner().invoke(command, [str(tmp_path / "nothing")]).exit_code == 2
