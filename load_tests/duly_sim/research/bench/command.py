"""`duly-sim bench`: what duly adds to the floors under it, measured on this machine.

Builds the load client, makes the models, starts duly and the null echo, measures, prints a table for each part and,
with `--out`, writes everything that was measured as JSON. Needs the packages of the server, `onnx` and a C++ compiler
with gRPC.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from duly_load.cli.progress import ProgressBar
from duly_load.report.terminal import terminal_table
from duly_load.results.formats import write_json
from duly_load.results.machine import look
from duly_load.targets.peer import PeerError
from duly_sim.research.bench import client as load_client
from duly_sim.research.bench import servers
from duly_sim.research.bench.client import ClientError
from duly_sim.research.bench.measurements import MEASUREMENTS
from duly_sim.research.bench.parts import FULL, QUICK, Effort, Part, Setup

BUSY_LOAD_PER_CORE = 0.3
"""A machine with more than this to do before the benchmark starts gives figures that are too high."""


def run(keys: list[str], effort: Effort, finished: Callable[[Part], None]) -> None:
    """Measures the parts named by `keys` and hands over each. Raises ClientError or PeerError; leaves no process
    behind.
    """
    steps = sum(MEASUREMENTS[key].steps(effort) for key in keys)
    with ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(steps + 1))
        bar.title("building the load client")
        client = load_client.build()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="duly-bench-")))
        repository = folder / "models"
        servers.write_repository(repository)
        bar.title("starting the servers")
        null_echo = stack.enter_context(servers.null_echo(folder))
        tuned_echo = stack.enter_context(servers.tuned_echo(folder))
        duly = stack.enter_context(servers.duly(repository, folder))

        done = count(1)

        def advance(step: str) -> None:
            bar.title(step)
            bar.at(next(done), "")

        setup = Setup(client, repository, duly, null_echo, tuned_echo, effort, advance)
        for key in keys:
            finished(MEASUREMENTS[key].measure(setup))


def table(part: Part) -> Table:
    """Each figure's smallest, median and largest round."""
    grid = terminal_table(part.title, ["figure"], ["min", "median", "max"])
    grid.add_column("unit")
    for row in part.rows:
        grid.add_row(row.label, *(_figure(f(row.values)) for f in (min, median, max)), row.unit)
    return grid


def _figure(value: float) -> str:
    """The figure as text, with fewer decimals the larger it is."""
    decimals = 3 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{decimals}f}"


def _keys(context: click.Context, option: click.Parameter, value: str) -> list[str]:
    asked = [key.strip() for key in value.split(",")]
    if unknown := [key for key in asked if key not in MEASUREMENTS]:
        raise click.BadParameter(
            f"{', '.join(unknown)}: should be among {', '.join(MEASUREMENTS)}, separated by commas"
        )
    return [key for key in MEASUREMENTS if key in asked]


@click.command()
@click.option(
    "--only",
    "keys",
    default=",".join(MEASUREMENTS),
    show_default=True,
    callback=_keys,
    help="Parts of it: added latency, throughput of single frames and of messages of several, the Python client, "
    "overload with large frames, idle streams, loads that alternate.",
)
@click.option("--quick", is_flag=True, help="Short runs: shows that it works, not how fast.")
@click.option(
    "--rounds", type=click.IntRange(1, 100), help=f"Alternating rounds of each part.  [default: {FULL.rounds}]"
)
@click.option("--out", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="JSON of all figures.")
def bench(keys: list[str], quick: bool, rounds: int | None, out: Path | None) -> None:
    """Measure duly on this machine against the floors under it."""
    console = Console()
    effort = QUICK if quick else FULL
    if rounds is not None:
        effort = replace(effort, rounds=rounds)
    machine = look()
    console.print(f"{machine.cpu}, {machine.cores} cores, load average {machine.load_average_1m:.2f}")
    if machine.load_average_1m > BUSY_LOAD_PER_CORE * machine.cores:
        console.print("This machine is busy with something else: figures will vary, and latencies be too high.")
    report: dict[str, Any] = {
        "machine": machine.to_json(),
        "unix_time": int(time.time()),
        "effort": asdict(effort),
        "parts": [],
    }

    def finished(part: Part) -> None:
        console.print(table(part))
        for note in part.notes:
            console.print(note, highlight=False)
        console.print()
        report["parts"].append(asdict(part))
        if out is not None:  # after each part: a failure in the next one loses nothing
            write_json(out, report)

    try:
        run(keys, effort, finished)
    except (ClientError, PeerError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
