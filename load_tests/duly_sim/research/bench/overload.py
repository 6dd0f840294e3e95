"""What overload costs where frames are dear to receive and their senders do not follow advice, and what open streams
cost that send nothing.

A frame of 600 KB that is shed has been received first, by processors that the model needs, too. The peak of a round is
the most that was answered on time in it, at whatever load.
"""

import asyncio
import tempfile
from pathlib import Path

import psutil

from duly_load.protocols.idle_streams import idle_streams
from duly_load.targets.duly_and_floor import OwnServer
from duly_sim.research.bench.client import Load, LoadResult
from duly_sim.research.bench.parts import Part, Setup
from duly_sim.research.bench.servers import DEAR, SMALL, duly, write_repository

STREAM_HZ = 30.0
BUDGET_MS = 100.0
LOADS = (1, 3)
"""How many times what the server answers in a closed loop."""
CAPACITY = Load(DEAR.name, DEAR.frame_bytes, streams=4, window=2)
IDLE_STREAMS = 200
MANY_STREAMS = 1000
SETTLE_S = 2.0
"""The time after which streams that were opened are idle."""
IDLE_S = 10.0

OVERLOAD_STEPS = 1 + len(LOADS)
IDLE_STEPS = 3


def overload(setup: Setup) -> Part:
    """Frames on time for each second at several times the load, against the most of the round."""
    part = Part("overload", f"Overload: frames of {DEAR.frame_bytes / 1000:.0f} KB at {STREAM_HZ:.0f} Hz a stream")
    for _ in range(setup.effort.rounds):
        setup.advance("overload: capacity")
        closed = _run(setup, part, "closed", CAPACITY)
        on_time = {}
        for times in LOADS:
            setup.advance(f"overload: {times} x")
            streams = max(1, round(times * closed.on_time_per_s / STREAM_HZ))
            before_s = setup.duly.cpu_s()
            load = Load(DEAR.name, DEAR.frame_bytes, streams=streams, rate_hz=STREAM_HZ, budget_ms=BUDGET_MS)
            on_time[times] = _run(setup, part, f"{times} x", load).on_time_per_s
            frames = streams * STREAM_HZ * (setup.effort.seconds + setup.effort.warmup_seconds)
            part.add(f"{times} x: CPU a frame, with its workers", "µs", 1e6 * (setup.duly.cpu_s() - before_s) / frames)
        peak = max(closed.on_time_per_s, *on_time.values())
        part.add("closed loop: on time", "frames/s", closed.on_time_per_s)
        for times in LOADS:
            part.add(f"{times} x: on time", "frames/s", on_time[times])
            part.add(f"{times} x / peak", "ratio", on_time[times] / peak)
    return part


def _run(setup: Setup, part: Part, name: str, load: Load) -> LoadResult:
    result = setup.load(setup.duly, setup.timed(load))
    part.keep(f"duly {name}", result)
    return result


def idle(setup: Setup) -> Part:
    """The processor time and the memory that open streams take which send nothing, in servers that did nothing else."""
    part = Part("idle", "Open streams that send nothing")
    for _ in range(setup.effort.rounds):
        with tempfile.TemporaryDirectory(prefix="duly-bench-") as folder:
            repository = Path(folder) / "models"
            write_repository(repository, (SMALL,))
            with duly(repository, Path(folder)) as server:
                none_bytes = 0
                for streams in (0, IDLE_STREAMS, MANY_STREAMS):
                    setup.advance(f"idle: {streams} streams")
                    core_percent, held_bytes = asyncio.run(_idle(server, streams))
                    none_bytes = none_bytes or held_bytes
                    part.add(f"{streams} streams: of a core, with the worker", "%", core_percent)
                    part.add(f"{streams} streams: memory more than with none", "MB", (held_bytes - none_bytes) / 1e6)
    return part


async def _idle(server: OwnServer, streams: int) -> tuple[float, int]:
    """Returns (the server's share of a core in percent, the bytes of its serving process)."""
    async with idle_streams(server.address.endpoint, SMALL.name, streams):
        await asyncio.sleep(SETTLE_S)
        before_s = server.cpu_s()
        await asyncio.sleep(IDLE_S)
        return 100 * (server.cpu_s() - before_s) / IDLE_S, psutil.Process(server.pid).memory_info().rss
