"""Reads frames beside the lanes that more critical streams leave no gap for: a process for each model that needs it.

The scheduler names the frames (`ReadApart`), this file has them read, the driver takes what comes of it. Whatever goes
wrong here costs a frame no more than its own outcome: one that is not read waits for a gap like any other.

A process is started when the first frame is to be read, gets one frame at a time, the most critical and most urgent
first, and ends when it has had nothing to do for a while. It gets what the processors have left (`worker/background`).
Where it dies, so may the worker that reads the same frame on a lane, so the frame is FAILED; one that dies again and
again is started no more for a while.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import structlog

from duly.core.events import DispatchBatch
from duly.models.repository import ModelVersion
from duly.models.spec import ELEMENT_BYTES, Signature
from duly.models.trust import Trust
from duly.runtime.driver import Driver
from duly.runtime.frame_costs import PICTURES
from duly.runtime.held_frames import HeldFrame, InputData
from duly.runtime.load_answers import Row
from duly.runtime.tasks import once
from duly.runtime.worker_groups import WorkerGroups
from duly.runtime.worker_launch import start_reader
from duly.runtime.worker_load import WorkerError
from duly.runtime.worker_port import BatchResult, NoRoom
from duly.runtime.worker_process import Worker
from duly.worker.channel import ROW, ROW_HEAD

_log = structlog.get_logger("duly.worker")

READERS_MAX = 4
"""So many models have a process for it at once; frames of others wait for a gap."""
WAITING_MAX = 32
"""So many frames of one model wait to be read; further ones wait for a gap."""
READ_SECONDS_MAX = 30.0
"""A process that takes longer for a frame, or to start, is ended."""
IDLE_SECONDS_MAX = 60.0
"""A process that had nothing to read for so long is ended."""
DEATHS_MAX = 3
"""After so many deaths within DEATHS_SECONDS no process is started until the first of them is as long ago; frames wait
for a gap."""
DEATHS_SECONDS = 60.0
_DIED = "its pictures could not be read: the process that reads them ended"


@dataclass(frozen=True, slots=True)
class Readable:
    """The inputs of a version that can be read beside its lanes."""

    version: ModelVersion
    signature: Signature
    rows: tuple[Row, ...]
    places: tuple[int, ...]
    """The places of these inputs among all."""


def readable(version: ModelVersion, signature: Signature, rows: Sequence[Row]) -> Readable | None:
    """Returns what of a version's frames can be read beside its lanes; None: nothing. It is the pictures of models that
    keep no state, whose frames may change places, where all of them become rows of a fixed size.
    """
    places = tuple(index for index, spec in enumerate(signature.inputs) if spec.pixels_max)
    if not places or not rows or signature.stateful:
        return None
    for index in places:
        datatype, shape = rows[index]
        size = ROW_HEAD.size + prod(shape) * ELEMENT_BYTES[datatype]
        if -1 in shape or size > signature.inputs[index].bytes_max:
            return None
    return Readable(version, signature, tuple(rows), places)


class ApartReaders:
    """Reads for all versions that are served."""

    def __init__(self, driver: Driver, trust: Trust | None, groups: Callable[[], WorkerGroups | None]) -> None:
        """`groups`: what makes control groups for processes; None: they have none of their own."""
        self.read: Counter[str] = Counter()
        """How many frames were read, by model."""
        self._driver = driver
        self._trust = trust
        self._groups = groups
        self._readers: dict[str, _Reader] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    def serve(self, what: Readable) -> None:
        """Reads frames of the version from now on, as the driver asks for it."""
        self._driver.read_apart[what.version.key] = partial(self._read, what)

    async def stop(self, model: str) -> None:
        """Reads frames of that version no more. Returns when its process is gone."""
        self._driver.read_apart.pop(model, None)
        self.read.pop(model, None)
        reader = self._readers.pop(model, None)
        if reader is not None:
            await reader.stop()

    async def close(self) -> None:
        """Ends all processes."""
        await asyncio.gather(*map(self.stop, [*self._driver.read_apart, *self._readers]))
        await asyncio.gather(*self._stopping, return_exceptions=True)

    def _read(self, what: Readable, held: HeldFrame) -> None:
        reader = self._readers.get(what.version.key)
        if reader is None:
            idle = next((name for name, other in self._readers.items() if other.idle), "")
            if len(self._readers) >= READERS_MAX and not idle:
                self._driver.frame_read(held)
                return
            if len(self._readers) >= READERS_MAX:
                self._end(idle)
            reader = self._readers[what.version.key] = _Reader(what, self._driver, self._start, self._end, self._count)
        reader.read(held)

    def _count(self, model: str) -> None:
        self.read[model] += 1

    def _start(self, reader: "_Reader") -> Worker:
        groups = self._groups()
        group = groups.add() if groups is not None else None
        what = reader.what
        reads = [
            (index, what.signature.inputs[index].model_dump(mode="json"), *what.rows[index]) for index in what.places
        ]
        return start_reader(what.version, reads, reader.answered, reader.ended, self._trust, group)

    def _end(self, model: str) -> None:
        reader = self._readers.pop(model, None)
        if reader is not None:
            task = once(f"end of what reads for {model}", reader.stop(), lambda reason: None)
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)


class _Reader:
    """Reads for one version."""

    def __init__(
        self,
        what: Readable,
        driver: Driver,
        start: "Callable[[_Reader], Worker]",
        end: Callable[[str], None],
        count: Callable[[str], None],
    ) -> None:
        self.what = what
        self._driver = driver
        self._start = start
        self._end = end
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._waiting: list[HeldFrame] = []
        self._reading: HeldFrame | None = None
        self._number = 0
        self._worker: Worker | None = None
        """The process, once it is ready."""
        self._starting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        """Ends a process that reads for too long, or has nothing to do."""
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        """When it died last, by the event loop's clock."""
        self._stopped = False

    @property
    def idle(self) -> bool:
        return self._reading is None and not self._waiting

    def read(self, held: HeldFrame) -> None:
        """Reads the frame in its turn."""
        self._waiting.append(held)
        if len(self._waiting) > WAITING_MAX:
            self._waiting = [other for other in self._waiting if self._driver.held.of((other.frame,))]
        if len(self._waiting) > WAITING_MAX or self._dies_again_and_again():
            self._let_go()
        elif self._worker is None and self._starting is None:
            self._starting = once(f"start of what reads for {held.frame.model}", self._begin(), self._not_begun)
        else:
            self._next()

    def _dies_again_and_again(self) -> bool:
        deaths = self._deaths
        return len(deaths) == DEATHS_MAX and self._loop.time() - deaths[0] < DEATHS_SECONDS

    def _let_go(self) -> None:
        """Lets all frames wait for a gap."""
        waiting, self._waiting = self._waiting, []
        for held in waiting:
            self._driver.frame_read(held)

    async def _begin(self) -> None:
        worker = None
        try:
            worker = self._start(self)
            await worker.load.ready(READ_SECONDS_MAX)
        except WorkerError as error:
            if worker is not None:
                await worker.stop()
            self._not_begun(str(error))
            return
        except asyncio.CancelledError:
            if worker is not None:
                await worker.stop()
            raise
        self._worker, self._starting = worker, None
        self._next()

    def _not_begun(self, reason: str) -> None:
        _log.error("pictures cannot be read beside the lanes", model=self.what.version.key, reason=reason)
        self._starting = None
        self._deaths.append(self._loop.time())
        self._let_go()

    def _next(self) -> None:
        """Begins with the frame that has most need of it, if nothing is being read."""
        if self._reading is not None or self._worker is None:
            return
        self._set_timer(None)
        self._waiting = [held for held in self._waiting if self._driver.held.of((held.frame,))]
        if not self._waiting:
            self._set_timer(IDLE_SECONDS_MAX)
            return
        held = min(self._waiting, key=lambda held: (held.stream_class, held.frame.deadline_ns))
        self._waiting.remove(held)
        self._number += 1
        action = DispatchBatch(
            self._number, "apart", self.what.version.key, "reader", [held.frame], held.frame.apart_ns
        )
        self._reading = held
        try:
            begun = self._worker.run(action, [[held.payload[place] for place in self.what.places]])
        except (ValueError, OSError) as error:
            _log.error("frame cannot be read beside the lanes", model=held.frame.model, reason=str(error))
            begun = False
        if begun:
            self._set_timer(READ_SECONDS_MAX)
        else:
            self._reading = None
            self._driver.frame_read(held)
            self._loop.call_soon(self._next)

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._over)

    def _over(self) -> None:
        if self._reading is None:
            self._end(self.what.version.key)
        elif self._worker is not None:
            _log.error("what reads beside the lanes takes too long", model=self.what.version.key)
            self._worker.give_up(_DIED)

    # ---- what the process says ----

    def answered(self, number: int, result: BatchResult | NoRoom | str) -> None:
        held, self._reading = self._reading, None
        if held is not None:
            if isinstance(result, NoRoom | str):
                self._driver.frame_read(held, failed=result.reason if isinstance(result, NoRoom) else result)
            elif result.invalid or result.failed:
                self._driver.frame_read(held, invalid=result.invalid.get(0, ""), failed=result.failed.get(0, ""))
            elif held.payload:
                self._count(self.what.version.key)
                self._driver.frame_read(held, self._read_payload(held, result))
        self._next()

    def _read_payload(self, held: HeldFrame, result: BatchResult) -> list[InputData]:
        payload = list(held.payload)
        for place, (_, _, row) in zip(self.what.places, result.outputs(0), strict=True):
            if payload[place].encoding in PICTURES:
                payload[place] = InputData(ROW, (), row)
        return payload

    def ended(self, worker: Worker) -> None:
        held, self._reading = self._reading, None
        self._worker = None
        self._set_timer(None)
        self._deaths.append(self._loop.time())
        if self._stopped:
            return
        _log.warning("what reads beside the lanes has ended", model=self.what.version.key)
        self._reap = once("end of what reads", self._reaped(worker), lambda reason: None)
        if held is not None:
            self._driver.frame_read(held, failed=_DIED)
        waiting, self._waiting = self._waiting, []
        for other in waiting:
            self.read(other)

    async def _reaped(self, worker: Worker) -> None:
        await worker.reaped()

    async def stop(self) -> None:
        """Ends the process. Returns when it is gone."""
        self._stopped = True
        self._set_timer(None)
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        worker, self._worker = self._worker, None
        if self._reading is not None:
            self._waiting.append(self._reading)
            self._reading = None
        self._let_go()
        if worker is not None:
            await worker.stop()
