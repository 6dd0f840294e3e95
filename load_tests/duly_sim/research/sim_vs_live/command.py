"""`duly-sim sim-vs-live`: do the same frames fare alike on a live server and in the simulator?"""

import math
import sys
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.table import Table

from duly.core.types import OutcomeStatus
from duly.telemetry import configure_logging
from duly_load.cli.options import UsageError
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, load_scenario
from duly_sim.research.sim_vs_live import both_worlds

STALLED_MAX = 0.1
"""The share of the time in which the machine may stand still."""


@click.command(name="sim-vs-live")
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Everything random is from it.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Duration in place of the scenario's.")
@click.option(
    "--lanes",
    type=click.Choice(["sleeping", "real"]),
    default="sleeping",
    show_default=True,
    help="sleeping: the server's lanes take the scenario's times; real: a small model runs, and its times are "
    "measured and simulated.",
)
@click.option(
    "--points",
    type=click.FloatRange(0, 100),
    default=2.0,
    show_default=True,
    help="On-time ratios may differ by this many hundredths.",
)
def sim_vs_live(scenario: Path, seed: int, seconds: float | None, lanes: str, points: float) -> None:
    """Run SCENARIO, a TOML file, on a live server and in the simulator.

    It is simulated as it stands ("simulated"), and with how long batches held their lanes and when the machine stood
    still ("informed").

    Exit status 0: live and informed agree. 1: they differ by more than --points, or the live run failed or is invalid,
    since the machine stood still for more than a tenth of the time. 2: SCENARIO is wrong.
    """
    try:
        loaded = _lasting(load_scenario(scenario), seconds)
        both_worlds.check(loaded, lanes == "real")
    except ScenarioError as error:
        raise UsageError(str(error)) from error
    configure_logging("auto", "error")
    try:
        with Console(stderr=True).status(f"{loaded.name}: {loaded.duration_s:g} s live"):
            found = uvloop.run((both_worlds.real if lanes == "real" else both_worlds.sleeping)(loaded, seed))
    except both_worlds.LiveRunError as error:
        raise click.ClickException(str(error)) from error
    console = Console()
    console.print(_table(f"{loaded.name}, seed {seed}, {lanes} lanes", found))
    click.echo(_times(found.measured))
    click.echo(
        f"the generator sent late by {found.lag_p50_ms:.2f} ms p50, {found.lag_p99_ms:.2f} ms p99, "
        f"{found.lag_max_ms:.2f} ms at most; the machine stood still for {found.stalled:.1%} of the time"
    )
    if found.stalled > STALLED_MAX:
        raise click.ClickException(
            f"the run is invalid: a machine that stands still for more than {STALLED_MAX:.0%} of the time says nothing "
            "about a server; try again when it is quiet"
        )
    agrees = abs(found.points) <= points
    click.echo(
        f"on-time ratio, live minus informed: {found.points:+.2f} points, {'within' if agrees else 'beyond'} {points:g}"
    )
    sys.exit(0 if agrees else 1)


def _lasting(scenario: Scenario, seconds: float | None) -> Scenario:
    if seconds is None:
        return scenario
    if seconds <= scenario.warm_s:
        raise UsageError(f"--seconds: should be more than warm_s, which is {scenario.warm_s:g}, got {seconds:g}")
    if seconds > scenario.duration_s:
        raise UsageError(f"--seconds: should be at most duration_s, which is {scenario.duration_s:g}, got {seconds:g}")
    return scenario.model_copy(update={"duration_s": seconds})


def _table(title: str, found: both_worlds.SimVsLive) -> Table:
    table = Table(title=title)
    table.add_column("")
    for heading in ("live", "simulated", "difference", "informed", "difference"):
        table.add_column(heading, justify="right")
    sides = (found.live, found.simulated, found.informed)
    table.add_row("frames", *_row([side.frames for side in sides], "{:,}"))
    table.add_row("on time %", *_row([100 * side.on_time_ratio for side in sides], "{:.2f}"))
    table.add_row("worst stream %", *_row([100 * side.worst_on_time_ratio for side in sides], "{:.2f}"))
    for status in OutcomeStatus:
        counts = [side.counts[status.name] for side in sides]
        if any(counts):
            table.add_row(status.name, *_row(counts, "{:,}"))
    latencies = [side.latency_ms for side in sides]
    table.add_row("latency p50 ms", *_row([math.nan if each is None else each.p50 for each in latencies], "{:.2f}"))
    table.add_row("latency p99 ms", *_row([math.nan if each is None else each.p99 for each in latencies], "{:.2f}"))
    table.add_row("frames a batch", *_row([side.batch_size_mean for side in sides], "{:.2f}"))
    return table


def _row(values: list[int] | list[float], form: str) -> list[str]:
    live, simulated, informed = values
    signed = form.replace("{:", "{:+")
    cells = [(form, live), (form, simulated), (signed, live - simulated), (form, informed), (signed, live - informed)]
    return ["-" if math.isnan(value) else how.format(value) for how, value in cells]


def _times(measured: Scenario) -> str:
    """How long batches held their lanes."""
    lines = []
    given = measured.to_simulate()
    for model in given.model:
        times = ", ".join(f"{size}: {ms:.1f}" for size, ms in (model.variants[0].times_ms or {}).items())
        lines.append(f"{model.name}: ms by batch size {times}; scatter {given.noise.cv:.2f}")
    return "\n".join(lines)
