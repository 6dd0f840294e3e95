"""`duly-load run`: offers a scenario's load to a live server, open loop, and says what became of every frame."""

import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from duly_load.cli.options import Number, make_folder, writing
from duly_load.cli.progress import ProgressBar
from duly_load.cli.sending import following, sending_options, target_errors
from duly_load.generator.run import Offer, Sending
from duly_load.report.live import view_of
from duly_load.report.runs import write_runs
from duly_load.report.terminal import terminal_table
from duly_load.results.files import write_files
from duly_load.results.histogram import Percentiles
from duly_load.results.machine import Machine, look
from duly_load.results.measure import LiveResults, measure
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun
from duly_load.results.tally import Tally
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, changed, load_scenario
from duly_load.scenario.variations import scaled
from duly_load.targets.opened import check_names, offer_to, opened, settle
from duly_load.targets.target_machine import machine_of

COLUMNS = 100
FILES = ("results.json", "streams.csv", "timeline.csv", "frames.csv.gz", "report.html")


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--target", required=True, help="duly://HOST:PORT, kserve://HOST:PORT, unix:PATH, null:, or a peer's name."
)
@click.option("--load", default=1.0, show_default=True, type=Number(0, min_open=True), help="Times the scenario's.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Everything random is from it.")
@click.option("--seconds", type=Number(0, min_open=True), help="Duration in place of the scenario's.")
@sending_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for report.html, JSON and CSV.")
def run(
    scenario: Path,
    target: str,
    load: float,
    seed: int,
    seconds: float | None,
    sending: Sending,
    out: Path | None,
) -> None:
    """Offer the load of SCENARIO, a TOML file, to a live server.

    Exit status 0: the run is valid, whatever the server made of it. 1: it is invalid or failed. 2: SCENARIO or an
    option is wrong.
    """
    with target_errors():
        loaded = lasting(scaled(load_scenario(scenario), load, str(scenario)), seconds)
        check_names([target], loaded)
        if out is not None:
            make_folder(out, FILES)
        machine = look()
        with tempfile.TemporaryDirectory(prefix="duly-load-") as folder:
            ran, version = _run(loaded, target, Path(folder), seed, sending)
    results = measure(ran)
    Console(width=COLUMNS).print(*_tables(ran, results), sep="\n")
    click.echo(f"energy: {results.energy_words}")
    if out is not None:
        _write(out, ran, results, machine, version)
    for problem in results.problems:
        click.echo(f"INVALID: {problem}", err=True)
    sys.exit(1 if results.problems else 0)


def _run(scenario: Scenario, name: str, folder: Path, seed: int, sending: Sending) -> tuple[LiveRun, str]:
    """The run, and the target's version."""
    with ProgressBar(scenario.duration_s) as bar, opened([name], scenario, folder, bar.say) as (target,):
        bar.say(f"waiting until {name} is warm and idle")
        settle(target, scenario, seed)
        offer = Offer(scenario, seed, name, target.address, sending)
        bar.say(f"{scenario.name} to {name}, {scenario.duration_s:g} s")
        return offer_to(target, offer, following(bar, scenario.duration_s)), target.version


def lasting(scenario: Scenario, seconds: float | None) -> Scenario:
    """The first `seconds` of the scenario. Raises ScenarioError where its warm-up is longer, or it is shorter."""
    if seconds is None:
        return scenario
    if not scenario.warm_s < seconds <= scenario.duration_s:
        raise ScenarioError(
            f"--seconds: should be more than warm_s, which is {scenario.warm_s:g}, and at most duration_s, which is "
            f"{scenario.duration_s:g}, got {seconds:g}"
        )
    return changed(scenario, f"{scenario.name} with --seconds {seconds:g}", duration_s=seconds)


def _tables(ran: LiveRun, results: LiveResults) -> list[Table]:
    title = f"{ran.scenario.name}, seed {ran.seed}: {results.offered_per_s:,.1f} frames/s to {ran.target}"
    headings = ("frames", "on time\n%", "worst\nstream %", "goodput\n/s", "p50\nms", "p99\nms", "age p99\nms")
    outcomes = terminal_table(
        f"{'INVALID: ' if results.problems else ''}{title} for {results.seconds:g} s", [""], headings
    )
    outcomes.add_column("not on time", justify="right")
    outcomes.add_row("all", *_cells(results, results.worst_on_time_ratio))
    for name, tally in results.by_class.items() if len(results.by_class) > 1 else ():
        outcomes.add_row(name, *_cells(tally, None))
    tails = terminal_table("from capture or, of the harness, from the intended send (ms)", [""], _TAIL)
    tails.add_row("latency", *_tail(results.latency_ms))
    tails.add_row("the reason why not", *_tail(results.reason_ms))
    tails.add_row("lag of the harness", *_tail(results.lag_ms))
    tails.add_row("blocked by the target", *_tail(results.blocked_ms))
    return [outcomes, tails]


_TAIL = ("p50", "p90", "p99", "p99.9", "p99.99", "max")


def _cells(tally: Tally, worst: float | None) -> list[str]:
    latency, age = tally.latency_ms, tally.age_ms
    others = [
        f"{tally.counts[outcome.name]:,} {outcome.name.lower()}"
        for outcome in FrameOutcome
        if outcome is not FrameOutcome.ON_TIME and tally.counts[outcome.name]
    ]
    return [
        f"{tally.frames:,}",
        f"{100 * tally.on_time_ratio:.2f}",
        "" if worst is None else f"{100 * worst:.2f}",
        f"{tally.goodput_per_s:,.1f}",
        "-" if latency is None else f"{latency.p50:,.2f}",
        "-" if latency is None else f"{latency.p99:,.2f}",
        "-" if age is None else f"{age.p99:,.0f}",
        ", ".join(others) or "-",
    ]


def _tail(times_ms: Percentiles | None) -> list[str]:
    if times_ms is None:
        return ["-"] * len(_TAIL)
    parts = (times_ms.p50, times_ms.p90, times_ms.p99, times_ms.p99_9, times_ms.p99_99, times_ms.max)
    return [f"{part:,.3f}" for part in parts]


def _write(out: Path, ran: LiveRun, results: LiveResults, machine: Machine, version: str) -> None:
    facts = [("Target's machine", machine_of(ran.target)), *([("Version", version)] if version else [])]
    facts.append(("Energy", results.energy_words))
    title = f"{ran.scenario.name} on {ran.target}"
    with writing(out, FILES):
        left_out = write_files(out, ran, results, machine, machine_of(ran.target), version)
        view = view_of(ran.target, ran, results)
        write_runs(out / "report.html", title, [view], [*facts, *machine.facts()])
    for line in left_out:
        click.echo(line)
