"""A server's runtime with everything real except the processes at the other ends of the workers' sockets."""

import asyncio
import os
import signal
import socket
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from duly.core.events import Action, Event, TimerFired
from duly.core.types import BacklogPolicy, OutcomeStatus, StreamClass, StreamTerms
from duly.metrics import Metrics
from duly.models.repository import ModelVersion, Repository
from duly.models.sizes import SizeLimits
from duly.models.spec import ModelConfig, Signature, TensorSpec
from duly.runtime.admission import Admission
from duly.runtime.catalogue import Catalogue
from duly.runtime.device_memory import DeviceMemory
from duly.runtime.driver import Driver
from duly.runtime.hang import LOOK_NS, ProcessState
from duly.runtime.model_host import ModelHost, VersionLimits
from duly.runtime.outcome import Outcome
from duly.runtime.placement import Placement
from duly.runtime.samplers import Samplers
from duly.runtime.supervisor import Supervisor
from duly.worker import channel, handed_state
from duly.worker.handed_state import Place
from duly.worker.slot_layout import layout
from tests.runtime.held import take

MS = 1_000_000
S = 1_000_000_000
LANE = "cpu:0"
TURNS_MAX = 2000
"""Number of turns of the loop after which a frame without an outcome counts as never served."""
TERMS = StreamTerms(StreamClass.STANDARD, BacklogPolicy.ALL, 0, 600 * S, 64, advise=True)
_SPEC = TensorSpec(name="x", datatype="FP32", shape=(2,), bytes_max=8)
_SIGNATURE = Signature(inputs=(_SPEC,), outputs=(_SPEC,), batch_sizes=(1, 2, 4), any_size=True, stateful=False)

Change = Callable[[channel.Done], bytes | bytearray]
"""Turns the answer of a worker into the message that is sent instead."""


def but(**fields: Any) -> Change:
    """The answer with these fields changed."""

    def change(done: channel.Done) -> bytes | bytearray:
        for name, value in fields.items():
            setattr(done, name, value)
        return channel.encode_done(done)

    return change


class Clock:
    """The clock of the server and its workers. It stands in for the module `time` as well."""

    def __init__(self) -> None:
        self.now_ns = 987_654_321_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns


class Found:
    """What workers find when they load a model, by its key; a test may change it."""

    def __init__(self) -> None:
        self.sha256 = defaultdict(lambda: "0" * 64)
        self.signature = defaultdict(lambda: _SIGNATURE)
        self.before: dict[int, int] = {}
        """What a worker had kept of the stream when it ran the frame, by the frame's id."""


