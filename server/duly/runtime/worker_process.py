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
from types import MappingProxyType
from typing import Any

import structlog

from duly.accelerators import is_lane, of_lane
from duly.core.events import DispatchBatch, WarmLane
from duly.core.types import Frame
from duly.models.contents import Fingerprint
from duly.models.spec import Signature
from duly.runtime.answers import REASON_CHARS_MAX, Answers, Asked, BrokenAnswer, DeviceGone
from duly.runtime.given_state import GivenState
from duly.runtime.hang import HangWatch
from duly.runtime.held_frames import InputData
from duly.runtime.process_end import how_it_ended, reap
from duly.runtime.shared_memory import ClientMemory
from duly.runtime.slots import Slots
from duly.runtime.tasks import watch_over
from duly.runtime.worker_command import worker_command, worker_environment
from duly.runtime.worker_groups import WorkerGroup
from duly.runtime.worker_load import WorkerError, WorkerLoad
from duly.runtime.worker_output import WorkerOutput
from duly.runtime.worker_port import BatchResult, NoRoom
from duly.worker import channel, handed_state, shared_frames

_log = structlog.get_logger("duly.worker")

HEARD_MAX = 4
"""A worker has at most three messages on their way, the answers to a ping and to a batch, and states."""
ROUSED_MAX = 8
"""A worker is roused so often without having said anything; then it seems to hang, and its socket must not fill up."""
EXIT_SECONDS_MAX = 2.0
"""A worker that was asked to stop gets this long before it is killed."""
WARM_NS = 50_000_000
"""What a warming run may take, which nobody has planned: the device may have been idle for long."""
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
        self.hollow = False
        """Whether it was given up because it gave nothing finite."""
        self.full = False
        """Whether it was given up because it had no memory left, not even for the smallest batch."""
        self.device_lost = False
        """Whether it was given up because the device of its lane was lost, which is no frame's fault."""
        self.group: WorkerGroup | None = None
        """Its control group, which is removed when the process is gone."""
        self.watch = HangWatch()
        """What tells whether it hangs; for who looks at it."""
        self._variants = {name: index for index, name in enumerate(variants)}
        self._on_batch = on_batch
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self.load = WorkerLoad(model, lane, len(variants), expected, self._open, self._gone)
        """What happens until it is ready."""
        self._region: channel.Region | None = None
        self._slots: Slots | None = None
        """What is put into its region; None: it is not ready yet, or has ended."""
        self._ahead: socket.socket | None = None
        """Where the worker hears of frames to copy to its device ahead; None: it has no such device."""
        self.copied_ahead = 0
        """How many frames of the newest batch it was told to copy to its device before."""
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
        self.sizes_vary = False
        """Whether a frame may take far longer than those that the plan was learnt from, as its size is open."""
        self._forget: list[int] = []
        self._shared: set[int] = set()
        """The streams whose clients' memory it can read."""
        self._roused = 0
        """How often it was roused since it has last said anything."""
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
        self.load.begin(ours, self._process)
        self._loop.add_reader(ours.fileno(), self._loading_message)

    async def stop(self) -> None:
        """Asks the process to end, and kills it if it does not, or at once where it is not ready yet, as it would not
        hear. Returns when it is gone.
        """
        self._hang_up()
        await self._reaped(EXIT_SECONDS_MAX if self.load.succeeded else 0.0)

    def kill(self) -> None:
        """Kills the process. `on_end` follows unless the worker was stopped before."""
        self._process.kill()

    def give_up(self, reason: str) -> None:
        """Kills the process and listens to it no more. What ran on it fails with `reason`, and so does its load.

        `on_end` is called before this returns, unless it has been called already.
        """
        self.end_reason = reason
        self.load.fail(reason)
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
        if self._slots is None or self._asked is not None:
            return False
        run, pieces = self._slots.fill(action, payloads, self._variants[action.variant], last, self._shares)
        self.copied_ahead = len(run.staged)
        if pieces and not self._gather(run.slot, pieces):
            return False
        message = channel.encode_run(run)
        return self._begin(action.batch_id, run.slot, len(run.frames), message, action.planned_ns)

    @property
    def stages(self) -> bool:
        return self._ahead is not None and self._slots is not None

    def stage(self, frames: Sequence[Frame], payloads: Sequence[Sequence[InputData]], bytes_max: int) -> bool:
        """Copies payloads into the slot of the next batch, and tells the worker of them. What does not fit, or cannot
        be read from memory that is shared with a client, is left to `run`.
        """
        slots = self._slots
        if slots is None:
            return False
        rows, is_full = slots.stage(frames, payloads, bytes_max)
        if rows and self._ahead is not None:
            try:
                self._ahead.send(channel.encode_stage(slots.staged.tell(rows), slots.next, rows))
            except BlockingIOError:
                slots.staged.told.clear()  # the worker is behind, and copies them when they run
            except OSError:
                self._ahead.close()
                self._ahead = None
        return is_full

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
        if self._slots is None or self._asked is not None:
            return False
        slot = self._slots.skip()
        message = channel.encode_warm(action.batch_id, slot, self._variants[action.variant])
        return self._begin(action.batch_id, slot, 0, message, WARM_NS)

    def _begin(self, batch_id: int, slot: int, size: int, message: bytes | bytearray, planned_ns: int) -> bool:
        if self._forget:
            self._send_forget()
        asked = Asked(batch_id, slot, size, time.monotonic_ns())
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

    def _loading_message(self) -> None:
        self.load.hear()
        if self.load.succeeded and not self.ended:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.add_reader(self._socket.fileno(), self._message)

    def _open(self, signature: Signature, region: channel.Region) -> None:
        """Prepares for batches. Raises ValueError or BrokenAnswer where the region has not enough room."""
        self._region = region
        self._slots = Slots(signature, region)
        self._answers = Answers(signature, region)
        self._remembers = signature.stateful or signature.watched
        self._state_bytes = signature.state_bytes if signature.state_layout else 0
        self.sizes_vary = self._slots.sizes_vary

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
            if self._slots is not None and isinstance(result, BatchResult):
                result = self._slots.as_dispatched(result)
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

    def _gone(self) -> None:
        """The socket has closed, so the process has ended or ends now."""
        if self.ended:
            return
        self._hang_up()
        if self.load.over:
            self._on_end(self)
        else:
            self._dying = watch_over(f"end of a worker of {self.model}", self._fail_load_by_end)

    async def _fail_load_by_end(self) -> None:
        self.load.fail_by_end(await self.reaped())

    async def reaped(self) -> str:
        """Returns when the process is gone and its memory given back. The result says for people how it ended."""
        return how_it_ended(await self._reaped(0.0))

    async def _reaped(self, grace_seconds: float) -> int | None:
        code = await reap(self._process, grace_seconds)
        self._output.end()
        if self.group is not None:
            self.group.remove()
        if self.load.engines is not None:
            await self.load.engines.end()
        return code

    def _hang_up(self) -> None:
        self._asked = None
        self.load.hang_up()
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
            self._region = self._slots = None
