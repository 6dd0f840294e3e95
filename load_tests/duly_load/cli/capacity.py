"""`duly-load capacity`: the largest load with 99 % of all frames on time, and how sure that is."""

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from duly_load.capacity import open_loop
from duly_load.capacity import page as report
from duly_load.capacity.search import CONFIDENCE, INTERRUPTED, Trial, Verdict
from duly_load.capacity.terms import TERMS, Capacity, Request, greatest, in_terms, measure, not_found
from duly_load.cli.options import Number, make_folder, writing
from duly_load.cli.progress import ProgressBar
from duly_load.cli.sending import following, sending_options, target_errors
from duly_load.generator.run import Sending
from duly_load.protocols.connection import TargetError
from duly_load.report.terminal import COLUMNS_MAX, table_of
from duly_load.results import machine
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import load_scenario
from duly_load.targets.opened import check_names, opened
from duly_load.targets.peer import PeerError

LINE = "{:<24} {:<11} {:>10} {:>8} {:>9}  {:>17}  {}"
"""The line that is printed for each trial."""


def _terms(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    terms = tuple(dict.fromkeys(value.split(",")))
    for term in terms:
        if term not in TERMS:
            raise click.BadParameter(f"{term!r} is none; should be one or more of {','.join(TERMS)}")
    return terms


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--target", "names", multiple=True, required=True, help="A peer or an address; again for each.")
@click.option(
    "--ratio", type=click.Choice(["0.99", "0.999"]), default="0.99", show_default=True, help="On time / sent."
)
@click.option("--terms", callback=_terms, default="streams", show_default=True, help=f"Of {','.join(TERMS)}.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Everything random is from it.")
@click.option("--seconds", type=Number(1, 3600), default=20.0, show_default=True, help="Of each trial, that count.")
@click.option(
    "--precision",
    type=Number(0.005, 1),
    default=0.05,
    show_default=True,
    help="How far apart the loads held and failed may be, as a share.",
)
@sending_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for report.html, JSON and CSV.")
def capacity(
    scenario: Path,
    names: tuple[str, ...],
    ratio: str,
    terms: tuple[str, ...],
    seed: int,
    seconds: float,
    precision: float,
    sending: Sending,
    out: Path | None,
) -> None:
    """Find the largest load of SCENARIO, a TOML file, that each target holds.

    \b
    streams  the scenario's streams at their fixed rates, and more of them
    server   their frames as a Poisson process, as in MLPerf's Server scenario

    Ctrl-C ends it early; what was found by then is shown and written.

    Exit status 0: all capacities were found. 1: a target failed, or there is no figure that can be believed.
    2: SCENARIO or an option is wrong.
    """
    with target_errors():
        source = str(scenario)
        steady = open_loop.steady(load_scenario(scenario), source, seconds)
        request = Request(steady, source, float(ratio), seed, seconds, precision, sending)
        for term in terms:
            in_terms(request, term)
        check_names(names, steady)
        if out is not None:
            make_folder(out, report.FILES)
        on = machine.look()
        with tempfile.TemporaryDirectory(prefix="duly-load-") as files, ProgressBar(steady.duration_s) as bar:
            found = _search_all(request, names, terms, Path(files), bar)
    sure = f"{100 * request.ratio:g} % on time, at a confidence of {100 * CONFIDENCE:g} %"
    click.echo(f"\n{steady.name}, frames/s with {sure}")
    Console(width=COLUMNS_MAX).print(*map(table_of, report.found_tables(found)), sep="\n")
    for each in found:
        if each.found.ended:
            click.echo(f"{each.target}, {each.term}: no figure: {each.found.ended}", err=True)
    if out is not None:
        with writing(out, report.FILES):
            report.write(out, request, on, found)
    if any(each.found.ended for each in found):
        sys.exit(1)


def _search_all(
    request: Request, names: Sequence[str], terms: Sequence[str], files: Path, bar: ProgressBar
) -> list[Capacity]:
    """One for each target and term. A target that fails, and Ctrl-C, leave what was found before as it is; what was not
    searched then says why.

    Raises ScenarioError where nothing was found before it.
    """
    found: list[Capacity] = []
    ended = ""
    _line("target", "terms", "load", "streams", "on time %", "between", "load is")
    for index, name in enumerate(names):
        if ended != INTERRUPTED:
            ended = _search_target(request, name, terms, files / str(index), bar, found)
        found += [not_found(request, name, term, ended) for term in terms[len(found) - index * len(terms) :]]
    return found


def _search_target(
    request: Request, name: str, terms: Sequence[str], folder: Path, bar: ProgressBar, found: list[Capacity]
) -> str:
    """One target at a time, so that no other takes the machine's time. Adds to `found`; returns why it ended early,
    empty where it did not.
    """
    try:
        folder.mkdir()
        with opened([name], greatest(request, terms), folder, bar.title) as (target,):
            for term in terms:
                bar.title(f"{name}, {term}")
                show = partial(_show_trial, name, term)
                found.append(measure(request, term, target, show, following(bar, request.scenario.duration_s)))
                if found[-1].found.ended == INTERRUPTED:
                    return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except (PeerError, TargetError) as error:
        return str(error)
    except ScenarioError as error:
        if not found:
            raise
        return str(error)
    return ""


def _show_trial(name: str, term: str, trial: Trial, verdict: Verdict | None) -> None:
    """A line for each trial, as it comes."""
    if verdict is None:
        between, word = "-", f"invalid: {'; '.join(trial.problems)}"
    else:
        known = verdict.estimate
        between = f"{100 * known.low:.2f}..{100 * known.high:.2f}"
        word = f"failed: {trial.refused}" if trial.refused else verdict.finding.value
    ratio = f"{100 * trial.counts.ratio:.2f}"
    _line(name, term, f"{trial.frames_per_s:,.1f}", f"{trial.streams:,}", ratio, between, word)


def _line(*cells: str) -> None:
    click.echo(LINE.format(*cells).rstrip())
