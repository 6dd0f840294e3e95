"""Real time as the server has it: what the kernel is asked for as it starts, what each worker gets, who watches, and
what is taken back when something goes wrong. `duly/realtime` has the pieces and their reasons.

There is no half of it: where one piece cannot be had the server does not start. Once it serves, a worker that owes an
answer for far longer than planned is ordinary until it has answered, as nothing urgent comes of it any more. If the
event loop itself is lost, or nobody watches over it, everything is ordinary for good.
"""

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable

import structlog

from duly.realtime import memory, rights, scheduling, silence, wakefulness
from duly.runtime.worker_command import worker_environment
from duly.runtime.worker_load import WorkerError
from duly.runtime.worker_process import Worker

_log = structlog.get_logger("duly.realtime")

OVERRUN_NS = 200_000_000
PLANS_MAX = 3
"""A worker that owes an answer for longer than both this time and so many times its plan is ordinary until then."""
RT_SECONDS_MAX = 10.0
"""The kernel ends a worker whose thread has run for so long, and RT_RUNS_MAX runs, without sleeping once: even where
neither the server nor what watches over it comes to anything."""
RT_RUNS_MAX = 20
"""So many times what the longest run of the warm-up took is added to RT_SECONDS_MAX."""
READY_SECONDS_MAX = 10.0
"""Where the process that watches over the server does not say in this time that it does, the server does not start."""
CLOSE_SECONDS_MAX = 2.0
"""It is killed as the server ends, and waited for no longer than this."""
_POLLER = "(_poll_wrapper)"
"""What the name of gRPC's own thread in Python ends with, on which messages arrive."""


class RealTimeError(Exception):
    """Real time cannot be had; the text says what is wanting and what would grant it."""


