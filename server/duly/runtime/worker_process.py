"""A worker process as the serving process sees it: it is started, given batches, read from, and ended here.

A worker is a plain child process (`python -P -m duly.worker.main`) with one inherited socket. It never outlives this
process: the kernel kills it when the parent dies, and it ends by itself when the socket closes.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import structlog

from duly.accelerators import is_lane, of_lane
from duly.core.events import DispatchBatch, WarmLane
from duly.core.types import Frame
from duly.models.contents import Fingerprint, changed_files, changed_signature, in_words
from duly.models.digests import FILES_MAX, FileDigest
from duly.runtime.answers import REASON_CHARS_MAX, Answers, Asked, BrokenAnswer, DeviceGone, words
from duly.runtime.engines import WorkerEngines
from duly.runtime.given_state import GivenState
from duly.runtime.hang import HangWatch
from duly.runtime.held_frames import InputData
from duly.runtime.load_answers import (
    TEXT_BYTES_MAX,
    Progress,
    Ready,
    read_files,
    read_progress,
    read_ready,
    read_reason,
)
from duly.runtime.load_patience import TOLD_SECONDS, LoadPatience
from duly.runtime.process_end import how_it_ended, reap
from duly.runtime.process_state import process_state
from duly.runtime.shared_memory import ClientMemory
from duly.runtime.slot_filling import fill_slot, put
from duly.runtime.staged_rows import StagedRows, as_dispatched
from duly.runtime.tasks import watch_over
from duly.runtime.worker_command import worker_command, worker_environment
from duly.runtime.worker_groups import WorkerGroup
from duly.runtime.worker_output import WorkerOutput
from duly.runtime.worker_port import BatchResult, NoRoom
from duly.worker import channel, handed_state, shared_frames
from duly.worker.slot_layout import layout

_log = structlog.get_logger("duly.worker")

HEARD_MAX = 4
"""A worker has at most three messages on their way, the answers to a ping and to a batch, and states."""
ROUSED_MAX = 8
"""A worker is roused so often without having said anything; then it seems to hang, and its socket must not fill up."""
EXIT_SECONDS_MAX = 2.0
"""A worker that was asked to stop gets this long before it is killed."""
WARM_NS = 50_000_000
"""What a warming run may take, which nobody has planned: the device may have been idle for long."""
BUILD_TIMEOUT_SECONDS = 14_400.0
"""Compilers of engines have this long where no setting says otherwise."""
NO_PROGRESS = Progress("", False, 0.0, 0.0)
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
REASON_BROKEN = "the model's worker gave an answer that makes no sense"


class Worker:
    """One process that hosts all variants of one model version for one lane."""

    def __init__(
        self,
        model: str,
        lane: str,
        variants: list[str],
        on_batch: Callable[[int, BatchResult | NoRoom | str], None],
        on_end: Callable[["Worker"], None],
        expected: Fingerprint | None = None,
    ) -> None:
        """`variants`: names, the most accurate first. `expected`: what it must load; None: it is the first.

        `on_batch(batch_id, result)` is called when a batch ends; instead of a result it may get the reason for which
        the batch failed. `on_end(self)` is called when a worker that was ready has ended unasked or was given up; what
        ran on it is not reported. Both are called on the event loop.
        """
        self.model = model
        self.lane = lane
        self.end_reason = "its worker process ended"
        """The reason, for clients, of frames that ran on it when it ended."""
        self.served_s = 0.0
        """When it began to serve, on the event loop's clock."""
        self.batches = 0
        """How many batches it has answered."""
        self.contents: dict[str, FileDigest] = {}
        """What the files held that it has read."""
        self.hollow = False
        """Whether it was given up because it gave nothing finite."""
        self.full = False
        """Whether it was given up because it had no memory left, not even for the smallest batch."""
        self.device_lost = False
        """Whether it was given up because the device of its lane was lost, which is no frame's fault."""
        self.group: WorkerGroup | None = None
        """Its control group, which is removed when the process is gone."""
        self.engines: WorkerEngines | None = None
        """Where it finds what is compiled for it, which is given back when the process is gone."""
        self.compiles = False
        """Whether anything may be compiled while it loads, so that its word for that counts."""
        self.progress = NO_PROGRESS
        """What it does while it loads the model."""
        self.on_progress: Callable[[], None] = lambda: None
        """Is called when a compiler begins, ends or goes on to something else."""
        self.crashed = False
        """Whether the process ended by itself while it loaded the model."""
        self.watch = HangWatch()
        """What tells whether it hangs; for who looks at it."""
        self._expected = expected
        self._variants = {name: index for index, name in enumerate(variants)}
        self._on_batch = on_batch
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Ready] = self._loop.create_future()
        self._region: channel.Region | None = None
        self._slot = 0
        self._ahead: socket.socket | None = None
        """Where the worker hears of frames to copy to its device ahead; None: it has no such device."""
        self._staged = StagedRows(0)
        """What lies in the slot of the next batch already."""
        self.copied_ahead = 0
        """How many frames of the newest batch it was told to copy to its device before."""
        self._order: Sequence[int] | None = None
        """The index of the frame of each row of the batch that runs; None: that of the row."""
        self._asked: Asked | None = None
        """The batch that runs, until the worker has answered as it should."""
        self.planned_ns = 0
        """Planned time of the newest batch."""
        self._remembers = False
        """Whether it keeps something of streams."""
        self._state_bytes = 0
        """Bytes of what it keeps of a stream; 0: it cannot be given away."""
        self._giving: tuple[GivenState, Callable[[GivenState | None], None]] | None = None
        """The states that it was asked for and has not given yet, and whom to tell."""
        self._gives = 0
        self._trims = False
        """Whether the input areas are trimmed, because there are inputs of open size."""
        self._forget: list[int] = []
        self._shared: set[int] = set()
        """The streams whose clients' memory it can read."""
        self._roused = 0
        """How often it was roused since it has last said anything."""
        self._text_bytes_left = TEXT_BYTES_MAX
        self._texts = 0
        self._progresses = 0
        self._patience: LoadPatience | None = None
        self._answering: asyncio.Task[None] | None = None
        """The answer to what the worker has asked while it loads the model."""
        self._started_ns = 0
        self._pings = 0
        self._pinged = False
        """Whether the newest ping has not been answered yet."""
        # It is kept because a fresh buffer for each message would cost more than all the rest of receiving the message.
        # A message that fills it is longer than any may be.
        self._received = memoryview(bytearray(channel.MESSAGE_BYTES_MAX + 1))

    @property
    def pid(self) -> int:
        return self._process.pid

    # ---- life ----

    def start(self, load: dict[str, Any], variables: Mapping[str, str] = NO_VARIABLES) -> None:
        """Starts the process and sends it the LOAD message. `variables`: of its environment, beside the usual ones.

        Raises WorkerError where the system has no room for it.
        """
        with contextlib.ExitStack() as sent, contextlib.ExitStack() as undo:
            try:
                ours, theirs = map(undo.enter_context, channel.socket_pair())
                ours.setblocking(False)
                copier: list[int] = []
                if is_lane(self.lane) and of_lane(self.lane).memory:
                    self._ahead, far = map(undo.enter_context, channel.socket_pair())
                    self._ahead.setblocking(False)
                    sent.enter_context(far)
                    copier.append(far.fileno())
                channel.send_text(ours, channel.LOAD, load, copier)
                self._output = WorkerOutput(self.model, self.lane)
                undo.callback(self._output.give_up)
                self._process = subprocess.Popen(
                    worker_command(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output.writing,
                    stderr=self._output.writing,
                    env={**worker_environment(os.environ), **variables},
                )
            except OSError as error:
                raise WorkerError(f"its worker process cannot be started: {os.strerror(error.errno or 0)}") from error
            undo.pop_all()
        theirs.close()
        self._output.listen()
        self._socket = ours
        self._started_ns = time.monotonic_ns()
        self._loop.add_reader(ours.fileno(), self._first_message)

    async def ready(
        self,
        timeout_seconds: float,
        timeout_name: str = "load_timeout_s",
        build_timeout_seconds: float = BUILD_TIMEOUT_SECONDS,
    ) -> Ready:
        """Waits until the model is warm and profiled. Raises WorkerError where it cannot be loaded, OtherContents
        where it is not what was expected. `timeout_name`: where the time-out comes from, for people.
        `build_timeout_seconds`: how long engines may be compiled besides.
        """
        time_s = self._loop.time
        patience = self._patience = LoadPatience(timeout_seconds, timeout_name, build_timeout_seconds, time_s())
        self._note_progress()
        told_s = time_s()
        while not self._ready.done():
            await asyncio.wait([self._ready], timeout=patience.look_s(time_s()))
            if self._ready.done():
                break
            state = process_state(self.pid)
            if why := patience.over(time_s(), state.cpu_ns if state is not None else None):
                self.kill()
                raise WorkerError(why)
            if self.progress.builds and time_s() - told_s >= TOLD_SECONDS:
                told_s = time_s()
                _log.info("still compiling", model=self.model, lane=self.lane, doing=self.progress.told(time_s()))
        return await asyncio.shield(self._ready)

    def _note_progress(self) -> None:
        if self._patience is not None:
            waits = self.engines is not None and self.engines.waits
            self._patience.note(self.progress.builds, waits, self._loop.time())

    async def stop(self) -> None:
        """Asks the process to end, and kills it if it does not, or at once where it is not ready yet, as it would not
        hear. Returns when it is gone.
        """
        loaded = self._ready.done() and self._ready.exception() is None
        self._hang_up()
        await self._reaped(EXIT_SECONDS_MAX if loaded else 0.0)

    def kill(self) -> None:
        """Kills the process. `on_end` follows unless the worker was stopped before."""
        self._process.kill()

    def give_up(self, reason: str) -> None:
        """Kills the process and listens to it no more. What ran on it fails with `reason`, and so does its load.

        `on_end` is called before this returns, unless it has been called already.
        """
        self.end_reason = reason
        self._fail_load(reason)
        self.kill()
        self._gone()

    @property
    def busy(self) -> bool:
        return self._asked is not None

    @property
    def ended(self) -> bool:
        return self._socket.fileno() < 0

    async def hold_memory(self, private_bytes: int) -> None:
        """Lowers the limit of memory of its control group, where it has one, to what it may have; 0: any.

        Call it when the worker is ready. It waits for the kernel in a thread.
        """
        if self.group is not None and self._region is not None:
            shared_bytes = channel.SLOTS * (self._region.input_bytes + self._region.output_bytes)
            if not await asyncio.to_thread(self.group.hold, private_bytes, shared_bytes):
                _log.warning("worker is not in its control group", model=self.model, lane=self.lane)

    # ---- is it alive? ----

    @property
    def owes(self) -> tuple[str, int] | None:
        """What the worker has not answered yet: ("batch", its id), ("ping", its number), or None."""
        if self._asked is not None:
            return "batch", self._asked.batch_id
        return ("ping", self._pings) if self._pinged else None

    @property
    def sizes_vary(self) -> bool:
        """Whether a frame may take far longer than those that the plan was learnt from, as its size is open."""
        return self._trims

    def ping(self) -> None:
        """Asks an idle worker whether it still listens. An answer to the ping before must have come."""
        self._pings += 1
        self._pinged = True
        with contextlib.suppress(OSError):  # then it does not answer, either
            self._socket.send(channel.encode_ping(self._pings))

    def rouse(self) -> None:
        if self._asked is None and self._region is not None and self._roused < ROUSED_MAX:
            self._roused += 1
            with contextlib.suppress(OSError):  # then it sleeps
                self._socket.send(channel.encode_awake(channel.AWAKE_NS_MAX))

    def has_answered(self, batch_id: int) -> bool:
        if self._asked is not None and self._asked.batch_id == batch_id:
            self._message()
        return self._asked is None or self._asked.batch_id != batch_id

    def hear(self) -> None:
        """Takes in what the worker has said already, but the loop has not come to yet, and whether it has ended."""
        for _ in range(HEARD_MAX):
            if self.ended or not self._message():
                break
        if self._process.poll() is not None:  # its end is not heard where a child of it holds its socket
            self._gone()

    # ---- batches ----

    def run(
        self, action: DispatchBatch, payloads: Sequence[Sequence[InputData]], last: frozenset[int] = channel.NONE_LAST
    ) -> bool:
        """Copies the payloads into the slot's input area (the one copy) and starts the batch. What lies in memory that
        is shared with a client the worker copies itself.

        Raises ValueError where a payload does not fit the model, and OSError where the system has no memory for it.
        Nothing is started then.
        """
        region = self._region
        if region is None or self._asked is not None:
            return False
        slot = self._slot = (self._slot + 1) % channel.SLOTS
        order: Sequence[int] = range(len(action.frames))
        there: Sequence[int] = ()
        told = channel.NONE_STAGED
        self._order = None
        if self._staged.used:
            order = self._staged.order(action.frames)
            there, told = self._staged.known(action.frames, order)
            self._staged.clear()
            if any(row != index for row, index in enumerate(order)):
                self._order = order
                last = frozenset([row for row, index in enumerate(order) if index in last])
        self.copied_ahead = len(told)
        if self._trims and not there:
            region.trim(slot, outputs=False)
        frames, pieces, filled = fill_slot(
            region, slot, action, payloads, self._input_bases, self._input_bytes_max, self._shares, order, there
        )
        region.filled[slot, False] += filled
        if pieces and not self._gather(slot, pieces):
            return False
        run = channel.Run(
            action.batch_id, slot, frames, self._variants[action.variant], last, told, self._staged.number
        )
        return self._begin(action.batch_id, len(frames), channel.encode_run(run), action.planned_ns)

    @property
    def stages(self) -> bool:
        return self._ahead is not None and self._region is not None

    def stage(self, frames: Sequence[Frame], payloads: Sequence[Sequence[InputData]], bytes_max: int) -> bool:
        """Copies payloads into the slot of the next batch, and tells the worker of them. What does not fit, or cannot
        be read from memory that is shared with a client, is left to `run`.
        """
        region, staged, slot = self._region, self._staged, (self._slot + 1) % channel.SLOTS
        if region is None or len(frames) > len(staged.seqs):
            return False
        if self._trims and not staged.used:
            region.trim(slot, outputs=False)
        staged.refused.intersection_update([frame.seq for frame in frames])  # else it would grow where nothing runs
        rows: list[int] = []
        copied = 0
        order = staged.order(frames)
        for row, index in enumerate(order):
            frame, payload = frames[index], payloads[index]
            if staged.seqs[row] == frame.seq or frame.seq in staged.refused:
                continue
            if copied >= bytes_max:
                break
            staged.put(row, 0)
            whole = len(payload) == len(self._input_bases)
            try:
                for position, (_, _, data) in enumerate(payload if whole else ()):
                    size_bytes = self._input_bytes_max[position]
                    offset = self._input_bases[position] + row * size_bytes
                    whole &= put(region, slot, position, offset, data, size_bytes)
                    region.filled[slot, False] += len(data)
                    copied += len(data)
            except (ValueError, OSError):
                whole = False
            if whole:
                staged.put(row, frame.seq)
                rows.append(row)
            else:  # whoever runs it says so
                staged.refused.add(frame.seq)
        if rows and self._ahead is not None:
            try:
                self._ahead.send(channel.encode_stage(staged.tell(rows), slot, rows))
            except BlockingIOError:
                staged.told.clear()  # the worker is behind, and copies them when they run
            except OSError:
                self._ahead.close()
                self._ahead = None
        return copied >= bytes_max

    def _shares(self, memory: ClientMemory) -> bool:
        """Whether the worker can read that memory, of which it is told where it does not know it yet."""
        if memory.stream_id in self._shared:
            return True
        if memory.fd < 0 or len(self._shared) >= shared_frames.SHARED_MAX:
            return False
        try:
            socket.send_fds(self._socket, [shared_frames.encode_share(memory.stream_id)], [memory.fd])
        except OSError:
            return False
        self._shared.add(memory.stream_id)
        return True

    def _gather(self, slot: int, pieces: Sequence[shared_frames.Piece]) -> bool:
        """Has the worker copy what the batch needs. Returns False if the worker is gone."""
        try:
            self._socket.send(shared_frames.encode_gather(slot, pieces))
        except OSError:
            self._loop.call_soon(self._gone)
            return False
        return True

    def warm(self, action: WarmLane) -> bool:
        """Runs a frame of the worker's own."""
        if self._region is None or self._asked is not None:
            return False
        self._slot = (self._slot + 1) % channel.SLOTS
        self._staged.clear()
        self._order = None
        message = channel.encode_warm(action.batch_id, self._slot, self._variants[action.variant])
        return self._begin(action.batch_id, 0, message, WARM_NS)

    def _begin(self, batch_id: int, size: int, message: bytes | bytearray, planned_ns: int) -> bool:
        if self._forget:
            self._send_forget()
        asked = Asked(batch_id, self._slot, size, time.monotonic_ns())
        try:
            self._socket.send(message)
        except OSError:
            self._loop.call_soon(self._gone)
            return False
        self._asked = asked
        self.planned_ns = planned_ns
        return True

    def forget(self, stream_id: int) -> None:
        """The worker hears of it between batches, so that the socket never fills up during a long one, and before the
        next one begins. Streams that close together are one message, for the same reason.
        """
        if self._remembers or stream_id in self._shared:
            self._shared.discard(stream_id)
            self._forget.append(stream_id)
            if len(self._forget) == 1:
                self._loop.call_soon(self._send_forget)

    def _send_forget(self) -> None:
        while self._forget and self._asked is None:
            some, self._forget = self._forget[:1024], self._forget[1024:]
            try:
                self._socket.send(channel.encode_forget(some))
            except BlockingIOError:
                self._forget = some + self._forget
                return
            except OSError:
                return

    # ---- states of streams ----

    def give_state(self, stream_ids: Sequence[int], given: Callable[[GivenState | None], None]) -> int:
        if self._region is None or self._giving is not None or not self._state_bytes:
            return 0
        try:
            giving = GivenState(stream_ids, self._state_bytes)
        except OSError:
            return 0
        self._gives += 1
        try:
            message = handed_state.encode_give(self._gives, giving.places)
            socket.send_fds(self._socket, [message], [giving.fd])
        except OSError:
            giving.close()
            return 0
        self._giving = giving, given
        return giving.size_bytes

    def take_state(self, given: GivenState) -> bool:
        try:
            socket.send_fds(self._socket, [handed_state.encode_take(given.places)], [given.fd])
        except OSError:
            return False
        return True

    def _take_given(self, message: bytes) -> None:
        """Takes the states that the worker was asked for. Raises BrokenAnswer."""
        if self._giving is None:
            raise BrokenAnswer("states that nobody has asked for")
        giving, given = self._giving
        try:
            giving.answered(handed_state.decode_state(message, self._gives, len(giving.stream_ids)))
        except (ValueError, OSError) as error:
            raise BrokenAnswer(f"states that are not as was asked: {error}") from error
        self._giving = None
        given(giving)

    # ---- what the worker says ----

    def _first_message(self) -> None:
        try:
            message, fds = channel.receive_text(self._socket, max(self._text_bytes_left, 0))
        except BlockingIOError:
            return
        except OSError:
            message, fds = b"", []
        except ValueError as error:
            self._refuse_answer(error)
            return
        try:
            if not message:
                self._gone()
            elif not self._ready.done():  # else the load has failed, and the worker is about to be killed
                self._take_text(message, fds)
        except Exception as error:  # otherwise the load would wait for its time-out
            self._refuse_answer(error)
        finally:
            channel.close_all(fds)

    def _refuse_answer(self, error: Exception) -> None:
        """Ends the load, as the worker said something that can't be true."""
        text = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        self._fail_load(f"its worker's answer makes no sense: {words(text, REASON_CHARS_MAX)}")
        self.kill()

    def _take_text(self, message: bytes, fds: list[int]) -> None:
        """Takes what the worker says while it loads the model. The descriptors that it needs it takes out of `fds`."""
        self._text_bytes_left -= len(message)
        self._texts += 1
        _, body = channel.decode_text(message)
        if channel.kind_of(message) in (channel.PROGRESS, channel.ENGINE):
            self._progresses += 1
            self._texts -= 1
        if self._text_bytes_left < 0 or self._texts > FILES_MAX + 1 or self._progresses > 2 * channel.PROGRESS_MAX:
            raise ValueError(f"more than {TEXT_BYTES_MAX:,} bytes, or than {FILES_MAX} files")
        if channel.kind_of(message) == channel.FILES:
            self._take_files(read_files(body))
        elif channel.kind_of(message) == channel.PROGRESS:
            self._take_progress(read_progress(body, self._loop.time()))
        elif channel.kind_of(message) == channel.ENGINE:
            if self._answering is not None and not self._answering.done():
                raise ValueError("a question before the one before it was answered")
            self._answering = self._loop.create_task(self._answer(body), name=f"engine of {self.model}")
        elif channel.kind_of(message) == channel.READY:
            self._take_ready(body, fds)
        elif channel.kind_of(message) == channel.LOAD_FAILED:
            self._fail_load(read_reason(body), MemoryFull if body.get("full") is True else None)
        else:
            raise ValueError(f"a message of kind {channel.kind_of(message)}")

    def _take_progress(self, progress: Progress) -> None:
        if not self.compiles:
            progress = replace(progress, builds=False)
        before, self.progress = self.progress, progress
        self._note_progress()
        if progress.builds and progress.doing != before.doing:
            expected_s = round(progress.expected_s) or None
            _log.info("compiling", model=self.model, lane=self.lane, doing=progress.doing, took_before_s=expected_s)
        if progress.builds or before.builds:
            self.on_progress()

    async def _answer(self, body: dict[str, Any]) -> None:
        """Answers what the worker asks for an engine."""
        answer: dict[str, Any] = {"folder": "", "there": False, "seconds": 0.0}
        try:
            if self.engines is not None:
                answering = self._loop.create_task(self.engines.answer(body, self.contents))
                try:
                    await asyncio.sleep(0)  # it waits from here on
                    self._note_progress()
                    answer = await answering
                finally:
                    answering.cancel()
                    self._note_progress()
            if not self.ended:
                channel.send_text(self._socket, channel.ENGINE, answer)
        except OSError:
            self._gone()
        except Exception as error:
            self._refuse_answer(error)

    def _take_ready(self, body: dict[str, Any], fds: list[int]) -> None:
        ready = read_ready(body, len(self._variants), time.monotonic_ns() - self._started_ns)
        signature = ready.signature
        if not fds:
            raise ValueError("it has no region")
        self._region = channel.Region(fds[0], body["input_bytes"], body["output_bytes"])
        del fds[0]
        self._input_bytes_max = [spec.bytes_max for spec in signature.inputs]
        self._input_bases, needed = layout(self._input_bytes_max, max(signature.batch_sizes))
        self._staged = StagedRows(max(signature.batch_sizes))
        if needed > self._region.input_bytes:
            raise ValueError(f"its region has {self._region.input_bytes} bytes for inputs that take {needed}")
        self._answers = Answers(signature, self._region)
        self._remembers = signature.stateful or signature.watched
        self._state_bytes = signature.state_bytes if signature.state_layout else 0
        self._trims = any(-1 in spec.shape or spec.encodings or spec.is_text for spec in signature.inputs)
        if self._expected is not None:
            self._refuse(changed_signature(self._expected.signature, signature))
        if not self._ready.done():
            self._loop.remove_reader(self._socket.fileno())
            self._loop.add_reader(self._socket.fileno(), self._message)
            self._ready.set_result(ready)

    def _take_files(self, digests: dict[str, FileDigest]) -> None:
        self.contents |= digests
        if len(self.contents) > FILES_MAX:
            raise ValueError(f"more than {FILES_MAX} files")
        if self._expected is not None:
            self._refuse(changed_files(self._expected.contents, digests))

    def _refuse(self, changes: list[str]) -> None:
        """Ends the load of a version that is not what it was, if there are any changes."""
        if changes:
            self._fail_load(in_words(changes), OtherContents)
            self.kill()

    def _message(self) -> bool:
        """Takes in one message. Returns whether there was one."""
        try:
            length = self._socket.recv_into(self._received)
        except BlockingIOError:
            return False
        except OSError:
            length = 0
        if not length:
            self._gone()
            return False
        self._roused = 0
        message = bytes(self._received[:length])
        if self._pinged and message == channel.encode_pong(self._pings):
            self._pinged = False
            return True
        asked = self._asked
        try:
            if length > channel.MESSAGE_BYTES_MAX:
                raise BrokenAnswer(f"a message of more than {channel.MESSAGE_BYTES_MAX:,} bytes")
            if channel.kind_of(message) == channel.STATE:
                self._take_given(message)
                return True
            result = self._answers.read(message, asked, time.monotonic_ns())
            if self._order is not None and isinstance(result, BatchResult):
                result = as_dispatched(result, self._order)
        except DeviceGone as error:
            _log.error("device is lost, its worker is replaced", model=self.model, lane=self.lane, reason=str(error))
            self.device_lost = True
            self.give_up(f"the device of its lane was lost: {error}"[:REASON_CHARS_MAX])
            return False
        except Exception as error:  # whatever it is, the batch would not end in another way
            text = str(error)[:REASON_CHARS_MAX]
            _log.error("worker is broken, it is killed", model=self.model, lane=self.lane, answer=text)
            self.give_up(REASON_BROKEN)
            return False
        assert asked is not None
        self._asked = None
        self.batches += 1
        if self._forget:
            self._send_forget()
        self._on_batch(asked.batch_id, result)
        if isinstance(result, BatchResult) and result.hollow and not self.ended:
            _log.error("worker gives nothing finite, not even for a frame of its own", model=self.model, lane=self.lane)
            self.hollow = True
            self.give_up("the model's worker gives nothing but NaN and infinities")
            return False
        if isinstance(result, NoRoom) and not result.size_max and not self.ended:
            _log.error("worker has no memory for any batch, it is replaced", model=self.model, lane=self.lane)
            self.full = True
            self.give_up("the model's worker has no memory left")
            return False
        return True

    # ---- its end ----

    def _fail_load(self, reason: str, kind: "type[WorkerError] | None" = None) -> None:
        if not self._ready.done():
            self._ready.set_exception((kind or WorkerError)(reason))

    def _gone(self) -> None:
        """The socket has closed, so the process has ended or ends now."""
        if self.ended:
            return
        self._hang_up()
        if self._ready.done():
            self._on_end(self)
        else:
            self._dying = watch_over(f"end of a worker of {self.model}", self._fail_load_by_end)

    async def _fail_load_by_end(self) -> None:
        how = await self.reaped()
        self.crashed = True
        if not self._ready.done():
            self._ready.set_exception(WorkerError(f"its worker process ended while it was loaded ({how})"))

    async def reaped(self) -> str:
        """Returns when the process is gone and its memory given back. The result says for people how it ended."""
        return how_it_ended(await self._reaped(0.0))

    async def _reaped(self, grace_seconds: float) -> int | None:
        code = await reap(self._process, grace_seconds)
        self._output.end()
        if self.group is not None:
            self.group.remove()
        if self.engines is not None:
            await self.engines.end()
        return code

    def _hang_up(self) -> None:
        self._asked = None
        if self._answering is not None:
            self._answering.cancel()
        if self.engines is not None:
            self.engines.over = True
        if self._giving is not None:
            giving, given = self._giving
            self._giving = None
            giving.close()
            self._loop.call_soon(given, None)  # whoever ends the worker may be within a step
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            with contextlib.suppress(OSError):  # whatever it is, what ran must be answered
                self._socket.close()
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        if self._region is not None:
            self._region.close()
            self._region = None


class WorkerError(Exception):
    """A model could not be loaded; the text says why."""


class MemoryFull(WorkerError):
    """There is not enough memory to load it, or to warm it up."""


class OtherContents(WorkerError):
    """The files, or what a worker made of them, are not what the first worker of the version has loaded."""