class ScriptedProcess:
    """Stands in for a worker's `subprocess.Popen`. It loads at once, and answers a batch when the test says so. On a
    lane whose device has memory of its own it copies rows there when it is told of them, and runs what lies there then.
    """

    def __init__(self, clock: Clock, descriptor: int, found: "Found") -> None:
        self.pid = 1
        self._found = found
        self.asked: channel.Run | None = None
        self.asked_state: tuple[int, list[Place], int] | None = None
        """The states that it was asked for and has not given: number, places, descriptor."""
        self.states: dict[int, int] = {}
        """How many frames it has run of each stream, which is all that it keeps of them."""
        self._clock = clock
        self._code: int | None = None
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._socket.setblocking(False)
        self._buffer = memoryview(bytearray(channel.MESSAGE_BYTES_MAX))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)
        self._ahead: socket.socket | None = None
        self._on_device: dict[tuple[int, int], bytes] = {}
        """What lies on the device, by slot and row."""
        self._newest = [0, 0]
        self.copied_ahead = 0
        """How many rows of batches lay on the device before their batch came."""
        self._inputs: list[bytes] = []

    def poll(self) -> int | None:
        return self._code

    def kill(self) -> None:
        self._end(-signal.SIGKILL)

    @property
    def alive(self) -> bool:
        return self._code is None

    def answer(self, change: Change = channel.encode_done) -> None:
        """Ends the running batch. Each frame is its own output, and `change` may alter the answer."""
        assert self.asked is not None
        run, self.asked = self.asked, None
        started_ns = self._clock.now_ns
        self._clock.now_ns += MS
        frames: list[tuple[int, list[channel.TensorRef]]] = []
        for index, (stream_id, reset, _) in enumerate(run.frames):
            data = self._inputs[index]
            self._region.outputs[run.slot][8 * index : 8 * index + 8] = data
            before = 0 if reset else self.states.get(stream_id, 0)
            self._found.before[int.from_bytes(data, "little")] = before
            self.states[stream_id] = before + 1
            frames.append((channel.OK, [(8 * index, 8, 0, (2,))]))
        self._socket.send(change(channel.Done(run.batch_id, run.slot, started_ns, self._clock.now_ns, frames, {})))

    def give(self, change: Callable[[bytes], bytes] = bytes) -> None:
        """Gives the states that it was asked for; `change` may alter the answer."""
        assert self.asked_state is not None
        (number, places, fd), self.asked_state = self.asked_state, None
        there = []
        for stream_id, offset in places:
            state = self.states.pop(stream_id, None)
            there.append(state is not None and os.pwrite(fd, payload(state), offset) == 8)
        os.close(fd)
        self._socket.send(change(handed_state.encode_state(number, there)))

    def say(self, message: bytes) -> None:
        self._socket.send(message)

    def _end(self, code: int) -> None:
        if self.alive:
            self._code = code
            self.asked = None
            if self.asked_state is not None:
                os.close(self.asked_state[2])
                self.asked_state = None
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._close_ahead()

    def _close_ahead(self) -> None:
        if self._ahead is not None:
            self._loop.remove_reader(self._ahead)
            self._ahead.close()
            self._ahead = None

    def _read_ahead(self) -> None:
        assert self._ahead is not None
        message = self._ahead.recv(channel.MESSAGE_BYTES_MAX)
        if not message:
            self._close_ahead()
            return
        number, slot, rows = channel.decode_stage(message)
        for row in rows:
            self._on_device[slot, row] = self._row(slot, row)
        self._newest[slot] = number

    def _row(self, slot: int, row: int) -> bytes:
        return bytes(self._region.inputs[slot][8 * row : 8 * row + 8])

    def _bring(self, run: channel.Run) -> None:
        """Takes the inputs of a batch to the device, except for those that lie there, as `input_copies` does."""
        there = run.staged if self._newest[run.slot] == run.stage_number else ()
        self.copied_ahead += len(there)
        self._inputs = []
        for row, (_, _, refs) in enumerate(run.frames):
            offset, length, _, _ = refs[0]
            assert (offset, length) == (8 * row, 8)
            self._inputs.append(self._on_device[run.slot, row] if row in there else self._row(run.slot, row))

    def _read(self) -> None:
        try:
            length, fd = channel.receive_into(self._socket, self._buffer)
        except ConnectionError:
            length, fd = 0, -1
        message = bytes(self._buffer[:length])
        match channel.kind_of(message) if message else channel.STOP:
            case channel.LOAD:
                if fd >= 0:
                    self._ahead = socket.socket(fileno=fd)
                    self._ahead.setblocking(False)
                    self._loop.add_reader(self._ahead, self._read_ahead)
                self._load(channel.decode_text(message)[1]["model"])
            case channel.RUN:
                self.asked = channel.decode_run(message, 1)
                self._bring(self.asked)
            case channel.WARM:
                batch_id, slot, _ = channel.decode_warm(message)
                self._region.inputs[slot][:8] = bytes(8)
                now_ns = self._clock.now_ns
                self._socket.send(channel.encode_done(channel.Done(batch_id, slot, now_ns, now_ns, [], {})))
            case channel.GIVE:
                self.asked_state = (*handed_state.decode_places(message), fd)
            case channel.TAKE:
                for stream_id, offset in handed_state.decode_places(message)[1]:
                    self.states[stream_id] = int.from_bytes(os.pread(fd, 8, offset), "little")
                os.close(fd)
            case channel.FORGET:
                for stream_id in channel.decode_forget(message):
                    self.states.pop(stream_id, None)
            case channel.PING:
                self._socket.send(channel.encode_pong(channel.decode_ping(message)))
            case channel.STOP:
                self._end(0)

    def _load(self, model: str) -> None:
        self._clock.now_ns += 10 * MS
        self._socket.send(channel.encode_text(channel.FILES, {f"{model}/model.onnx": [self._found.sha256[model], 9]}))
        _, size = layout([8], 4)
        self._region = channel.Region.create(size, size)
        variant = {
            "samples_ns": {1: [MS], 2: [MS], 4: [MS]},
            "any_size": True,
            "providers": ["CPU"],
            "warm_after_ns": 0,
        }
        ready = {
            "signature": self._found.signature[model].model_dump(mode="json"),
            "variants": [variant],
            "input_bytes": size,
            "output_bytes": size,
            "notes": [],
        }
        socket.send_fds(self._socket, [channel.encode_text(channel.READY, ready)], [self._region.fd])


