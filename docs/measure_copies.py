"""Prints what it is worth to copy frames to a GPU beside the run before, by simulation: the tables of docs/gpu.md.

    python docs/measure_copies.py [--seconds 20] [--seed 0]

The scheduler is the server's own, and so are the rules when frames are copied ahead and which rows are kept. Batches of
ResNet-50 take what NVIDIA has published of a T4 and an A100. What is added is an assumption, no measurement on a GPU:
the server copies one frame after another, and one that it has not come to when the batch begins costs the lane its copy
by the server and its upload; one that was copied ahead costs nothing.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from duly.core.events import Action, BatchFinished, DispatchBatch, Event, FramesArrived
from duly.core.scheduler import Scheduler
from duly.core.types import OutcomeStatus
from duly.runtime.staged_rows import StagedRows
from duly.runtime.staging import Lead
from duly_load.scenario.scenario import Scenario
from duly_sim.simulator.engine import Service, simulate
from duly_sim.simulator.world import World, build

BATCH_MAX = 32
FRAMES = {"pictures of 8 bits": 224 * 224 * 3, "tensors of FP32": 224 * 224 * 3 * 4}
"""The bytes of a frame."""
GPUS = {"T4": ("t4_resnet50", 12e9, 60, 1100), "A100": ("a100_resnet50", 24e9, 30, 2850)}
"""The table, bytes a second that reach the GPU, the budget in ms, and about how many frames a second it can serve.

