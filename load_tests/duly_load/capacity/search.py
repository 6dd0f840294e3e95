"""The largest load that is held, as a function of a probe that offers one load once.

Theory of operation. On the assumption that more load is never easier, the load is doubled from a low one until a trial
fails, then the gap is bisected. A verdict on a load pools all its trials, each with a seed of its own: as long as the
bounds of its ratio lie on both sides of the rule's, one more is run, up to a bound; then the load stays undecided. So
what is found is an interval: the largest load shown to be held, which is the capacity that is given, and the smallest
shown to fail. Both ends are narrowed to the precision asked for, as far as the loads between are not undecided.

Each verdict may be wrong with a small probability; so many of them can be made that all are right at `CONFIDENCE`
(Bonferroni), however often the ratio was looked at on the way.

The load found is the luckiest of those tried, so it is offered again in fresh trials, which count by themselves:
LoadGen tests its candidate five times and takes less where one fails (MLPerf Inference Rules 0.5, "LoadGen Operation").
We take the fresh trials' common ratio, since at the very capacity single ones fall short half of the time. A load that
is not confirmed is never held again: it is undecided, or failed where all its trials together say so, and the search
goes on below it.

A trial that is invalid says nothing about the target and is repeated with another seed; when that does not help, the
search ends without a figure.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from duly_load.capacity.confidence import Counts, Estimate, Finding, Rule, estimate

CONFIDENCE = 0.95
"""The probability that the whole interval is right."""
LOADS_MAX = 24
TRIALS_MAX = 5
"""The most trials of one load before it stays undecided."""
INVALID_MAX = 3
"""Invalid trials of one load in a row that end the search."""
CONFIRMING = 3
"""The number of fresh trials of the load that was found."""
ERROR_MAX = (1 - CONFIDENCE) / (LOADS_MAX * (TRIALS_MAX + 1))
"""The largest error probability of one verdict: one after each trial, one more with trials that did not confirm."""
INTERRUPTED = "it was interrupted"
"""The reason of a search that Ctrl-C ended."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of one load."""

    load: float
    seed: int
    frames_per_s: float
    """The frames per second that were scheduled in the time that counts."""
    streams: int
    counts: Counts
    refused: str = ""
    """The target would not have this load at all, in its own words: it is failed, whatever the counts."""
    problems: tuple[str, ...] = ()
    """Why it is invalid; empty: it is valid."""


class NoTrial(Exception):
    """There can be no trial of the load, since it is more than a run can hold or the target is gone; says why. Raised
    by a probe, ends the search.
    """


