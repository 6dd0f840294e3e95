"""`duly-load soak`: hours of load with clients that misbehave, and whether the server holds."""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from duly.addresses import split_host_port
from duly_load.cli.options import Number, UsageError, make_folder, writing
from duly_load.cli.progress import ProgressBar
from duly_load.cli.sending import sending_options, target_errors
from duly_load.generator.run import Sending
from duly_load.report.terminal import table_of
from duly_load.results.machine import Machine, look
from duly_load.scenario.scenario import Scenario, load_scenario
from duly_load.soak import page
from duly_load.soak.crowd import Rudeness
from duly_load.soak.phases import Phase
from duly_load.soak.record import Log, SliceResult, Soak, write_samples
from duly_load.soak.run import SoakPlan, SoakProgress
from duly_load.soak.run import soak as run_soak
from duly_load.soak.verdict import MIB, Holds, Judgement, at_both_ends, judge
from duly_load.targets.opened import OpenTarget, check_names, opened, settle

COLUMNS_MAX = 120
FILES = ("soak.jsonl", "soak.csv", "soak.html")
SLOW_READERS, VANISH_PER_MINUTE = 2, 4.0
"""The defaults of the options."""
HOURS_MAX = 24.0 * 14


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="A peer, see `duly-load peers list`, or an address.")
@click.option("--hours", type=Number(0, HOURS_MAX, min_open=True), help="How long.  [default: 1]")
@click.option("--minutes", type=Number(0, 60 * HOURS_MAX, min_open=True), help="In place of --hours.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the first slice; each adds 1."
)
@click.option(
    "--slow-readers",
    type=click.IntRange(0, 256),
    help=f"Streams that send at their rate and read one outcome each 200 ms; duly only.  [default: {SLOW_READERS}]",
)
@click.option(
    "--vanish-per-minute",
    type=Number(0, 60),
    help=f"Clients that are killed while they send.  [default: {VANISH_PER_MINUTE:g}]",
)
@click.option("--churn/--no-churn", default=True, show_default=True, help="Clients that come and go and give up.")
@click.option("--pid", type=click.IntRange(min=1), help="Of a server on this machine that runs already.")
@click.option("--metrics", metavar="HOST:PORT", help="Where the server has its metrics for Prometheus: its loop's lag.")
@sending_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help=f"Folder for {', '.join(FILES)}.")
def soak(
    scenario: Path,
    target: str,
    hours: float | None,
    minutes: float | None,
    seed: int,
    slow_readers: int | None,
    vanish_per_minute: float | None,
    churn: bool,
    pid: int | None,
    metrics: str | None,
    sending: Sending,
    out: Path | None,
) -> None:
    """Offer SCENARIO, a TOML file, again and again while other clients misbehave, and see what the server holds.

    Slices take turns: a busy one is a pass of the scenario, an idle one some seconds of nothing, a single one a pass of
    one stream of its first sensor. Each has a seed of its own. Memory, descriptors and threads are watched, and how
    late the server's event loop is; what is seen is appended to soak.jsonl at once. Ctrl-C ends it with a verdict on
    what there is.

    Exit status 0: the server holds, as far as could be seen. 1: it leaks, loses or fails frames or streams, serves less
    than it did at first, or ended; or nobody can say. 2: what was typed, or SCENARIO, is wrong.
    """
    duration_s = _duration_s(hours, minutes)
    with target_errors():
        loaded = load_scenario(scenario)
        check_names([target], loaded)
        if out is not None:
            make_folder(out, FILES)
        log = Log(out and out / "soak.jsonl")
        url = _metrics_url(metrics)
        machine = look()
        with log, tempfile.TemporaryDirectory(prefix="duly-load-") as folder, ProgressBar(duration_s) as bar:
            with opened([target], loaded, Path(folder), bar.say) as (found,):
                rudeness = _rudeness(found, slow_readers, vanish_per_minute, churn)
                plan = SoakPlan(loaded, seed, duration_s, rudeness, pid, url, sending)
                log.begin(_facts(plan, found, machine))
                bar.say(f"waiting until {target} is warm and idle")
                settle(found, loaded, seed)
                done = run_soak(plan, found, log, _shown_on(bar))
            judged = judge(done)
            log.verdict(judged.to_json())
    if done.interrupted and not done.slices:
        raise click.Abort
    _show(loaded, target, done, judged)
    if out is not None:
        with writing(out, FILES):
            _write_files(out, plan, found, machine, done, judged)
    sys.exit(0 if judged.holds is Holds.YES else 1)


# ---- before anything starts ----


def _duration_s(hours: float | None, minutes: float | None) -> float:
    if hours is not None and minutes is not None:
        raise UsageError("--hours, --minutes: give one of the two")
    return 60 * minutes if minutes is not None else 3600 * (1.0 if hours is None else hours)


def _metrics_url(metrics: str | None) -> str | None:
    if metrics is None:
        return None
    try:
        split_host_port(metrics)
    except ValueError as error:
        raise UsageError(f"--metrics: {metrics!r}: {error}") from error
    return f"http://{metrics}/metrics"


