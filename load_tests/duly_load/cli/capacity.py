"""`duly-load capacity`: the largest load with 99 % of all frames on time, and how sure that is."""

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from duly_load.capacity import open_loop
from duly_load.capacity import page as report
from duly_load.capacity.search import CONFIDENCE, INTERRUPTED, Trial, Verdict
from duly_load.capacity.terms import TERMS, Capacity, Request, greatest, in_terms, measure, not_found
from duly_load.cli.options import Number, UsageError, make_folder
from duly_load.cli.sending import sending_options
from duly_load.generator import run
from duly_load.generator.run import Sending
from duly_load.protocols.connection import TargetError
from duly_load.results import machine
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import load_scenario
from duly_load.targets.opened import TargetNameError, check_names, opened
from duly_load.targets.peer import PeerError

COLUMNS_MAX = 400
"""The tables take what they need of this, about 100 columns; rich would cut off numbers to fit a narrower terminal."""
LINE = "{:<24} {:<11} {:>10} {:>8} {:>9}  {:>17}  {}"
"""Of a trial, as it comes."""


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

    Ctrl-C ends it early; what was found by then is told, and written.

    Exit status 0: all capacities were found. 1: a target failed, or there is no figure that can be believed.
    2: SCENARIO or an option is wrong.
    """
    try:
        source = str(scenario)
        steady = open_loop.steady(load_scenario(scenario), source, seconds)
        request = Request(steady, source, float(ratio), seed, seconds, precision, sending)
        for term in terms:
            in_terms(request, term)
        check_names(names, steady)
        if out is not None:
            make_folder(out, report.FILES)
        on = machine.look()
        with ExitStack() as stack:
            files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="duly-load-")))
            shown = stack.enter_context(_Shown(request))
            found = _search_all(request, names, terms, files, shown)
    except (ScenarioError, TargetNameError) as error:
        raise UsageError(str(error)) from error
    except PeerError as error:
        raise click.ClickException(str(error)) from error
    Console(width=COLUMNS_MAX).print(_table(request, found))
    for each in found:
        if each.found.ended:
            click.echo(f"{each.target}, {each.term}: no figure: {each.found.ended}", err=True)
    if out is not None:
        _write(out, request, on, found)
    if any(each.found.ended for each in found):
        sys.exit(1)


def _search_all(
    request: Request, names: Sequence[str], terms: Sequence[str], files: Path, shown: "_Shown"
) -> list[Capacity]:
    """One for each target and term. A target that fails, and Ctrl-C, leave what was found before as it is; what was not
    searched then says why.

    Raises ScenarioError where nothing was found before it.
    """
    found: list[Capacity] = []
    ended = ""
    for nth, name in enumerate(names):
        if ended != INTERRUPTED:
            ended = _search_target(request, name, terms, files / str(nth), shown, found)
        found += [not_found(request, name, term, ended) for term in terms[len(found) - nth * len(terms) :]]
    return found


def _search_target(
    request: Request, name: str, terms: Sequence[str], folder: Path, shown: "_Shown", found: list[Capacity]
) -> str:
    """One target at a time, so that no other takes the machine's time. Adds to `found`; returns why it ended early,
    empty where it did not.
    """
    try:
        folder.mkdir()
        with opened([name], greatest(request, terms), folder, shown.say) as (target,):
            for term in terms:
                shown.begin(name, term)
                found.append(measure(request, term, target, shown.tell, shown.progress))
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


def _write(out: Path, request: Request, on: machine.Machine, found: Sequence[Capacity]) -> None:
    try:
        report.write(out, request, on, found)
    except OSError as error:
        raise click.ClickException(f"--out: {error.filename or out} can't be written: {error.strerror}") from error
    except ModuleNotFoundError as error:
        raise click.ClickException(f"--out: {out / 'report.html'} can't be drawn: {error}") from error
    click.echo("written: " + ", ".join(str(out / name) for name in report.FILES))


class _Shown:
    """The trials as they come, a line each, and how far the present one is, on standard error if that is a terminal."""

    def __init__(self, request: Request) -> None:
        self._duration_ns = round(request.scenario.duration_s * 1e9)
        self._console = Console(width=COLUMNS_MAX, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=2,  # drawing takes time from the generator
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=self._duration_ns, told="")
        self._name = self._term = ""

    def __enter__(self) -> "_Shown":
        self._bar.start()
        self._line("target", "terms", "load", "streams", "on time %", "between", "load is")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, what: str) -> None:
        self._bar.update(self._task, description=escape(what), completed=0, told="")

    def begin(self, name: str, term: str) -> None:
        self._name, self._term = name, term
        self.say(f"{name}, {term}")

    def progress(self, at: run.Progress) -> None:
        told = f"{at.sent:,} sent, {at.on_time:,} on time"
        self._bar.update(self._task, completed=max(0, min(at.at_ns, self._duration_ns)), told=told)

    def tell(self, trial: Trial, verdict: Verdict | None) -> None:
        if verdict is None:
            between, word = "-", f"invalid: {'; '.join(trial.problems)}"
        else:
            known = verdict.estimate
            between = f"{100 * known.low:.2f}..{100 * known.high:.2f}"
            word = f"failed: {trial.refused}" if trial.refused else verdict.finding.value
        ratio = f"{100 * trial.counts.ratio:.2f}"
        self._line(self._name, self._term, f"{trial.frames_per_s:,.1f}", f"{trial.streams:,}", ratio, between, word)

    def _line(self, *cells: str) -> None:
        self._console.print(escape(LINE.format(*cells)), soft_wrap=True)


def _table(request: Request, found: Sequence[Capacity]) -> Table:
    title = escape(
        f"{request.scenario.name}: {100 * request.ratio:g} % on time, at a confidence of {100 * CONFIDENCE:g} %"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("target", "terms"):
        table.add_column(heading, no_wrap=True)
    for heading in ("capacity", "fails at", "streams", "confirmed\n%", "trials"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        table.add_row(escape(each.target), each.term, *_cells(each))
    return table


def _cells(each: Capacity) -> list[str]:
    found = each.found
    held = "-" if found.held is None else f"{found.frames_per_s(found.held):,.1f} /s"
    failed = "-" if found.failed is None else f"{found.frames_per_s(found.failed):,.1f} /s"
    return [
        f"at least {held}" if found.ended and found.held is not None else held,
        failed,
        "-" if found.held is None else f"{found.shown(found.held).streams:,}",
        "-" if found.confirmation is None else f"{100 * found.confirmation.estimate.ratio:.2f}",
        f"{len(found.trials):,}",
    ]
