"""What the way through duly's worker costs for each batch size, against `session.run` alone: frames a second and
latency, in rounds in which both are measured in turn, so that what the machine does meanwhile meets both alike.

Alone: `session.run` with arrays in and out, in this process. Through the worker: the payloads are copied into shared
memory, one message goes there, the outputs lie in shared memory when one comes back. Both run batch after batch, one at
a time.
"""

import asyncio
import time
from dataclasses import dataclass, field
from statistics import median, quantiles

import numpy as np
import onnxruntime

from duly.accelerators import TENSORRT
from duly.worker.dtypes import Array
from tests.gpu import nvidia_smi
from tests.gpu.lane import Lane, lane_of
from tests.gpu.models import Measured, bare_session, write_model
from tests.gpu.providers import check_provider
from tests.gpu.stages import Asked

WARM_RUNS = 5
RUNS_MIN = 3
"""Of each round, whatever a run takes."""
TOLERANCE = {"fp32": 2e-2, "fp16": 6e-2}
"""How far answers may be from those of the graph alone, in terms of the greatest: GPUs compute with 10 bits of mantissa
where they may (TF32), and choose other kernels for other batch sizes.
"""


@dataclass(frozen=True, slots=True)
class Effort:
    models: tuple[Measured, ...]
    sizes: tuple[int, ...]
    rounds: int
    seconds: float
    """Of each side in each round."""


FULL = Effort(
    (Measured("mlp"), Measured("squeezenet"), Measured("squeezenet", half=True)), (1, 2, 4, 8, 16, 32), 5, 0.2
)
WITH_TENSORRT = Effort((Measured("squeezenet"),), (1, 8), 5, 0.2)
"""Few sizes, as an engine is built for each."""
REHEARSED = Effort(FULL.models, (1, 4), 3, 0.05)


@dataclass(slots=True)
class Side:
    """What one way of running came to in each round."""

    frames_per_s: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)

    def add(self, size: int, times_ns: list[int]) -> None:
        self.frames_per_s.append(size * len(times_ns) / sum(times_ns) * 1e9)
        self.p50_us.append(median(times_ns) / 1e3)
        self.p99_us.append(quantiles(times_ns, n=100, method="inclusive")[98] / 1e3)

    def told(self) -> dict[str, list[float]]:
        """Median, least and greatest over the rounds."""
        return {
            name: ranged(values)
            for name, values in (("frames_per_s", self.frames_per_s), ("p50_us", self.p50_us), ("p99_us", self.p99_us))
        }


def ranged(values: list[float]) -> list[float]:
    return [float(f"{each:.4g}") for each in (median(values), min(values), max(values))]


def run(asked: Asked) -> None:
    check_provider(asked)
    asyncio.run(_measured(asked))


async def _measured(asked: Asked) -> None:
    effort = REHEARSED if asked.rehearsal else WITH_TENSORRT if asked.provider == TENSORRT else FULL
    rows: list[dict[str, object]] = []
    loaded: dict[str, dict[str, object]] = {}
    results = {"lane": asked.lane, "rounds": effort.rounds, "loaded": loaded, "rows": rows}
    for measured in effort.models:
        root = asked.scratch / f"models-{asked.key}"
        began_s = time.monotonic()
        graph = write_model(root, measured, asked.provider, effort.sizes, asked.rehearsal)
        alone = bare_session(graph, asked.lane, asked.provider, effort.sizes)
        said = loaded[measured.name] = {"alone_seconds": round(time.monotonic() - began_s, 1)}
        asked.write(results)  # an engine may take so long that no time is left for more
        began_s = time.monotonic()
        async with lane_of(root, measured.name, asked.lane) as lane:
            said |= {"providers": lane.providers, "seconds": round(time.monotonic() - began_s, 1), "notes": lane.notes}
            for size in effort.sizes:
                rows.append(await _row(measured, size, alone, lane, effort))
                asked.write(results)
        if asked.lane.startswith("cuda:"):
            said["after"] = nvidia_smi.known(nvidia_smi.state, int(asked.lane.partition(":")[2]))
        asked.write(results)


async def _row(
    measured: Measured, size: int, alone: onnxruntime.InferenceSession, lane: Lane, effort: Effort
) -> dict[str, object]:
    batch = measured.frames(size)
    (taken, *_), (given, *_) = alone.get_inputs(), alone.get_outputs()
    payloads = [lane.payload(frame) for frame in batch]

    async def bare() -> int:
        began_ns = time.perf_counter_ns()
        alone.run([given.name], {taken.name: batch})
        return time.perf_counter_ns() - began_ns

    async def through() -> int:
        return await lane.batch(payloads)

    for _ in range(WARM_RUNS):
        await bare()
        await through()
    (expected,) = alone.run([given.name], {taken.name: batch})
    away = _away(expected.astype(np.float32), lane, size)
    kind = measured.name.rpartition("-")[2]
    if not away <= TOLERANCE[kind]:
        raise RuntimeError(f"{measured.name}, batch {size}: answers are {away:.3g} away from those of the graph alone")
    sides = {"alone": Side(), "duly": Side()}
    for nth in range(effort.rounds):
        ways = [("alone", bare), ("duly", through)]
        for name, way in ways if nth % 2 else reversed(ways):
            times_ns: list[int] = []
            until_s = time.monotonic() + effort.seconds
            while len(times_ns) < RUNS_MIN or time.monotonic() < until_s:
                times_ns.append(await way())
            sides[name].add(size, times_ns)
    alone_side, duly_side = sides["alone"], sides["duly"]
    return {
        "model": measured.name,
        "batch": size,
        "alone": alone_side.told(),
        "duly": duly_side.told(),
        "away": float(f"{away:.2g}"),
        "ratio": {
            "frames_per_s": ranged(_each(duly_side.frames_per_s, alone_side.frames_per_s)),
            "p50": ranged(_each(duly_side.p50_us, alone_side.p50_us)),
        },
        "extra_us": ranged([one - other for one, other in zip(duly_side.p50_us, alone_side.p50_us, strict=True)]),
    }


def _away(expected: Array, lane: Lane, size: int) -> float:
    given = np.stack([lane.output(index) for index in range(size)]).reshape(expected.shape)
    return float(np.abs(given - expected).max() / max(float(np.abs(expected).max()), 1e-6))


def _each(ones: list[float], others: list[float]) -> list[float]:
    return [one / other for one, other in zip(ones, others, strict=True)]
