"""How much of the time that copying inputs takes is hidden where the next batch is copied while this one runs: a number
of batches one after the other, each copied and then run, against the same with the copies beside the runs, in turn in
each round.

First of the device and ONNX Runtime alone, without duly: memory of the host is pinned in one half of the rows, as the
worker's is, and not in the other, where CUDA copies through a buffer of its own. Hidden is what the second way saves,
in terms of the most that it could save: the lesser of copying and running. Then of duly's worker as it is, where a
batch is copied twice, into shared memory and from there to the device, and saved is the part of the whole time.
"""

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import onnxruntime

from duly.accelerators import of_lane
from duly.worker import cuda_runtime
from duly.worker.dtypes import Array
from tests.gpu.lane import lane_of
from tests.gpu.models import Measured, bare_session, write_model
from tests.gpu.stage_throughput import ranged
from tests.gpu.stages import Asked

SLOTS = 2
SECONDS = 0.25
"""Of each way in each round, about."""
BATCHES = range(4, 400)
"""Of each way in each round."""
_PINNED: list[Array] = []
"""Arrays whose memory CUDA has pinned. They are never freed: what came to lie there next would be pinned, too, and
could not be pinned again.
"""


class Copies(Protocol):
    """What copies from the host's memory to the device's."""

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Begins a copy between two addresses."""

    def wait(self) -> None:
        """Waits until all copies are done."""


class HostCopies:
    """Stands for a GPU's copies in a rehearsal, where the device's memory is the host's: a thread does them."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        self._threads.append(threading.Thread(target=ctypes.memmove, args=(target, source, size_bytes)))
        self._threads[-1].start()

    def wait(self) -> None:
        while self._threads:
            self._threads.pop().join()


@dataclass(frozen=True, slots=True)
class Case:
    measured: Measured
    batch: int


# First the one whose copies take longer than its runs, and which is soon ready.
FULL = (Case(Measured("wide"), 64), Case(Measured("squeezenet"), 16))
REHEARSED = (Case(Measured("wide"), 16),)


def run(asked: Asked) -> None:
    rows: list[dict[str, object]] = []
    workers: list[dict[str, object]] = []
    results = {"lane": asked.lane, "rows": rows, "workers": workers}
    rounds, seconds = (2, SECONDS / 5) if asked.rehearsal else (5, SECONDS)
    for case in REHEARSED if asked.rehearsal else FULL:
        for pinned in (True, False):
            rows.append(_row(case, asked.lane, pinned, rounds, seconds))
            asked.write(results)
        workers.append(asyncio.run(_worker_row(case, asked, rounds, seconds)))
        asked.write(results)


def copies_of(lane: str, sources: list[Array], pinned: bool) -> Copies:
    if not lane.startswith("cuda:"):
        return HostCopies()
    device = int(lane.partition(":")[2])
    _PINNED.extend(sources if pinned else ())
    if pinned and not cuda_runtime.pin([(each.ctypes.data, each.nbytes) for each in sources], device):
        raise RuntimeError("CUDA does not pin memory of the host")
    stream = cuda_runtime.copy_stream(device)
    if stream is None:
        raise RuntimeError("there is no runtime of CUDA: libcudart.so.13")
    return stream


def _row(case: Case, lane: str, pinned: bool, rounds: int, seconds: float) -> dict[str, object]:
    session = bare_session(case.measured.build().SerializeToString(), lane)
    memory = of_lane(lane).memory or "cpu"
    index = int(lane.partition(":")[2]) if memory != "cpu" else 0
    sources = [case.measured.frames(case.batch) for _ in range(SLOTS)]
    copies = copies_of(lane, sources, pinned)
    (taken, *_), outputs = session.get_inputs(), session.get_outputs()
    bindings, targets = [], []
    for source in sources:
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type([*source.shape], source.dtype.type, memory, index)
        binding = session.io_binding()
        binding.bind_ortvalue_input(taken.name, value)
        for output in outputs:
            binding.bind_output(output.name, memory, index)
        bindings.append((binding, value))  # the value must live as long as it is bound
        targets.append(value.data_ptr())

    def copy(nth: int) -> None:
        source = sources[nth % SLOTS]
        copies.copy(targets[nth % SLOTS], source.ctypes.data, source.nbytes)

    def infer(nth: int) -> None:
        session.run_with_iobinding(bindings[nth % SLOTS][0])

    def only_copy(count: int) -> None:
        for nth in range(count):
            copy(nth)
            copies.wait()

    def only_run(count: int) -> None:
        for nth in range(count):
            infer(nth)

    def after(count: int) -> None:
        for nth in range(count):
            copy(nth)
            copies.wait()
            infer(nth)

    def beside(count: int) -> None:
        copy(0)
        copies.wait()
        for nth in range(count):
            copy(nth + 1)
            infer(nth)
            copies.wait()

    ways = {"copy": only_copy, "run": only_run, "after": after, "beside": beside}
    after(BATCHES.start)  # so that kernels are chosen and memory is there
    count = _count(seconds, _took_s(after, BATCHES.start))
    took: dict[str, list[float]] = {name: [] for name in ways}
    for nth in range(rounds):
        order = [*ways] if nth % 2 else [*reversed(ways)]
        for name in order:
            took[name].append(_took_s(ways[name], count) / count * 1e3)
    # Within rounds, so that what the machine does meanwhile meets all ways alike.
    saved = [one - other for one, other in zip(took["after"], took["beside"], strict=True)]
    most = [min(one, other) for one, other in zip(took["copy"], took["run"], strict=True)]
    size_bytes = sources[0].nbytes
    return {
        "model": case.measured.name,
        "batch": case.batch,
        "bytes": size_bytes,
        "pinned": pinned,
        "batches": count,
        "ms": {name: ranged(values) for name, values in took.items()},
        "copy_gb_per_s": float(f"{size_bytes / median(took['copy']) / 1e6:.3g}"),
        "hidden": ranged([one / other for one, other in zip(saved, most, strict=True)]),
    }


async def _worker_row(case: Case, asked: Asked, rounds: int, seconds: float) -> dict[str, object]:
    root = asked.scratch / f"models-{asked.key}"
    write_model(root, case.measured, "", (case.batch,), asked.rehearsal)
    async with lane_of(root, case.measured.name, asked.lane) as lane:
        payloads = [lane.payload(frame) for frame in case.measured.frames(case.batch)]
        await lane.batches(payloads, BATCHES.start, beside=True)
        began_s = time.perf_counter()
        await lane.batches(payloads, BATCHES.start, beside=False)
        count = _count(seconds, time.perf_counter() - began_s)
        took: dict[bool, list[float]] = {False: [], True: []}
        for nth in range(rounds):
            for beside in (True, False) if nth % 2 else (False, True):
                began_s = time.perf_counter()
                await lane.batches(payloads, count, beside)
                took[beside].append((time.perf_counter() - began_s) / count * 1e3)
        return {
            "model": case.measured.name,
            "batch": case.batch,
            "batches": count,
            "to the device ahead": lane.stages,
            "notes": lane.notes,
            "ms": {"after": ranged(took[False]), "beside": ranged(took[True])},
            "saved": ranged([1 - one / other for one, other in zip(took[True], took[False], strict=True)]),
        }


def _count(seconds: float, took_s: float) -> int:
    """How many batches take so long, as far as BATCHES goes. `took_s`: what the least number of them took."""
    return min(max(round(seconds / took_s * BATCHES.start), BATCHES.start), BATCHES.stop)


def _took_s(way: Callable[[int], None], count: int) -> float:
    began_s = time.perf_counter()
    way(count)
    return time.perf_counter() - began_s
