"""The process that writes samples, as the server sees it: it is started, fed over a bounded queue, and started again
where it ends.

Nothing here waits for it. What the queue has no room for is dropped and counted, and so is what comes while there is no
such process. What is queued goes over in small pieces, so that no turn of the event loop takes long.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import structlog

from duly.metrics import SamplingCounts
from duly.runtime.process_end import how_it_ended, reap
from duly.runtime.worker_command import worker_environment
from duly.runtime.worker_output import WorkerOutput
from duly.sampling import wire
from duly.sampling.limits import WriterSettings
from duly.sampling.wire import EXIT_FOLDER, Joined
from duly.trials.accuracy import LabelledFrame

_log = structlog.get_logger("duly.sampling")

QUEUE_BYTES_MAX = 64 << 20
QUEUE_PIECES_MAX = 16_384
"""QUEUE_BYTES_MAX, and so many pieces, of which a frame has a few, may wait for the process that writes; what comes
then is dropped and counted."""
CHUNK_BYTES = 64 << 10
PIECES_A_CHUNK = 64
"""What goes over at once. The event loop copies so much in some ten microseconds."""
BACK_OFF_SECONDS, BACK_OFF_SECONDS_MAX = 1.0, 30.0
"""The pause before the process is started again, twice as long each time up to the second."""
WELL_SECONDS = 60.0
"""A process that has lived for so long was well: the next pause is the shortest again."""
EXIT_SECONDS = 0.5
"""A process that hangs up gets so long to end."""
STOP_SECONDS = 5.0
"""At the end of the server it gets so long to write what it has."""
CALLS_MAX = 256
"""So many messages of labels may wait for their answers."""


class WriterLink:
    def __init__(self, settings: WriterSettings, living: Callable[[], wire.Groups] = dict) -> None:
        """`living`: asked for the groups whose streams go on each time that the process is started."""
        self.counts = SamplingCounts()
        self.problem = ""
        """Why nothing can be written just now, for people; empty: nothing is known to be wrong."""
        self._settings = settings
        self._living = living
        self._loop = asyncio.get_running_loop()
        self._queue: deque[wire.Buffer] = deque()
        self._queued_bytes = 0
        self._socket: socket.socket | None = None
        self._writing = False
        """Whether the loop tells when there is room in the socket."""
        self._messages = wire.Messages()
        self._calls: dict[int, asyncio.Future[list[tuple[Joined, str]]]] = {}
        self._next_call = 0
        self.judges_labels: Callable[[], Mapping[str, tuple[str, float]]] = dict
        """Returns of which models, by name, it is wanted to know what labels say of answers, and by which output and
        threshold."""
        self.labelled: Callable[[LabelledFrame], None] = lambda frame: None
        """Is told what a label of such a model says."""
        self._sent = 0
        """Files that this process was to write, or add a frame to."""
        self._heard = SamplingCounts()
        """What this process has said."""
        self._ending = asyncio.Event()
        self._changed: asyncio.Event = asyncio.Event()
        """Set when the connection ends."""

    # ---- what goes there ----

    @property
    def is_there(self) -> bool:
        """Whether the process takes anything now."""
        return self._socket is not None and not self._ending.is_set()

    def send(self, head: bytes, data: Sequence[wire.Buffer], size_bytes: int, places: int) -> None:
        """Queues a frame, or drops and counts it. `size_bytes`: of `data`. `places`: in how many places it is to be
        written.
        """
        if not self.is_there:
            self.counts.dropped["writer_down"] += places
        elif not self._has_room(len(head) + size_bytes):
            self.counts.dropped["queue_full"] += places
        else:
            self._sent += places
            self._put(head, data)

    def tell_ended(self, model: str, group: str) -> bool:
        """Queues that the stream of a group has ended. Returns False where there is no room: tell it again later. Where
        there is no process there is nothing to tell, as the next one is told which groups live.
        """
        if not self.is_there:
            return True
        if not self._has_room(0):
            return False
        self._put(wire.encoded(wire.ENDED, {"model": model, "group": group}), ())
        return True

    def ask(
        self, body: dict[str, Any], data: Sequence[wire.Buffer], size_bytes: int
    ) -> "asyncio.Future[list[tuple[Joined, str]]] | None":
        """Queues labels. Returns what is done once it is known what became of each; None: there is no room, or nobody
        to take them. It is cancelled where the process ends before.
        """
        if not self.is_there or len(self._calls) >= CALLS_MAX:
            return None
        self._next_call += 1
        body = body | {"call": self._next_call, "judges": self.judges_labels()}
        head = wire.encoded(wire.LABELS, body, size_bytes)
        if not self._has_room(len(head) + size_bytes):
            return None
        answers: asyncio.Future[list[tuple[Joined, str]]] = self._loop.create_future()
        self._calls[self._next_call] = answers
        self._put(head, data)
        return answers

    def _has_room(self, more_bytes: int) -> bool:
        return self._queued_bytes + more_bytes <= QUEUE_BYTES_MAX and len(self._queue) < QUEUE_PIECES_MAX

    def _put(self, head: bytes, data: Sequence[wire.Buffer]) -> None:
        for piece in (head, *data):
            if len(piece):
                self._queue.append(piece)
                self._queued_bytes += len(piece)
        if not self._writing and self._socket is not None:
            self._writing = True
            self._loop.add_writer(self._socket.fileno(), self._write)

    def _write(self) -> None:
        """Writes one chunk of what is queued."""
        assert self._socket is not None
        chunk: list[wire.Buffer] = []
        left = CHUNK_BYTES
        for piece in islice(self._queue, PIECES_A_CHUNK):
            chunk.append(piece if len(piece) <= left else memoryview(piece)[:left])
            left -= len(chunk[-1])
            if not left:
                break
        try:
            sent = self._socket.sendmsg(chunk) if chunk else 0
            self._queued_bytes -= sent
            while sent:
                first = self._queue.popleft()
                if sent < len(first):
                    self._queue.appendleft(memoryview(first)[sent:])
                    break
                sent -= len(first)
            if not self._queue:
                self._writing = False
                self._loop.remove_writer(self._socket.fileno())
        except BlockingIOError:
            return
        except OSError:
            self._lost()

    # ---- what comes from there ----

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._messages.feed(data)
        self._hear_all()
        if not data:
            self._lost()

    def _hear_all(self) -> None:
        """Takes in what has come. A process that says what makes no sense is given up."""
        try:
            while (message := self._messages.next()) is not None:
                self._hear(message[0], message[1])
        except (wire.BrokenMessage, AttributeError, KeyError, TypeError, ValueError):
            _log.exception("the process that writes samples says what makes no sense")
            self._lost()

    def _hear(self, kind: int, body: dict[str, Any]) -> None:
        if kind == wire.READY:
            self._say_problem("")
            _log.info("samples are written", lacking="; ".join(body["lacking"]) or None)
        elif kind == wire.STATUS:
            heard = SamplingCounts(Counter(body["written"]), Counter(body["dropped"]))
            self.counts.written.update(heard.written - self._heard.written)
            self.counts.dropped.update(heard.dropped - self._heard.dropped)
            self.counts.bytes = body["bytes"] or self.counts.bytes
            self._heard = heard
            self._say_problem(str(body["problem"]))
        elif kind == wire.ANSWERS:
            for version, drawn, stream, frame_id, received_unix_ns, right in body["judged"]:
                key = str(stream), int(frame_id)
                self.labelled(LabelledFrame(str(version), bool(drawn), key, int(received_unix_ns), bool(right)))
            answers = [(Joined(number), str(reason)) for number, reason in body["answers"]]
            call = self._calls.pop(int(body["call"]), None)
            if call is not None and not call.done():
                call.set_result(answers)

    def _say_problem(self, problem: str) -> None:
        if problem and problem != self.problem:
            _log.error("samples cannot be written, frames are served as ever", reason=problem)
        elif self.problem and not problem:
            _log.info("samples are written again")
        self.problem = problem

    # ---- its life ----

    async def run(self) -> None:
        """Keeps the process there until `close`."""
        pause_s = BACK_OFF_SECONDS
        while True:
            began_s = self._loop.time()
            code = await self._once()
            if self._ending.is_set():
                return
            if self._loop.time() - began_s > WELL_SECONDS:
                pause_s = BACK_OFF_SECONDS
            if code != EXIT_FOLDER:
                why = "it cannot be started" if code is None else how_it_ended(code)
                _log.error("the process that writes samples has ended, another is started", reason=why, in_s=pause_s)
            self.counts.restarts += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._ending.wait()
                    return
            pause_s = min(2 * pause_s, BACK_OFF_SECONDS_MAX)

    async def _once(self) -> int | None:
        """Starts the process and waits for its end. Returns its status; None: it cannot be started, or does not end."""
        self._changed.clear()
        try:
            process, output = self._start()
        except OSError as error:
            self._say_problem(f"the process that writes them cannot be started: {os.strerror(error.errno or 0)}")
            return None
        try:
            await self._changed.wait()
        finally:
            self._lost()
            code = await reap(process, EXIT_SECONDS)
            output.end()
        return code

    def _start(self) -> tuple["subprocess.Popen[bytes]", WorkerOutput]:
        with contextlib.ExitStack() as undo:
            ours, theirs = map(undo.enter_context, socket.socketpair())
            ours.setblocking(False)
            output = WorkerOutput("samples", "")
            undo.callback(output.give_up)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "duly.sampling.main", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output.writing,
                stderr=output.writing,
                env=worker_environment(os.environ),
            )
            undo.pop_all()
        theirs.close()
        output.listen()
        self._socket = ours
        self._messages = wire.Messages()
        self._heard, self._sent = SamplingCounts(), 0
        self._loop.add_reader(ours.fileno(), self._read)
        living = {model: list(groups) for model, groups in self._living().items()}
        self._put(wire.encoded(wire.SETTINGS, self._settings.as_body() | {"living": living}), ())
        return process, output

    def _lost(self) -> None:
        """Lets go of the connection: what is queued is dropped, and nobody answers any more."""
        connection, self._socket = self._socket, None
        if connection is None:
            return
        self._loop.remove_reader(connection.fileno())
        self._loop.remove_writer(connection.fileno())
        connection.close()
        self._writing = False
        self._queue.clear()
        self._queued_bytes = 0
        unheard = self._sent - sum(self._heard.written.values()) - sum(self._heard.dropped.values())
        if unheard > 0:
            self.counts.dropped["writer_down"] += unheard
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        self._changed.set()

    async def close(self, task: "asyncio.Task[None]") -> None:
        """Has the process write what it has, and returns when it is gone. `task`: what runs `run`."""
        if self._socket is not None:
            self._put(wire.encoded(wire.STOP, {}), ())
        self._ending.set()
        await asyncio.wait([task], timeout=STOP_SECONDS)
        self._lost()  # if it has not ended by now, it is killed
        await asyncio.wait([task])