Probe = Callable[[float, int], Trial]
"""A function of a load and a seed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all valid trials of one load say about it."""

    load: float
    finding: Finding
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Found:
    """How a search ended."""

    trials: tuple[Trial, ...]
    """All trials, in the order in which they ran."""
    verdicts: tuple[Verdict, ...]
    """The verdicts in order of load."""
    confirmation: Verdict | None
    """The verdict of fresh trials alone on the load held; None: the search ended without a figure."""
    ended: str
    """Why there is no figure; empty where there is one."""

    @property
    def held(self) -> Verdict | None:
        """The largest load shown to be held, below all that fail."""
        end = math.inf if self.failed is None else self.failed.load
        held = [verdict for verdict in self.verdicts if verdict.finding is Finding.HELD and verdict.load < end]
        return held[-1] if held else None

    @property
    def failed(self) -> Verdict | None:
        """The smallest load shown to fail."""
        return next((verdict for verdict in self.verdicts if verdict.finding is Finding.FAILED), None)

    def shown(self, verdict: Verdict) -> Trial:
        """A trial of that load, for its streams."""
        return next(trial for trial in self.trials if trial.load == verdict.load)

    def frames_per_s(self, verdict: Verdict) -> float:
        """What all trials of that load offered, in the mean."""
        offered = [trial.frames_per_s for trial in self.trials if trial.load == verdict.load]
        return sum(offered) / len(offered)


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a search looks."""

    first: float
    """The load from which it doubles."""
    least: float
    """The load below which it does not go."""
    most: float
    precision: float
    """The search ends when the load that failed is at most `1 + precision` times the load that is held."""

    def between(self, low: float, high: float) -> float | None:
        """A load between two, or None where they are close enough."""
        return math.sqrt(low * high) if high > low * (1 + self.precision) else None


def search(
    probe: Probe, rule: Rule, limits: Limits, seed: int, report: Callable[[Trial, Verdict | None], None] | None = None
) -> Found:
    """`report` is called with each trial and what is known of its load then, None where the trial is invalid.

    `rule.error_max` is that of a verdict: `ERROR_MAX`. Ctrl-C ends the search, which then says `INTERRUPTED`.
    """
    return _Search(probe, rule, limits, seed, report or (lambda trial, verdict: None)).run()


class _Ended(Exception):
    """There will be no figure; says why."""


@dataclass
class _Search:
    probe: Probe
    rule: Rule
    limits: Limits
    seed: int
    report: Callable[[Trial, Verdict | None], None]
    trials: list[Trial] = field(default_factory=list)
    pools: dict[float, list[Trial]] = field(default_factory=dict)
    """The valid trials of each load."""
    verdicts: dict[float, Verdict] = field(default_factory=dict)
    unconfirmed: set[float] = field(default_factory=set)
    """Loads that were held until fresh trials said otherwise."""

    def run(self) -> Found:
        confirmation, ended = None, ""
        try:
            self._double()
            while confirmation is None:
                self._narrow()
                confirmation = self._confirm()
        except _Ended as end:
            ended = str(end)
        except KeyboardInterrupt:
            ended = INTERRUPTED
        verdicts = tuple(verdict for _, verdict in sorted(self.verdicts.items()))
        return Found(tuple(self.trials), verdicts, confirmation, ended)

    def _double(self) -> None:
        load = self.limits.first
        while self._decide(load, 1).finding is not Finding.FAILED:
            if load >= self.limits.most:
                raise _Ended(f"no load failed, and {load:g} is the largest that is offered")
            load = min(2 * load, self.limits.most)

    def _narrow(self) -> None:
        while (load := self._next()) is not None:
            self._decide(load, TRIALS_MAX)

    def _next(self) -> float | None:
        """The load to decide on next; None: the interval is as narrow as asked for, or all between is undecided."""
        held = max(self._held, default=None)
        unsure = sorted(load for load in self.verdicts if (held is None or load > held) and load < self._failed)
        for load in reversed(unsure):
            if len(self.pools[load]) < TRIALS_MAX:
                return load  # doubling ran by it
        if held is None:
            return self._lower()
        lower = self.limits.between(held, unsure[0] if unsure else self._failed)
        return lower if lower is not None or not unsure else self.limits.between(unsure[-1], self._failed)

    def _lower(self) -> float:
        """A load lower than all that were tried, none of which is held."""
        least = self.verdicts[min(self.verdicts)]
        frames, needed = least.estimate.frames, self.rule.frames_min
        if least.finding is Finding.UNDECIDED and frames < needed:  # a lower load has still less of them
            raise _Ended(f"{frames} are too few to tell, {needed} are needed at least: give each trial more seconds")
        if least.load <= self.limits.least:
            raise _Ended(f"not even a load of {least.load:g} is held, {100 * least.estimate.ratio:.2f} % were on time")
        return max(least.load / 2, self.limits.least)

    @property
    def _failed(self) -> float:
        return min(load for load, verdict in self.verdicts.items() if verdict.finding is Finding.FAILED)

    @property
    def _held(self) -> list[float]:
        """The loads held, below all that fail."""
        held = [load for load, verdict in self.verdicts.items() if verdict.finding is Finding.HELD]
        return [load for load in held if load < self._failed]

    def _decide(self, load: float, trials_max: int) -> Verdict:
        if load not in self.pools and len(self.pools) >= LOADS_MAX:
            raise _Ended(f"{LOADS_MAX} loads were not enough; ask for less precision")
        pool = self.pools.setdefault(load, [])
        verdict = self.verdicts.get(load)
        while verdict is None or (verdict.finding is Finding.UNDECIDED and len(pool) < trials_max):
            pool.append(self._trial(load))
            verdict = self.verdicts[load] = self._pooled(load)
            self.report(pool[-1], verdict)
        return verdict

    def _verdict(self, load: float, trials: list[Trial]) -> Verdict:
        known = estimate([trial.counts for trial in trials], self.rule)
        refused = any(trial.refused for trial in trials)
        return Verdict(load, Finding.FAILED if refused else known.finding(self.rule), known)

    def _pooled(self, load: float) -> Verdict:
        """The verdict of all trials of the load."""
        verdict = self._verdict(load, self.pools[load])
        unsure = load in self.unconfirmed and verdict.finding is Finding.HELD
        return replace(verdict, finding=Finding.UNDECIDED) if unsure else verdict

    def _confirm(self) -> Verdict | None:
        """The verdict that confirms the load held; None: it was not confirmed, and is not held from now on."""
        load = max(self._held)
        trials: list[Trial] = []
        while len(trials) < CONFIRMING:
            trials.append(self._trial(load))
            self.report(trials[-1], self._verdict(load, trials))
        confirmation = self._verdict(load, trials)
        if confirmation.finding is not Finding.FAILED and confirmation.estimate.ratio >= self.rule.ratio:
            return confirmation
        self.unconfirmed.add(load)
        self.pools[load] += trials
        self.verdicts[load] = self._pooled(load)
        return None

    def _trial(self, load: float) -> Trial:
        """Runs trials until one is valid, and returns that. Raises _Ended where none of `INVALID_MAX` is."""
        problems: tuple[str, ...] = ()
        for _ in range(INVALID_MAX):
            seed = int(np.random.SeedSequence([self.seed, len(self.trials)]).generate_state(1)[0])
            try:
                trial = self.probe(load, seed)
            except NoTrial as error:
                raise _Ended(str(error)) from error
            self.trials.append(trial)
            if not trial.problems:
                return trial
            self.report(trial, None)
            problems = trial.problems
        raise _Ended(f"{INVALID_MAX} trials of load {load:g} were invalid, one after the other: {'; '.join(problems)}")
