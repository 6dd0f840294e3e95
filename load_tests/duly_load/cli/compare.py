"""`duly-load compare`: one scenario against several targets in turn, and how far apart they are."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from duly_load.cli.options import Number, UsageError, make_folder, writing
from duly_load.cli.progress import ProgressBar
from duly_load.cli.run import lasting
from duly_load.cli.sending import following, sending_options, target_errors
from duly_load.compare import files as comparison_files
from duly_load.compare import tables as comparison_tables
from duly_load.compare.page import Detail, write_comparison
from duly_load.compare.rounds import Row, Turn, plan, rows
from duly_load.compare.run import RunResult, Targets, run_turn
from duly_load.generator.run import Offer, Sending
from duly_load.report.live import view_of
from duly_load.results.formats import write_json
from duly_load.results.machine import Machine, look
from duly_load.results.measure import measure
from duly_load.results.record import LiveRun
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, load_scenario
from duly_load.scenario.variations import scaled
from duly_load.targets.all_peers import PEERS
from duly_load.targets.opened import OpenTarget, TargetNameError, check_names
from duly_load.targets.peer import PeerError
from duly_load.targets.target_machine import machine_of

TARGETS_MAX = 16
LOADS_MAX = 64
FILES = ("results.json", "comparison.csv", "report.html")
"""The files in the order in which they are written: the figures are safe before the page is drawn."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What the user asked for, checked."""

    names: tuple[str, ...]
    scenario: Scenario
    by_load: Mapping[float, Scenario]
    rounds: int
    turns: tuple[Turn, ...]
    repeats: int
    machine: Machine
    """The generator's machine as it was before any load."""
    sending: Sending

    @property
    def detailed(self) -> list[float]:
        """The loads that the page shows in detail: the greatest at or below the scenario's own, else the least of all;
        and the greatest of all.
        """
        own = max((load for load in self.by_load if load <= 1), default=min(self.by_load))
        return sorted({own, max(self.by_load)})

    def of(self, turn: Turn, target: OpenTarget) -> Offer:
        """What the turn offers to its target."""
        scenario = self.by_load[turn.load]
        return Offer(scenario, turn.seed, target.name, target.address, self.sending)


