"""`duly-sim profile`: where each microsecond of a frame goes in the server, as a table.

It runs the loads of `duly-sim bench` against a server and looks at it from outside: the kernel says how much processor
time each thread had, and samples of the main thread's stack say for what. Processor time is no latency: with one frame
in flight most of the time passes while nobody works. Needs what `duly-sim bench` needs, and the right to trace the
server's process.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from duly_load.report.terminal import terminal_table
from duly_load.results.machine import look
from duly_load.targets.duly_and_floor import OwnServer
from duly_load.targets.peer import PeerError
from duly_sim.research.bench import client as load_client
from duly_sim.research.bench import servers
from duly_sim.research.bench.client import ClientError, Load, LoadClient
from duly_sim.research.bench.parts import BUSY, MESSAGES
from duly_sim.research.profile.samples import ProfileError, Sampler, shared_out, times
from duly_sim.research.profile.stages import LOOP, STAGES

OTHERS = "threads of gRPC"
WORKER = "worker"
LOADS = {
    "1 x 1": Load(servers.SMALL.name, servers.SMALL.frame_bytes),
    "16 x 8": BUSY,
    "16 x 32": MESSAGES,
}
"""Streams x frames in flight of each; with 32 there are 16 frames in a message."""
WARMUP_S = 1.0


def spent_us(client: LoadClient, server: OwnServer, load: Load, seconds: float) -> dict[str, float]:
    """Processor time of a frame by its stage, in µs. Raises ClientError or ProfileError."""
    client.run(server.address.endpoint, replace(load, seconds=WARMUP_S, warmup_seconds=0.0))
    worker_pids = [process.pid for process in server.worker_processes()]
    before, workers_s = times(server.pid), _cpu_s(worker_pids)
    with Sampler(server.pid, seconds) as sampler:
        result = client.run(server.address.endpoint, replace(load, seconds=seconds, warmup_seconds=0.0))
    after = times(server.pid)
    workers_s = _cpu_s(worker_pids) - workers_s
    us = 1e6 / result.answered
    shared = shared_out(sampler.stages_s, after.main_s - before.main_s)
    return {stage: spent_s * us for stage, spent_s in shared.items()} | {
        OTHERS: (after.others_s - before.others_s) * us,
        WORKER: workers_s * us,
    }


def _cpu_s(pids: list[int]) -> float:
    """What these processes have used so far, all threads together."""
    return sum(spent.main_s + spent.others_s for spent in map(times, pids))


def _stages() -> Iterator[str]:
    yield from (stage.name for stage in STAGES)
    yield from (LOOP, OTHERS, WORKER)


def table(columns: dict[str, dict[str, float]]) -> Table:
    """The stages as rows, and their sum."""
    title = "Processor time of a frame in µs, by streams x frames in flight"
    grid = terminal_table(title, ["stage"], list(columns))
    for stage in _stages():
        grid.add_row(stage, *(f"{column.get(stage, 0.0):.1f}" for column in columns.values()))
    grid.add_row("all", *(f"{sum(column.values()):.1f}" for column in columns.values()))
    return grid


@click.command()
@click.option("--seconds", type=click.FloatRange(1, 600), default=10.0, show_default=True, help="For each load.")
def profile(seconds: float) -> None:
    """Show where each microsecond of a frame goes."""
    console = Console()
    machine = look()
    console.print(f"{machine.cpu}, {machine.cores} cores, load average {machine.load_average_1m:.2f}")
    columns = {}
    try:
        client = load_client.build()
        with tempfile.TemporaryDirectory(prefix="duly-profile-") as folder:
            repository = Path(folder) / "models"
            servers.write_repository(repository, [servers.SMALL])
            with servers.duly(repository, Path(folder)) as server:
                for name, load in LOADS.items():
                    columns[name] = spent_us(client, server, load, seconds)
    except (ClientError, PeerError, ProfileError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    console.print(table(columns))
