"""A recording whose file is slow: nobody waits for it, what is missing is counted, and the rest replays."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from random import Random

import pytest

from duly.core.events import BatchFinished, DispatchBatch, Event, FramesArrived, LaneUp, ModelReady, StreamOpened
from duly.core.scheduler import Scheduler
from duly.core.types import BacklogPolicy, Frame, StreamClass, StreamTerms
from duly.runtime import flight_recorder, recording_file
from duly.runtime.flight_recorder import FlightRecorder
from duly.runtime.recorder import Recorder
from duly.runtime.recording import RecordingError, read_recording
from duly.runtime.recording_file import RecordingWriter
from duly.runtime.scheduler_state import COMPILED, scheduler_of, snapshot, state_of
from duly_sim.simulator.replay import replay
from tests.core.law_run import run

MS = 1_000_000
TERMS = StreamTerms(StreamClass.CRITICAL, BacklogPolicy.ALL, 0, 100 * MS, 64, model="m/1", period_ns=3 * MS)

needs_copies = pytest.mark.skipif(
    COMPILED, reason="a compiled scheduler can be given no state, so that parts of recordings replay in Python alone"
)


class Recorded:
    """A scheduler with one lane and one model, that is recorded."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.record: Recorder | None = None
        self.now_ns = self.frames = 0
        self.running: int | None = None

    def snapshot(self) -> bytes | None:
        return snapshot(self.scheduler)

    def begin(self, record: Recorder) -> None:
        self.record = record
        self.step(LaneUp("cpu:0"))
        self.step(ModelReady("m/1", "cpu:0", "fp32", {1: (2 * MS,), 2: (3 * MS,)}, True))
        self.step(StreamOpened(1, TERMS))

    def step(self, event: Event) -> None:
        assert self.record is not None
        self.record.event(self.now_ns, event)
        actions = self.scheduler.step(self.now_ns, event)
        self.record.actions(actions)
        for action in actions:
            if isinstance(action, DispatchBatch):
                self.running = action.batch_id

    def go_on(self, frames: int, served: bool = True) -> None:
        """Frames come a little faster than they are served, so that some wait. Where none is served, all miss."""
        for _ in range(frames):
            self.now_ns += MS
            self.frames += 1
            deadline_ns = self.now_ns + 20 * MS
            self.step(FramesArrived([Frame(self.frames, 1, self.frames, "m/1", deadline_ns)]))
            if served and self.frames % 2 and self.running is not None:
                batch_id, self.running = self.running, None
                self.step(BatchFinished(batch_id, finished_ns=self.now_ns))


@needs_copies
def test_a_pipe_that_is_not_read_makes_gaps_and_each_part_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_file, "WAITING_BYTES_MAX", 40_000)
    fifo, copy = tmp_path / "fifo", tmp_path / "copy"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    recorded = Recorded()
    writer = RecordingWriter(fifo, 1 << 30, recorded.snapshot)
    recorded.begin(writer)
    while not writer.lost:
        recorded.go_on(100)
    with copy.open("wb") as file:

        def read() -> None:
            while data := os.read(reading, 65_536):
                file.write(data)

        reader = threading.Thread(target=read)
        reader.start()
        while writer._missing:
            recorded.go_on(1)
        recorded.go_on(50)
        writer.close()
        reader.join()
    os.close(reading)
    parts = [step for step in read_recording(copy) if step.begins]
    assert len(parts) == 2
    replayed = replay(copy)
    assert replayed.difference is None
    assert replayed.skipped == 0
    assert f'"lost":{writer.lost}' in copy.read_text()


@needs_copies
def test_a_copy_of_the_scheduler_goes_on_alike_with_fusion_groups() -> None:
    waited = 0
    for seed in range(4):
        scheduler = Scheduler()
        twin: Scheduler | None = None
        for nth, (now_ns, event) in enumerate(run(Random(seed), fusing=True).log):
            if nth % 20 == 0:
                taken = snapshot(scheduler)
                assert taken is not None
                twin = scheduler_of(json.loads(json.dumps(state_of(taken))))
                waited += scheduler._fusion.joiner.waiting
            assert twin is not None
            assert twin.step(now_ns, event) == scheduler.step(now_ns, event)
            assert twin.next_wake_ns() == scheduler.next_wake_ns()
    assert waited, "frames wait for partners at some of the copies"


