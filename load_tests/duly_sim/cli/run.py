"""`duly-sim run`: runs a scenario under virtual time, with one policy or several, and says how they did."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from duly.core.events import Event
from duly.core.types import OutcomeStatus
from duly_load.cli.options import UsageError, make_folder
from duly_load.results.formats import write_json
from duly_load.scenario.parsing import ScenarioError
from duly_sim.scenario.simulated import Scenario, load_scenario
from duly_sim.simulator.engine import Policy, Run, simulate
from duly_sim.simulator.results import Results, measure
from duly_sim.simulator.world import World, build

COLUMNS_MAX = 400
"""The tables take what they need of this, about 80 columns; rich would cut off numbers to fit a narrower terminal."""
PROGRESS_STEPS = 1000
"""The progress is told about so many times for each policy."""

FILES = ("report.html", "results.json")

Entry = tuple[str, World, Run, Results]


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Everything random is from it.")
@click.option("--policy", "names", multiple=True, help="A policy to run, duly unless given; again for each.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for report.html and results.json."
)
def run(scenario: Path, seed: int, names: tuple[str, ...], out: Path | None) -> None:
    """Run SCENARIO, a TOML file, in the simulator."""
    try:
        loaded = load_scenario(scenario)
    except ScenarioError as error:
        raise UsageError(str(error)) from error
    policies = _policies(names or ("duly",))
    if out is not None:
        make_folder(out, FILES)
    outcomes, service = _tables(loaded, seed)
    entries: list[Entry] = []
    with _Progress(loaded, len(policies)) as progress:
        for name, policy in policies.items():
            world = build(loaded, seed)
            began_s = time.perf_counter()
            ran = progress.run(name, world, policy())
            wall_s = time.perf_counter() - began_s
            results = measure(world, ran)
            entries.append((name, world, ran, results))
            outcomes.add_row(name, *_outcomes(results))
            service.add_row(name, *_service(results, len(ran.frames) / wall_s))
    Console(width=COLUMNS_MAX).print(outcomes, service, sep="\n")
    if out is not None:
        _write(out, loaded, seed, entries)
        click.echo(f"written: {out / 'report.html'}, {out / 'results.json'}")


def _policies(names: tuple[str, ...]) -> dict[str, Callable[[], Policy]]:
    from duly_sim.baselines import POLICIES  # late: a scenario that is wrong is told first

    for name in names:
        if name not in POLICIES:
            raise UsageError(f"--policy: no policy is named {name!r}; should be one of {', '.join(POLICIES)}")
    return {name: POLICIES[name] for name in names}


class _Progress:
    """How much of all policies' virtual time is over, shown on standard error if that is a terminal."""

    def __init__(self, scenario: Scenario, policies: int) -> None:
        self._policy_ns = round(scenario.duration_s * 1e9)
        self._policies = policies
        self._begun = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[virtual]}"),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=2,  # drawing takes time from the simulation
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=self._policy_ns * policies, virtual="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def run(self, name: str, world: World, policy: Policy) -> Run:
        before_ns = self._policy_ns * self._begun
        self._begun += 1
        self._bar.update(self._task, description=f"{escape(name)}, policy {self._begun} of {self._policies}")
        next_ns = 0

        def record(now_ns: int, _: Event) -> None:
            nonlocal next_ns
            if now_ns >= next_ns:  # seldom, since all else here is paid at each step of the simulation
                next_ns = now_ns + self._policy_ns // PROGRESS_STEPS
                done_ns = before_ns + min(now_ns, self._policy_ns)  # what waits at the end is served yet
                virtual = f"{now_ns / 1e9:.1f} of {self._policy_ns / 1e9:.1f} s"
                self._bar.update(self._task, completed=done_ns, virtual=virtual)

        watch = None if self._bar.disable else record
        run = simulate(policy, world.script, world.frames, world.model_of, world.service, watch)
        self._bar.update(self._task, completed=before_ns + self._policy_ns)
        return run


def _tables(scenario: Scenario, seed: int) -> tuple[Table, Table]:
    """What became of the frames, and how well they were served; two, so that each fits 80 columns."""
    title = escape(f"{scenario.name}, seed {seed}")
    outcomes = _table(
        title, "on time\n%", "worst\n%", "goodput\n/s", "late", "expired", "shed", "super-\nseded", "other"
    )
    service = _table(
        f"{title}: service", "p50\nms", "p99\nms", "age p99\nms", "lanes\nbusy %", "wasted\n%", "wall\nframes/s"
    )
    service.add_column("worst stream", no_wrap=True)
    return outcomes, service


def _table(title: str, *headings: str) -> Table:
    """A column of names and, for each of `headings`, one of numbers."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _outcomes(results: Results) -> list[str]:
    told = (OutcomeStatus.LATE, OutcomeStatus.EXPIRED, OutcomeStatus.SHED, OutcomeStatus.SUPERSEDED)
    return [
        f"{100 * results.on_time_ratio:.2f}" if results.frames else "-",
        f"{100 * results.worst_on_time_ratio:.2f}" if results.frames else "-",
        f"{results.goodput_per_s:,.1f}",
        *(f"{results.counts[status.name]:,}" for status in told),
        f"{results.frames - sum(results.counts[status.name] for status in (OutcomeStatus.ON_TIME, *told)):,}",
    ]


def _service(results: Results, frames_per_s: float) -> list[str]:
    latency, age = results.latency_ms, results.age_ms
    return [
        "-" if latency is None else _ms(latency.p50),
        "-" if latency is None else _ms(latency.p99),
        "-" if age is None else _ms(age.p99),
        f"{100 * results.utilisation_mean:.1f}",
        f"{100 * results.wasted:.2f}",
        f"{frames_per_s:,.0f}",
        escape(results.worst_stream) or "-",
    ]


def _ms(time_ms: float) -> str:
    return f"{time_ms:,.2f}" if time_ms < 1000 else f"{time_ms:,.0f}"


def _write(out: Path, scenario: Scenario, seed: int, entries: list[Entry]) -> None:
    from duly_load.report.runs import write_runs  # late: it draws with plotly, which nothing else needs
    from duly_sim.report.view import view_of

    write_runs(out / "report.html", f"{scenario.name}, seed {seed}", [view_of(*entry) for entry in entries])
    policies = {name: results.to_json() for name, _, _, results in entries}
    told = {"scenario": scenario.name, "seed": seed, "policies": policies}
    write_json(out / "results.json", told)
