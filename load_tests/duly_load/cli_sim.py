"""`duly-load sim`: runs a scenario under virtual time, with one policy or several, and says how they did."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from duly.core.types import OutcomeStatus
from duly_load.scenario import Scenario, ScenarioError, load_scenario
from duly_load.simulator.engine import Policy, Run
from duly_load.simulator.results import Results, measure
from duly_load.simulator.world import World, build

PIPE_COLUMNS = 160
"""Width of the table where standard output is no terminal."""

Entry = tuple[str, World, Run, Results]


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Everything random is from it.")
@click.option("--policy", "names", multiple=True, help="A policy to run, duly unless given; again for each.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for report.html and results.json."
)
def sim(scenario: Path, seed: int, names: tuple[str, ...], out: Path | None) -> None:
    """Run SCENARIO, a TOML file, in the simulator."""
    try:
        loaded = load_scenario(scenario)
    except ScenarioError as error:
        raise _Wrong(str(error)) from error
    policies = _policies(names or ("duly",))
    if out is not None:
        _make_folder(out)
    entries: list[Entry] = []
    table = _table(loaded, seed)
    progress = Console(stderr=True)
    for nth, (name, policy) in enumerate(policies.items(), start=1):
        with progress.status(f"{name}, policy {nth} of {len(policies)}: {loaded.duration_s:g} s of virtual time"):
            world = build(loaded, seed)
            began_s = time.perf_counter()
            run = world.run(policy())
            wall_s = time.perf_counter() - began_s
            results = measure(world, run)
        entries.append((name, world, run, results))
        table.add_row(name, *_cells(results), f"{len(run.frames) / wall_s:,.0f}")
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    console.print(table)
    if out is not None:
        _write(out, loaded, seed, entries)
        click.echo(f"written: {out / 'report.html'}, {out / 'results.json'}")


class _Wrong(click.ClickException):
    exit_code = 2


def _policies(names: tuple[str, ...]) -> dict[str, Callable[[], Policy]]:
    from duly_load.baselines import POLICIES  # late: a scenario that is wrong is told first

    for name in names:
        if name not in POLICIES:
            raise _Wrong(f"--policy: no policy is named {name!r}; should be one of {', '.join(POLICIES)}")
    return {name: POLICIES[name] for name in names}


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        # What can't be written is told before the work, not after it.
        for name in ("report.html", "results.json"):
            (out / name).touch()
    except OSError as error:
        raise _Wrong(f"--out: {error.filename} can't be written: {error.strerror}") from error


def _table(scenario: Scenario, seed: int) -> Table:
    table = Table(title=escape(f"{scenario.name}, seed {seed}"))
    table.add_column("policy", no_wrap=True)
    for heading in (
        "on time %",
        "late",
        "expired",
        "shed",
        "superseded",
        "other",
        "p50 ms",
        "p99 ms",
        "worst stream %",
        "wasted %",
        "utilisation %",
        "frames/s of wall time",
    ):
        table.add_column(heading, justify="right")
    return table


def _cells(results: Results) -> list[str]:
    latency = results.latency_ms
    told = (OutcomeStatus.LATE, OutcomeStatus.EXPIRED, OutcomeStatus.SHED, OutcomeStatus.SUPERSEDED)
    return [
        f"{results.on_time_ratio:.2%}"[:-1] if results.frames else "-",
        *(f"{results.counts[status.name]:,}" for status in told),
        f"{results.frames - sum(results.counts[status.name] for status in (OutcomeStatus.ON_TIME, *told)):,}",
        "-" if latency is None else f"{latency.p50:.2f}",
        "-" if latency is None else f"{latency.p99:.2f}",
        f"{escape(results.worst_stream)} {100 * results.worst_on_time_ratio:.1f}",
        f"{100 * results.wasted:.2f}",
        f"{100 * results.utilisation_mean:.1f}",
    ]


def _write(out: Path, scenario: Scenario, seed: int, entries: list[Entry]) -> None:
    from duly_load.report import html  # late: it draws with plotly, which nothing else needs

    html.write(out / "report.html", f"{scenario.name}, seed {seed}", list(entries))
    policies = {name: results.to_json() for name, _, _, results in entries}
    told = {"scenario": scenario.name, "seed": seed, "policies": policies}
    (out / "results.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
