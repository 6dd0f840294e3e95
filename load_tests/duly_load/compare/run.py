"""Runs the turns of a comparison: settles the target, offers the load, and again where the run was invalid.

All other servers are idle meanwhile: one that still works on what it was offered in its turn is waited for, or stopped.
A server that died is started again before its next run, which the user is shown; what it did not survive was an invalid
run.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from duly_load.compare.rounds import RoundResult, Turn, figures_of
from duly_load.generator.run import Offer, Progress
from duly_load.protocols.connection import TargetError
from duly_load.results.measure import LiveResults, measure
from duly_load.results.record import LiveRun
from duly_load.scenario.scenario import Scenario
from duly_load.targets.opened import OpenTarget, offer_to, opened, settle
from duly_load.targets.peer import PeerError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a turn came to, and all figures of its last run."""

    round_result: RoundResult
    results: LiveResults | None
    """The figures, with their problems where no run was valid; None: the last did not even begin."""


class Targets:
    """The targets of a comparison, open until the block is left. `scenario`: at the greatest load that they must hold.
    `folder` takes the servers' files.

    Entering raises what `duly_load.targets.opened.opened` does, and TargetError where a target does not answer.
    """

    def __init__(self, names: Sequence[str], scenario: Scenario, folder: Path, say: Say) -> None:
        self._names = tuple(names)
        self._scenario = scenario
        self._folder = folder
        self._say = say
        self._running: dict[str, ExitStack] = {}
        self._open: dict[str, OpenTarget] = {}
        self._starts = 0
        self._loaded: str | None = None
        """The target that was put under load last."""

    def __enter__(self) -> Self:
        try:
            for name in self._names:
                self._start(name)
            for target in self._open.values():
                self._say(f"settling {target.name}")
                settle(target, self._scenario, seed=0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as ending:  # each is stopped, even where stopping another fails
            for running in self._running.values():
                ending.push(running)

    @property
    def versions(self) -> dict[str, str]:
        """The version of each target, in the order of the user; empty where a target does not report one."""
        return {name: self._open[name].version for name in self._names}

    def run(
        self, name: str, ask: Callable[[OpenTarget], Offer], progress: Callable[[Progress], None] | None = None
    ) -> LiveRun:
        """What the target `name` makes of what `ask` says it is to be offered. It is warm and idle before; a server
        that has died is started again. Raises TargetError, PeerError, and ScenarioError where the payloads are not what
        the target takes.
        """
        if self._loaded is not None:
            self._let_finish(self._open[self._loaded])
        target = self._alive(name)
        asked = ask(target)
        settle(target, asked.scenario, asked.seed)
        self._loaded = name
        return offer_to(target, asked, progress)

    def _let_finish(self, target: OpenTarget) -> None:
        """What it was offered last and has not answered yet would take processor time from the target that comes next:
        some servers work on for a minute after their clients have gone.
        """
        if target.server is not None and target.server.died():
            return
        try:
            settle(target, self._scenario, seed=0)
        except TargetError as error:
            if target.server is None:
                self._say(f"{target.name} does not answer as it does when idle: {error}")
            else:
                self._say(f"{target.name} is stopped, since it goes on with what came before: {error}")
                self._stop(target.name)

    def _alive(self, name: str) -> OpenTarget:
        server = self._open[name].server
        if server is not None and name in self._running and (died := server.died()):
            self._say(f"{name} is started again: {died}")
            self._stop(name)
        if name not in self._running:
            self._start(name)
        return self._open[name]

    def _stop(self, name: str) -> None:
        self._running.pop(name).close()

    def _start(self, name: str) -> None:
        self._starts += 1
        folder = self._folder / str(self._starts)
        folder.mkdir()
        with ExitStack() as starting:
            (self._open[name],) = starting.enter_context(opened([name], self._scenario, folder, self._say))
            self._running[name] = starting.pop_all()


def run_turn(
    turn: Turn, name: str, run: Callable[[], LiveRun], repeats: int, say: Say
) -> tuple[RunResult, LiveRun | None]:
    """Runs the turn of the target `name`; returns its valid run too, if there is one. `run` makes one run; one that is
    invalid, or raises TargetError or PeerError, is repeated up to `repeats` times, from the same seed. `say` is called
    for each that was.
    """
    spoiled: list[str] = []
    results = None
    while len(spoiled) <= repeats:
        try:
            ran = run()
        except (TargetError, PeerError) as error:
            results, reasons = None, str(error)
        else:
            results = measure(ran)
            if not results.problems:
                return RunResult(RoundResult(turn, figures_of(results), tuple(spoiled)), results), ran
            reasons = "; ".join(results.problems)
        spoiled.append(reasons)
        then = "runs again" if len(spoiled) <= repeats else "has no figure"
        say(f"round {turn.round + 1}, load {turn.load:g}: {name} {then}, the run was invalid: {reasons}")
    return RunResult(RoundResult(turn, None, tuple(spoiled)), results), None