class RealTime:
    """What the server has of real time. `begin`, then `look` every `silence.LOOK_NS`; `close` undoes all of it."""

    def __init__(self) -> None:
        self.urgent = False
        """Whether the server runs before others now."""
        self.fallbacks: Counter[str] = Counter({"server": 0, "worker": 0})
        """How often the urgency was taken back, by whose it was."""
        self._undo = contextlib.ExitStack()
        self._watchdog: socket.socket | None = None
        self._known: set[int] = set()
        """The threads of this process that are urgent already."""
        self._known_of: dict[int, set[int]] = {}
        """Those of workers, by process."""
        self._overrun: set[int] = set()
        """The processes of workers that are ordinary until they have answered."""

    async def begin(self, lanes_cpus: int = 0) -> None:
        """Asks for everything. `lanes_cpus`: how many processors the lanes have for themselves. Raises RealTimeError,
        and leaves everything as it was.
        """
        may = rights.look()
        if lacking := rights.lacking(may, lanes_cpus):
            told = "; ".join(f"{each.what} ({each.remedy})" for each in lacking)
            raise RealTimeError(f"realtime: {told}. Without --realtime, wake_ahead needs none of that")
        if may.runtime_us < 0:
            _log.warning("kernel.sched_rt_runtime_us = -1: real-time threads may take all of a processor for good")
        try:
            self._undo.callback(os.close, wakefulness.hold_wakefulness())
            memory.allow_huge_pages(False)
            self._undo.callback(memory.allow_huge_pages, True)
            memory.lock()
            self._undo.callback(memory.unlock)
            await self._start_watchdog()
            self._undo.callback(self._make_all_ordinary)
            self._make_threads_urgent()
        except OSError as error:
            self._undo.close()
            raise RealTimeError(f"realtime: the kernel refuses it: {error.strerror or error}") from None
        except BaseException:
            self._undo.close()
            raise
        self.urgent = True
        _log.info(
            "real time",
            loop=scheduling.LOOP_PRIORITY,
            workers=scheduling.WORKER_PRIORITY,
            runtime_us=may.runtime_us,
            memory="locked",
        )

    def serve(self, worker: Worker, longest_ns: int, spins: bool) -> None:
        """Makes a worker urgent that is about to serve. `longest_ns`: the longest run of its warm-up. `spins`: whether
        its threads may wait without sleeping, for which the kernel would end it.

        Raises WorkerError where that cannot be.
        """
        if not self.urgent:
            return
        try:
            if not spins:
                hard_us = int(RT_SECONDS_MAX * 1e6 + RT_RUNS_MAX * longest_ns / 1e3)
                resource.prlimit(worker.pid, resource.RLIMIT_RTTIME, (scheduling.WARNED_US, hard_us))
            self._make_worker_urgent(worker.pid)
        except OSError as error:
            raise WorkerError(f"its process cannot run in real time: {error.strerror}") from None

    def look(self, workers: Iterable[Worker]) -> None:
        """Gives a sign of life, hears what watches, and looks at what there is of threads and workers by now."""
        if not self.urgent:
            return
        there = list(workers)
        self._say_alive(there)
        if self.urgent:
            self._make_threads_urgent()
            pids = {worker.pid for worker in there}
            self._overrun &= pids
            self._known_of = {pid: numbers for pid, numbers in self._known_of.items() if pid in pids}
            for worker in there:
                self._look_at(worker)

    async def close(self) -> None:
        """Takes everything back."""
        self.urgent = False
        self._undo.close()

    # ---- threads ----

    def _make_threads_urgent(self) -> None:
        """The transport and others start threads as they need them."""
        there = scheduling.threads(os.getpid())
        if there == self._known:
            return
        of_python = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
        beside = {thread.native_id for thread in of_python if not thread.name.endswith(_POLLER)}
        new = there - self._known
        scheduling.make_urgent(new - beside, scheduling.LOOP_PRIORITY)
        scheduling.make_urgent(new & beside, scheduling.BESIDE_PRIORITY)
        self._known = there

    def _make_all_ordinary(self) -> None:
        scheduling.make_ordinary(scheduling.threads(os.getpid()))
        self._known.clear()

    def _look_at(self, worker: Worker) -> None:
        limit_ns = max(OVERRUN_NS, PLANS_MAX * worker.planned_ns)
        overruns = worker.busy and worker.watch.waited_ns > limit_ns
        if not overruns:
            self._overrun.discard(worker.pid)
            self._make_worker_urgent(worker.pid)
        elif worker.pid not in self._overrun:
            self._overrun.add(worker.pid)
            self.fallbacks["worker"] += 1
            scheduling.make_ordinary(scheduling.threads(worker.pid))
            self._known_of.pop(worker.pid, None)
            waited_s = worker.watch.waited_ns / 1e9
            _log.warning("worker overruns, it is ordinary", model=worker.model, lane=worker.lane, waited_s=waited_s)

    def _make_worker_urgent(self, pid: int) -> None:
        """Libraries of providers start threads as they need them."""
        there, known = scheduling.threads(pid), self._known_of.get(pid, set())
        if there != known:
            scheduling.make_urgent(there - known, scheduling.WORKER_PRIORITY)
            self._known_of[pid] = there

    # ---- what watches over this process ----

    async def _start_watchdog(self) -> None:
        ours, process = _watchdog()
        self._undo.callback(ours.close)
        self._undo.callback(_end, process)
        try:
            async with asyncio.timeout(READY_SECONDS_MAX):
                message = await asyncio.get_running_loop().sock_recv(ours, silence.MESSAGE_BYTES_MAX)
        except TimeoutError:
            message = b""
        if message != silence.READY:
            raise RealTimeError("realtime: the process that watches over it cannot be started; see the server's log")
        self._watchdog = ours

    def _say_alive(self, workers: list[Worker]) -> None:
        assert self._watchdog is not None
        pids = " ".join(str(worker.pid) for worker in workers[: silence.PIDS_MAX])
        said = b""
        with contextlib.suppress(OSError):  # as where it leaves all unread, or is gone
            try:
                said = self._watchdog.recv(silence.MESSAGE_BYTES_MAX)
            except BlockingIOError:  # it has nothing to say, as always
                self._watchdog.send(pids.encode() or b" ")
                return
        why = "the event loop gave no sign of life" if said == silence.ORDINARY else "nothing watches over it any more"
        self._fall_back(why, workers)

    def _fall_back(self, why: str, workers: list[Worker]) -> None:
        self.urgent = False
        self.fallbacks["server"] += 1
        _log.error("real time is over: the server and its workers run as any other process", why=why)
        self._make_all_ordinary()
        for worker in workers:
            scheduling.make_ordinary(scheduling.threads(worker.pid))


def _watchdog() -> "tuple[socket.socket, subprocess.Popen[bytes]]":
    """Starts the process that watches over this one. Returns the way to it. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, silence.UNHEARD_BYTES_MAX)
    command = [sys.executable, "-P", "-m", "duly.realtime.watchdog", str(theirs.fileno()), str(os.getpid())]
    environment = worker_environment(os.environ)
    with theirs:
        try:
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
        except BaseException:
            ours.close()
            raise
    return ours, process


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait(CLOSE_SECONDS_MAX)