@needs_copies
def test_what_the_flight_recorder_keeps_is_the_newest_and_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight_recorder, "SEGMENT_BYTES", 10_000)
    recorded = Recorded()
    recorder = FlightRecorder(lambda: recorded.scheduler, tmp_path)
    recorded.begin(recorder)
    recorded.go_on(2000)
    recorded.go_on(50, served=False)
    recorder.failed()  # within seconds of the first incident it is the same one
    with recorder._writing:  # the file is written
        pass
    recorded.go_on(50)
    recorded.now_ns += 11_000 * MS
    recorded.go_on(1)  # all that waited is too late by now
    fresh = FlightRecorder(lambda: recorded.scheduler, tmp_path)
    fresh.failed()
    for each in (recorder, fresh):
        with each._writing:
            pass
    files = sorted(tmp_path.glob("duly-flight-*.jsonl"))
    reasons = ["-".join(file.stem.split("-")[3:]) for file in files]
    assert sorted(reasons) == ["critical-missed", "critical-missed", "scheduler-failed"]
    for file in files:
        replayed = replay(file)
        assert replayed.difference is None
        assert replayed.skipped == 0
    newest = files[max(number for number, reason in enumerate(reasons) if reason == "critical-missed")]
    steps = list(read_recording(newest))
    assert newest.stat().st_size < 8 * 12_000 + 8 * 40_000
    assert sum(step.begins for step in steps) <= 8


@needs_copies
async def test_where_many_streams_are_open_it_can_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_recorder, "SEGMENT_BYTES", 10_000)
    monkeypatch.setattr(flight_recorder, "SNAPSHOT_STREAMS_MAX", 0)
    recorded = Recorded()
    recorder = FlightRecorder(lambda: recorded.scheduler)
    recorded.begin(recorder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    recorded.go_on(1000)
    path = tmp_path / await recorder.dump()
    replayed = replay(path)
    assert replayed.events == 0
    assert replayed.skipped > 100
    monkeypatch.setattr(flight_recorder, "SNAPSHOT_STREAMS_MAX", 1)
    recorded.go_on(200)
    replayed = replay(tmp_path / await recorder.dump())
    assert replayed.difference is None
    assert min(replayed.skipped, replayed.events) > 10


async def test_a_recording_is_written_down_when_somebody_asks(tmp_path: Path) -> None:
    recorded = Recorded()
    recorder = FlightRecorder(lambda: recorded.scheduler, tmp_path)
    recorded.begin(recorder)
    recorded.go_on(20)
    for day in range(1, 30):
        (tmp_path / f"duly-flight-202501{day:02}T000000.000000-asked.jsonl").touch()
    path = tmp_path / await recorder.dump()
    assert len(os.listdir(tmp_path)) == flight_recorder.FILES_MAX
    replayed = replay(path)
    assert replayed.difference is None
    assert replayed.events == len(list(read_recording(path)))
    assert path.stat().st_mode & 0o777 == 0o600


@needs_copies
def test_a_recording_that_has_stopped_touches_no_file_that_took_its_number(tmp_path: Path) -> None:
    """As SIGHUP does: it goes on in a new file only where the old one was moved."""
    path = tmp_path / "events.jsonl"
    recorded = Recorded()
    writer = RecordingWriter(path, 50_000, recorded.snapshot)
    number = writer._file
    recorded.begin(writer)
    recorded.go_on(1000)
    writer._wake.set()
    writer._thread.join()
    written = path.read_bytes()
    assert len(written) > 40_000
    with (tmp_path / "other").open("wb") as other:
        assert other.fileno() == number, "it has the number of the file that was closed"
        writer.reopen()
        assert path.read_bytes() == written
        path.rename(tmp_path / "moved")
        writer.reopen()
        recorded.go_on(1)
        writer.close()
        other.write(b"mine")
    assert (tmp_path / "other").read_bytes() == b"mine"
    assert (tmp_path / "moved").read_bytes() == written
    assert [step.begins for step in read_recording(path)][:1] == [True]


async def test_a_part_replays_in_python_whatever_recorded_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_recorder, "SEGMENT_BYTES", 10_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    recorded = Recorded()
    recorder = FlightRecorder(lambda: recorded.scheduler)
    recorded.begin(recorder)
    recorded.go_on(1000)
    path = tmp_path / await recorder.dump()
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "duly_sim.cli.main", "replay", str(path)],
        env=os.environ | {"DULY_COMPILED": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("the same as recorded\n")
    assert "passed over" not in done.stdout
    if COMPILED:
        with pytest.raises(RecordingError, match="DULY_COMPILED=0"):
            replay(path)