@dataclass
class Stream:
    """A stream's sink. It keeps the outcomes that it gets, and raises once `raises` is set."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    sent: list[int] = field(default_factory=list)
    raises: bool = False
    raised: bool = False
    broken: bool = False
    told: list[tuple[object, int]] = field(default_factory=list)
    """Advice, and the period that came with it."""
    wrong: list[str] = field(default_factory=list)
    """The faults found. `check` raises them, since the driver only drops a sink that raises."""

    def deliver(self, outcome: Outcome) -> None:
        frame_id = outcome.held.frame.frame_id
        if self.broken or frame_id in self.outcomes:
            self.wrong.append(f"frame {frame_id} answered again, or after the stream was told to end")
        if self.raises:
            self.raised = True
            raise Injected("sink.deliver")
        if outcome.status in (OutcomeStatus.ON_TIME, OutcomeStatus.LATE):
            if outcome.outputs != [(0, (2,), payload(frame_id))]:
                self.wrong.append(f"frame {frame_id} got {outcome.outputs}")
        elif not outcome.reason:
            self.wrong.append(f"frame {frame_id} is {outcome.status.name} without a reason")
        self.outcomes[frame_id] = outcome

    def check(self, *, is_open: bool) -> None:
        """Asserts that every frame was answered once and correctly; a stream that closed or broke may lack answers."""
        assert not self.wrong
        assert self.broken == self.raised
        if is_open and not self.broken:
            assert sorted(self.outcomes) == self.sent

    def advise(self, advice: object, reason: str, period_ns: int) -> None:
        self.told.append((advice, period_ns))

    def fail(self) -> None:
        self.broken = True


class Injected(Exception):
    """The fault that a test put in."""


@dataclass
class Recording:
    raises: bool = False
    closed: bool = False
    failures: int = 0
    fresh: int = 0

    def event(self, now_ns: int, event: Event) -> None:
        assert not self.closed
        if self.raises:
            raise Injected("recorder")

    def actions(self, actions: list[Action]) -> None:
        assert not self.closed

    def failed(self) -> None:
        self.failures += 1

    def begin_anew(self) -> None:
        self.fresh += 1

    def close(self) -> None:
        self.closed = True


class Bench:
    """A runtime that serves the models m/1 and n/1 on one lane."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lane: str = LANE) -> None:
        self.clock = Clock()
        self.processes: list[ScriptedProcess] = []
        self.found = Found()
        self.recording = Recording()
        self.metrics = Metrics()
        self.fatal: list[str] = []
        self.driver = Driver(
            self.metrics, 1 << 20, self.clock.monotonic_ns, record=self.recording, fatal=self.fatal.append
        )
        self.catalogue = Catalogue((lane,))
        self.supervisor = Supervisor(self.catalogue, self.driver, self.metrics, 1, 600.0, SizeLimits())
        self.memory = DeviceMemory("a GPU", LANE, 1000, 0)
        """That of the lane's device."""
        self.placement = self.supervisor.placement = Placement(self._memory)
        admission = Admission(lambda: self.driver.scheduler, self.clock.monotonic_ns, enforce=True)
        self.host = ModelHost(
            Repository(Path()),
            self.catalogue,
            self.supervisor,
            self.driver,
            self.metrics,
            admission,
            VersionLimits(1000, 1000),
        )
        self.samplers = Samplers(self.clock.monotonic_ns, self.catalogue, self.metrics, 10_000.0)
        self.streams: dict[int, tuple[Stream, str]] = {}
        """The open streams and their models; keys are stream ids."""
        self._frame_id = 0
        self.process_state: ProcessState | None = None
        """What the system shows of the workers' processes."""
        monkeypatch.setattr("duly.runtime.samplers.process_state", lambda pid: self.process_state)
        # Workers die at once here, and the pauses that follow are on the real clock.
        monkeypatch.setattr("duly.runtime.blame.FRUITLESS_MAX", 1 << 30)
        monkeypatch.setattr("duly.runtime.worker_process.time", self.clock)
        monkeypatch.setattr("duly.runtime.worker_load.time", self.clock)
        monkeypatch.setattr("duly.runtime.worker_process.subprocess.Popen", self._popen)

    async def _memory(self, lane: str) -> DeviceMemory:
        return self.memory

    def _popen(self, command: list[str], pass_fds: list[int], **_: object) -> ScriptedProcess:
        process = ScriptedProcess(self.clock, pass_fds[0], self.found)
        self.processes = [process, *filter(lambda old: old.alive, self.processes)]
        return process

    async def start(self) -> None:
        for name in ("m", "n"):
            await self.host._load(ModelVersion(name, "1", Path(), Path(), ModelConfig(), ()))

    def open(self, model: str = "m/1") -> Stream:
        stream = Stream()
        self.streams[self.driver.open_stream(stream, TERMS)] = stream, model
        return stream

    def close(self, stream_id: int) -> None:
        del self.streams[stream_id]
        self.driver.close_stream(stream_id)

    def send(self, stream_id: int, count: int = 1) -> None:
        """Sends `count` frames, which the scheduler gets together."""
        stream, model = self.streams[stream_id]
        for _ in range(count):
            self._frame_id += 1
            stream.sent.append(self._frame_id)
            data = payload(self._frame_id)
            take(self.driver, self.clock.monotonic_ns, stream_id, self._frame_id, model, 600 * S, data, (2,))

    @property
    def running(self) -> ScriptedProcess | None:
        return next((process for process in self.processes if process.asked is not None), None)

    async def silence(self, seconds: float) -> None:
        """Lets time pass while workers are watched, and the one that runs something does not answer."""
        for _ in range(round(seconds * S) // LOOK_NS):
            self.clock.now_ns += LOOK_NS
            self.samplers.kill_hung_workers()
            await self.turn(2)

    async def turn(self, times: int = 5) -> None:
        """Gives the loop `times` turns; the default is enough for what was sent over a socket to arrive."""
        for _ in range(times):
            await asyncio.sleep(0)

    async def until(self, true: Callable[[], bool]) -> None:
        """Answers as a good worker does until `true` returns True. Raises AssertionError where that takes too many
        turns.
        """
        for _ in range(TURNS_MAX):
            if true():
                return
            self.clock.now_ns += MS
            self.driver.submit(TimerFired())
            if self.running is not None:
                self.running.answer()
            await self.turn()
        raise AssertionError("a silent lane")

    async def serves(self, models: tuple[str, ...] = ("m/1", "n/1")) -> None:
        """Asserts that a new frame of a new stream of each model is answered in time."""
        for model in models:
            stream = self.open(model)
            self.send(next(reversed(self.streams)))
            await self.until(lambda: bool(stream.outcomes))  # noqa: B023  # called at once
            assert [outcome.status for outcome in stream.outcomes.values()] == [OutcomeStatus.ON_TIME]


def payload(frame_id: int) -> bytes:
    return frame_id.to_bytes(8, "little")