Pinned memory attains roughly 12 GB/s over PCIe 3.0 x16 (CUDA C++ Best Practices Guide, "Pinned Memory"); PCIe 4.0 is
taken for twice as fast."""
HOST_BYTES_PER_S = 6e9
"""How fast the server copies into the region, on one core."""
LOADS = (0.6, 0.9, 1.5)
BACKLOGS = ("ALL", "LATEST")
RATE_HZ = 30


@dataclass
class Copying:
    """The server's scheduler, with a host that copies frames ahead, and what its lane's batches then take."""

    table: Service
    host_ns: float
    """What the server takes to copy a frame."""
    upload_ns: float
    ahead: bool
    scheduler: Scheduler = field(default_factory=Scheduler)
    rows: StagedRows = field(default_factory=lambda: StagedRows(BATCH_MAX))
    asks: list[tuple[int, str]] = field(default_factory=list)
    """A heap of when to ask for which lane."""
    due: set[str] = field(default_factory=set)
    batches: int = 0
    whole: int = 0
    frames: int = 0
    kept: int = 0
    copied: int = 0
    copied_ns: list[float] = field(default_factory=lambda: [0.0] * BATCH_MAX)
    """When the server has copied the frame in each row."""
    free_ns: float = 0.0
    """When it has copied all."""
    lead: Lead = field(default_factory=Lead)
    first_ns: tuple[int, float] | None = None
    """When the first frames of the batch began to be copied, and when they are."""
    not_ahead: int = 0
    """How many frames of the newest batch were not copied ahead."""

    def next_wake_ns(self) -> int | None:
        wakes = [wake for wake in (self.scheduler.next_wake_ns(), *[at for at, _ in self.asks[:1]]) if wake is not None]
        return min(wakes, default=None)

    def step(self, now_ns: int, event: Event) -> list[Action]:
        while self.asks and self.asks[0][0] <= now_ns:
            _, lane = heappop(self.asks)
            if not isinstance(event, BatchFinished):
                self._ask(lane, now_ns)
        actions = self.scheduler.step(now_ns, event)
        for action in actions:
            if isinstance(action, DispatchBatch):
                self._began(action, now_ns)
        if isinstance(event, FramesArrived):
            for lane in sorted(self.due):
                self._ask(lane, now_ns)
        return actions

    def duration_ns(self, now_ns: int, lane: str, model: str, variant: str, batch_size: int) -> int | None:
        taken_ns = self.table.duration_ns(now_ns, lane, model, variant, batch_size)
        return None if taken_ns is None else taken_ns + round(self.not_ahead * (self.host_ns + self.upload_ns))

    def _began(self, action: DispatchBatch, now_ns: int) -> None:
        for row, copied_ns in enumerate(self.copied_ns):
            if copied_ns > now_ns:
                self.rows.put(row, 0)
        self.free_ns = now_ns
        if self.first_ns is not None:
            since_ns, until_ns = self.first_ns
            self.lead.took(round(min(now_ns, until_ns)) - since_ns, whole=until_ns <= now_ns)
            self.first_ns = None
        order = self.rows.order(action.frames)
        there, _ = self.rows.known(action.frames, order)
        self.rows.clear()
        self.asks.clear()
        self.due.clear()
        self.batches += 1
        self.whole += len(there) == len(order)
        self.frames += len(order)
        self.kept += len(there)
        self.not_ahead = len(order) - len(there)
        if self.ahead:
            heappush(self.asks, (now_ns + self.lead.ask_ns(action.planned_ns), action.lane))

    def _ask(self, lane: str, now_ns: int) -> None:
        foreseen = self.scheduler.foresee(lane, now_ns)
        first = lane not in self.due
        if foreseen is None or not foreseen.full:
            self.due.add(lane)
        else:
            self.due.discard(lane)
        if foreseen is not None:
            for row, index in enumerate(self.rows.order(foreseen.frames)):
                if self.rows.seqs[row] != foreseen.frames[index].seq:
                    self.rows.put(row, foreseen.frames[index].seq)
                    self.copied += 1
                    self.free_ns = self.copied_ns[row] = max(self.free_ns, now_ns) + self.host_ns
            if first:
                self.first_ns = now_ns, self.free_ns


def scenario(table: str, budget_ms: int, rate: float, backlog: str, seconds: int) -> Scenario:
    """Cameras on one GPU."""
    return Scenario.model_validate(
        {
            "name": "copies",
            "duration_s": seconds,
            "warm_s": 2,
            "simulate": {
                "noise": {"cv": 0.03},
                "lane": [{"name": "gpu", "count": 1}],
                "model": [{"name": "resnet", "batch_max": BATCH_MAX, "variants": [{"table": table}]}],
            },
            "stream": [
                {
                    "name": "camera",
                    "count": max(1, round(rate / RATE_HZ)),
                    "model": "resnet",
                    "budget_ms": budget_ms,
                    "backlog": backlog,
                    "arrivals": {"kind": "periodic", "rate_hz": RATE_HZ, "drift_ppm": 50},
                }
            ],
        }
    )


def on_time(world: World, copying: Copying) -> float:
    """Runs it, and returns the frames a second that were on time."""
    ran = simulate(copying, world.script, world.frames, world.model_of, copying)
    start_ns, end_ns = round(world.scenario.warm_s * 1e9), round(world.scenario.duration_s * 1e9)
    counts = (world.frames.arrival_ns >= start_ns) & (world.frames.arrival_ns < end_ns)
    return float((ran.status[counts] == OutcomeStatus.ON_TIME).sum()) / (end_ns - start_ns) * 1e9


def rows(seconds: int, seed: int) -> Iterator[list[str]]:
    for gpu, (table, upload, budget_ms, capacity) in GPUS.items():
        for called, size_bytes in FRAMES.items():
            host_ns, upload_ns = size_bytes * 1e9 / HOST_BYTES_PER_S, size_bytes * 1e9 / upload
            for backlog in BACKLOGS:
                for load in LOADS:
                    offered = scenario(table, budget_ms, load * capacity, backlog, seconds)
                    figures: list[float] = []
                    for ahead in (False, True):
                        world = build(offered, seed)
                        copying = Copying(world.service, host_ns, upload_ns, ahead)
                        figures.append(on_time(world, copying))
                    yield [
                        gpu, called, backlog, f"{load:g}", f"{copying.frames / copying.batches:.1f}",
                        f"{100 * copying.kept / copying.frames:.0f}", f"{100 * copying.whole / copying.batches:.0f}",
                        f"{100 * (copying.copied - copying.kept) / copying.frames:.0f}",
                        f"{figures[0]:.0f}", f"{figures[1]:.0f}", f"{100 * (figures[1] / figures[0] - 1):+.1f}",
                    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="What copies beside runs are worth, by simulation.")
    parser.add_argument("--seconds", type=int, default=20, help="of virtual time for each row")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    head = ["GPU", "frames", "backlog", "load", "batch", "copied ahead, %", "whole batches, %", "in vain, %",
            "on time/s without", "on time/s with", "gain, %"]  # fmt: skip
    for row in [head, ["---"] * len(head), *rows(arguments.seconds, arguments.seed)]:
        print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