@dataclass(slots=True)
class _Results:
    """The results so far."""

    results: list[RunResult] = field(default_factory=list)
    """The results in order of the turns."""
    runs: dict[tuple[float, int], LiveRun] = field(default_factory=dict)
    """By load and target, those to be shown in detail: the last valid run, since all frames of all rounds would take
    too much memory."""

    def rows(self) -> list[Row]:
        return rows([each.round_result for each in self.results])


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--target",
    "names",
    multiple=True,
    required=True,
    help="A peer, see `duly-load peers list`, or an address; again for each. Ratios are to the first.",
)
@click.option(
    "--load",
    "loads",
    multiple=True,
    type=Number(0, 1000, min_open=True),
    default=(1.0,),
    show_default=True,
    help="How many times the scenario's own load; again for each.",
)
@click.option(
    "--capacity",
    type=Number(0, 1e9, min_open=True),
    metavar="FRAMES_PER_S",
    help="Makes --load 1 this many frames a second in place of the scenario's own, as `duly-load capacity` finds it.",
)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--repeats", type=click.IntRange(0, 10), default=2, show_default=True, help="Of a run that is invalid.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first round; each adds 1."
)
@click.option("--seconds", type=Number(min=0, min_open=True), help="Duration in place of the scenario's.")
@sending_options
@click.option("--install", is_flag=True, help="Install peers that are not there, first.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help=f"Folder for {', '.join(FILES)}.")
def compare(
    scenario: Path,
    names: tuple[str, ...],
    loads: tuple[float, ...],
    capacity: float | None,
    rounds: int,
    repeats: int,
    seed: int,
    seconds: float | None,
    sending: Sending,
    install: bool,
    out: Path | None,
) -> None:
    """Run SCENARIO, a TOML file, against several targets in turn: A B C A B C, again at each load and in each round.

    Targets of a round get the same schedule. Ratios to the first target are made within rounds, and shown as their
    median and how far they lie apart. A run that is invalid is repeated; where it stays so, it is no figure.

    Exit status 0: every target has, at every load, a round in which both its run and that of the first are valid. 1:
    one has none, or a target failed. 2: what was typed, or SCENARIO, is wrong, or a peer is not installed. After Ctrl-C
    what there is is shown and written, marked as incomplete.
    """
    _check_lists(names, loads)
    with target_errors():
        loaded = _load(scenario, seconds)
        factor = 1.0 if capacity is None else capacity / loaded.frames_per_s
        by_load = {load: scaled(loaded, load * factor, str(scenario)) for load in sorted(set(loads))}
    if out is not None:
        make_folder(out, FILES)
    _check_targets(names, loaded, install)
    turns = plan(list(by_load), len(names), rounds, seed)
    request = _Request(names, loaded, by_load, rounds, turns, repeats, look(), sending)
    done = _Results()
    with target_errors():
        versions = _run_all(request, done)
    if done.results:
        _show(request, done)
        if out is not None:
            with writing(out, FILES):
                _write(out, request, done, versions)
    if len(done.results) < len(turns):
        click.echo(f"interrupted: {len(done.results)} of {len(turns)} turns were held", err=True)
        sys.exit(130)
    sys.exit(0 if all(row.pairs if row.target else row.valid for row in done.rows()) else 1)


# ---- before anything starts ----


def _check_lists(names: Sequence[str], loads: Sequence[float]) -> None:
    if not 2 <= len(names) <= TARGETS_MAX:
        raise UsageError(f"--target: should be there 2 to {TARGETS_MAX} times, is there {len(names)} times")
    if len(set(loads)) > LOADS_MAX:
        raise UsageError(f"--load: should be there up to {LOADS_MAX} times, is there {len(set(loads))} times")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(f"--target: should name each once, {name!r} is there more than once")


def _load(file: Path, seconds: float | None) -> Scenario:
    scenario = lasting(load_scenario(file), seconds)
    if scenario.serve.fault:
        raise ScenarioError(f"{file}: fault: should not be there, not every target of a comparison has such workers")
    return scenario


def _check_targets(names: Sequence[str], scenario: Scenario, install: bool) -> None:
    """Every problem of every target; peers that are not installed are installed if that is wanted."""
    missing: dict[str, str] = {}
    for name in names:
        try:
            check_names([name], scenario)
        except (TargetNameError, ScenarioError) as error:
            raise UsageError(f"--target: {error}") from error
        except PeerError as error:
            missing[name] = str(error)
    if missing and not install:
        raise UsageError("\n".join([*missing.values(), "or let compare do it: --install"]))
    for peer in missing:
        try:
            PEERS[peer].install(lambda line: click.echo(line, err=True))
        except PeerError as error:
            raise click.ClickException(str(error)) from error


# ---- the turns ----


def _run_all(request: _Request, done: _Results) -> dict[str, str]:
    """Runs the turns and adds each to `done`, until all are run or Ctrl-C is pressed. Returns targets' versions."""
    versions = dict.fromkeys(request.names, "")
    turn_s = request.scenario.duration_s
    with ProgressBar(turn_s * len(request.turns)) as bar, tempfile.TemporaryDirectory(prefix="duly-load-") as folder:
        try:
            with Targets(request.names, request.by_load[max(request.by_load)], Path(folder), bar.line) as targets:
                versions = targets.versions
                for index, turn in enumerate(request.turns):
                    name = request.names[turn.target]
                    bar.title(f"round {turn.round + 1} of {request.rounds}, load {turn.load:g}, {name}")
                    show = following(bar, turn_s, index * turn_s)
                    offer = partial(targets.run, name, partial(request.of, turn), show)
                    kept, run = run_turn(turn, name, offer, request.repeats, bar.line)
                    done.results.append(kept)
                    if run is not None and turn.load in request.detailed:
                        done.runs[turn.load, turn.target] = run
        except KeyboardInterrupt:
            bar.line("stopped the servers")
    return versions


# ---- what was found ----


def _title(request: _Request, kept: Sequence[RunResult]) -> str:
    title = f"{request.scenario.name}, seed {request.turns[0].seed}, {request.rounds} round{'s' * (request.rounds > 1)}"
    held, due = len(kept), len(request.turns)
    return title if held == due else f"{title}, INCOMPLETE: {held} of {due} turns were held"


def _show(request: _Request, done: _Results) -> None:
    found = done.rows()
    console = Console(width=comparison_tables.COLUMNS)
    console.print(comparison_tables.outcomes(_title(request, done.results), request.names, found))
    console.print(comparison_tables.ratios(request.names, found))
    for row in found:
        if not row.valid:
            reason = f"load {row.load:g}: {request.names[row.target]} has no figure: {row.spoiled[-1]}"
        elif row.target and not row.pairs:
            target, first = request.names[row.target], request.names[0]
            reason = f"load {row.load:g}: {target} has no round with a valid run of {first} too"
        else:
            continue
        console.print(reason, markup=False, highlight=False, soft_wrap=True)


def _write(out: Path, request: _Request, done: _Results, versions: Mapping[str, str]) -> None:
    found = done.rows()
    content = {
        "scenario": request.scenario.name,
        "complete": len(done.results) == len(request.turns),
        "seconds": request.scenario.duration_s,
        "rounds": request.rounds,
        "frames_per_s": {f"{load:g}": scenario.frames_per_s for load, scenario in request.by_load.items()},
        "targets": [{"name": name, "version": versions[name], "machine": machine_of(name)} for name in request.names],
        "generator_machine": request.machine.to_json(),
        "rows": [comparison_files.row_json(request.names, row) for row in found],
        "runs": [_run_json(request.names, each) for each in done.results],
    }
    write_json(out / "results.json", content)
    comparison_files.write_rows(out / "comparison.csv", request.names, found)
    _write_report(out / "report.html", request, done, versions)


def _run_json(names: Sequence[str], kept: RunResult) -> dict[str, Any]:
    turn = kept.round_result.turn
    content = {"round": turn.round, "load": turn.load, "target": names[turn.target], "seed": turn.seed}
    content |= {"valid": kept.round_result.figures is not None, "invalid": kept.round_result.spoiled}
    return content | {"results": kept.results.to_json() if kept.results else None}


def _write_report(file: Path, request: _Request, done: _Results, versions: Mapping[str, str]) -> None:
    names, seeds = request.names, (request.turns[0].seed, request.turns[-1].seed)
    shown = {
        load: [(names[index], done.runs[load, index]) for index in range(len(names)) if (load, index) in done.runs]
        for load in request.detailed
    }
    details = [Detail(load, [view_of(name, run, measure(run)) for name, run in of]) for load, of in shown.items() if of]
    facts = [("Rounds", str(request.rounds)), ("Seeds", f"{seeds[0]} to {seeds[1]}")]
    facts += [("Target", f"{name}: {versions[name]}" if versions[name] else name) for name in names]
    facts += [
        (f"In detail at {load:g}x", ", ".join(f"{name}, seed {run.seed}" for name, run in of))
        for load, of in shown.items()
        if of
    ]
    facts += [
        *request.machine.facts(),
        ("Targets' machines", ", ".join(f"{name}: {machine_of(name)}" for name in names)),
    ]
    write_comparison(file, _title(request, done.results), names, done.rows(), details, facts)
