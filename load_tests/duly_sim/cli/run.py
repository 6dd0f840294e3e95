"""`duly-sim run`: runs a scenario under virtual time, with one policy or several, and says how they did."""

import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from duly.core.events import Event
from duly.core.types import OutcomeStatus
from duly_load.cli.options import UsageError, make_folder, writing
from duly_load.cli.progress import ProgressBar
from duly_load.report.runs import write_runs
from duly_load.report.terminal import COLUMNS_MAX, terminal_table
from duly_load.results.formats import write_json
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, load_scenario
from duly_sim.report.view import view_of
from duly_sim.simulator.engine import Policy, Run
from duly_sim.simulator.results import SimulatedResults, measure
from duly_sim.simulator.shadow import Shadowing, shadowed
from duly_sim.simulator.world import World, build

PROGRESS_STEPS = 1000
"""The number of times that progress is shown for each policy."""

FILES = ("results.json", "report.html")

Entry = tuple[str, World, Run, SimulatedResults]


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Everything random is from it.")
@click.option("--policy", "names", multiple=True, help="A policy to run, duly unless given; again for each.")
@click.option(
    "--shadow",
    type=click.FloatRange(0, 1),
    help="Also run copies of this share of the results in spare time, on a twin of each model; for duly alone.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for report.html and results.json."
)
def run(scenario: Path, seed: int, names: tuple[str, ...], shadow: float | None, out: Path | None) -> None:
    """Run SCENARIO, a TOML file, in the simulator."""
    try:
        loaded = load_scenario(scenario)
        loaded.to_simulate()  # it may be for live servers alone
    except ScenarioError as error:
        raise UsageError(str(error)) from error
    policies = _policies(names or ("duly",))
    if policies.keys() - {"duly"} and any(sensor.fusion for sensor in loaded.stream):
        raise UsageError("--policy: only duly joins the frames of several streams, which `fusion` asks for")
    if shadow is not None and policies.keys() != {"duly"}:
        raise UsageError("--shadow: only duly knows spare time; leave --policy out")
    if out is not None:
        make_folder(out, FILES)
    outcomes, service = _tables(loaded, seed)
    entries: list[Entry] = []
    copies: list[Shadowing] = []
    with ProgressBar(loaded.duration_s * len(policies)) as bar:
        for index, (name, policy) in enumerate(policies.items()):
            world, made = build(loaded, seed), policy()
            if shadow is not None:
                world, made = shadowed(world, made, shadow)
                copies.append(made)
            began_s = time.perf_counter()
            ran = _followed(bar, name, index, len(policies), world, made)
            wall_s = time.perf_counter() - began_s
            results = measure(world, ran)
            entries.append((name, world, ran, results))
            outcomes.add_row(name, *_outcomes(results))
            service.add_row(name, *_service(results, len(ran.frames) / wall_s))
    Console(width=COLUMNS_MAX).print(outcomes, service, sep="\n")
    for copied in copies:
        click.echo(f"shadow: {copied.ran:,} copies ran in spare time, {copied.dropped:,} found none")
    if out is not None:
        with writing(out, FILES):
            by_policy = {name: results.to_json() for name, _, _, results in entries}
            write_json(out / "results.json", {"scenario": loaded.name, "seed": seed, "policies": by_policy})
            write_runs(out / "report.html", f"{loaded.name}, seed {seed}", [view_of(*entry) for entry in entries])


def _policies(names: tuple[str, ...]) -> dict[str, Callable[[], Policy]]:
    from duly_sim.baselines import POLICIES  # late: a scenario that is wrong is reported first

    for name in names:
        if name not in POLICIES:
            raise UsageError(f"--policy: no policy is named {name!r}; should be one of {', '.join(POLICIES)}")
    return {name: POLICIES[name] for name in names}


def _followed(bar: ProgressBar, name: str, index: int, policies: int, world: World, policy: Policy) -> Run:
    """Runs the policy; the bar counts the virtual time of all policies."""
    duration_ns = round(world.scenario.duration_s * 1e9)
    bar.title(f"{name}, policy {index + 1} of {policies}")
    next_ns = 0

    def record(now_ns: int, _: Event) -> None:
        nonlocal next_ns
        if now_ns >= next_ns:  # seldom, since all else here is paid at each step of the simulation
            next_ns = now_ns + duration_ns // PROGRESS_STEPS
            done_ns = index * duration_ns + min(now_ns, duration_ns)  # what waits at the end is served yet
            bar.at(done_ns / 1e9, f"{now_ns / 1e9:.1f} of {duration_ns / 1e9:.1f} s")

    watch = record if bar.drawn else None
    run = world.run(policy, watch)
    bar.at((index + 1) * duration_ns / 1e9, f"{duration_ns / 1e9:.1f} of {duration_ns / 1e9:.1f} s")
    return run


def _tables(scenario: Scenario, seed: int) -> tuple[Table, Table]:
    """What became of the frames, and how well they were served; two, so that each fits 80 columns."""
    title = f"{scenario.name}, seed {seed}"
    numbers = ("on time\n%", "worst\n%", "goodput\n/s", "late", "expired", "shed", "super-\nseded", "other")
    outcomes = terminal_table(title, ["policy"], numbers)
    times = ("p50\nms", "p99\nms", "age p99\nms", "lanes\nbusy %", "wasted\n%", "wall\nframes/s")
    service = terminal_table(f"{title}: service", ["policy"], times)
    service.add_column("worst stream", no_wrap=True)
    return outcomes, service


def _outcomes(results: SimulatedResults) -> list[str]:
    shown = (OutcomeStatus.LATE, OutcomeStatus.EXPIRED, OutcomeStatus.SHED, OutcomeStatus.SUPERSEDED)
    return [
        f"{100 * results.on_time_ratio:.2f}" if results.frames else "-",
        f"{100 * results.worst_on_time_ratio:.2f}" if results.frames else "-",
        f"{results.goodput_per_s:,.1f}",
        *(f"{results.counts[status.name]:,}" for status in shown),
        f"{results.frames - sum(results.counts[status.name] for status in (OutcomeStatus.ON_TIME, *shown)):,}",
    ]


def _service(results: SimulatedResults, frames_per_s: float) -> list[str]:
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