def _rudeness(target: OpenTarget, slow_readers: int | None, vanish_per_minute: float | None, churn: bool) -> Rudeness:
    address = target.address
    if slow_readers and address.protocol != "duly":
        raise UsageError(f"--slow-readers: speak duly's own protocol, {target.name} does not; leave it out")
    if vanish_per_minute and address.protocol == "null":
        raise UsageError(f"--vanish-per-minute: there is nothing to vanish from in {target.name}; leave it out")
    if slow_readers is None:
        slow_readers = SLOW_READERS if address.protocol == "duly" else 0
    if vanish_per_minute is None:
        vanish_per_minute = VANISH_PER_MINUTE if address.protocol != "null" else 0.0
    return Rudeness(slow_readers, vanish_per_minute, churn and address.protocol != "null")


# ---- while it runs ----


def _shown_on(bar: ProgressBar) -> Callable[[SoakProgress], None]:
    """Shows how far the soak is: on the bar where it is drawn, else by a line for each slice."""
    shown = -1

    def show(at: SoakProgress) -> None:
        nonlocal shown
        last, usage = at.last, at.sample.server if at.sample else None
        text = f"slice {at.slice + 1}, {at.phase}"
        if last is not None:
            text += f", last ({last.phase}) {_outcome(last)}"
        if usage is not None:
            text += f", {usage.rss_bytes / MIB:,.0f} MiB, {usage.descriptors} descriptors, {usage.threads} threads"
        if at.slice != shown and not bar.drawn:
            bar.line(f"{at.at_s / 60:.1f} min: {text}")
            shown = at.slice
        bar.title(text)
        bar.at(at.at_s, "")

    return show


def _outcome(last: SliceResult) -> str:
    if last.phase is Phase.IDLE:
        return "over"
    on_time = "invalid" if last.problems else f"{last.on_time_ratio:.2%} on time"
    return f"{on_time}, {last.unanswered:,} unanswered"


# ---- afterwards ----


def _facts(plan: SoakPlan, target: OpenTarget, machine: Machine) -> dict[str, Any]:
    rudeness = plan.rudeness
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "scenario": plan.scenario.name,
        "seed": plan.seed,
        "duration_s": plan.duration_s,
        "target": target.name,
        "version": target.version,
        "slow_readers": rudeness.slow_readers,
        "vanish_per_minute": rudeness.vanish_per_minute,
        "churn": rudeness.churn,
        "machine": machine.to_json(),
    }


def _show(scenario: Scenario, target: str, done: Soak, judged: Judgement) -> None:
    console = Console(width=COLUMNS_MAX)
    if judged.growth:
        title = f"{scenario.name} on {target}: growth in busy slices after the warm-up, memory in MiB"
        console.print(table_of(replace(page.growth_table(judged), heading=title)))
    for phase in (Phase.BUSY, Phase.SINGLE):
        if valid := done.valid_in(phase):
            ratios = [result.on_time_ratio for result in valid]
            frames = sum(result.frames for result in valid)
            click.echo(
                f"{phase}: {len(valid):,} valid slices of {len(done.in_phase(phase)):,}, {frames:,} frames: "
                f"{sum(ratios) / len(ratios):.2%} on time, {min(ratios):.2%} in the worst slice"
            )
    if judged.decline:
        click.echo(f"busy slices: {at_both_ends(judged.decline)}")
    for kind, counts in done.crowd.items():
        click.echo(f"{kind}: {', '.join(f'{times:,} {name}' for name, times in counts.items()) or 'did nothing yet'}")
    for note in judged.notes:
        click.echo(f"note: {note}")
    for reason in judged.against:
        click.echo(f"AGAINST IT: {reason}")
    for doubt in judged.doubts:
        click.echo(f"DOUBT: {doubt}")
    click.echo(f"verdict: {judged.holds}")


def _slices(plan: SoakPlan, done: Soak) -> str:
    lasting_s = {phase: plan.idle_s if phase is Phase.IDLE else plan.scenario.duration_s for phase in Phase}
    return ", ".join(f"{len(done.in_phase(phase))} {phase} of {lasting_s[phase]:g} s" for phase in Phase) + ", in turn"


def _write_files(
    out: Path, plan: SoakPlan, target: OpenTarget, machine: Machine, done: Soak, judged: Judgement
) -> None:
    rudeness = plan.rudeness
    facts = [
        ("Scenario", plan.scenario.name),
        ("Seed", str(plan.seed)),
        ("Target", f"{target.name} {target.version}".strip()),
        ("Slices", _slices(plan, done)),
        ("Slow readers", str(rudeness.slow_readers)),
        ("Vanishing clients a minute", f"{rudeness.vanish_per_minute:g}"),
        ("Churners", "yes" if rudeness.churn else "no"),
        *machine.facts(),
    ]
    write_samples(out / "soak.csv", done.samples)
    page.write(out / "soak.html", f"{plan.scenario.name} on {target.name}: soak", facts, done, judged)
