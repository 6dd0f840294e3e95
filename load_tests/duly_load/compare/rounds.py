"""The plan of a comparison, and what its rounds amount to. Pure: nothing here runs, waits or reads a clock.

Theory of operation. A round offers each load to every target in turn, A B C A B C, and all targets of a round get the
same schedule, from one seed. What a machine does slowly, a busy neighbour or heat, so falls on the targets of a round
alike and leaves their ratios as they are; therefore ratios are made within rounds and never of two means. Each round
has a seed of its own, so that one lucky schedule does not decide, and begins with another target, so that nobody always
comes first. With as many rounds as targets, each has had each place once.

What is said of the rounds is their median and how far they lie apart, least to greatest: a handful of rounds says no
more than that, and a spread that holds 1 means that no difference was shown.

A run that its own generator or machine spoiled is no figure at all: it is repeated, and where it stays invalid the
round has no pair there.

Source: pairs within blocks against drift are R. A. Fisher's, The Design of Experiments (1935); that figures of one
machine minutes apart differ by more than most improvements, and what to do about it, is in Kalibera and Jones,
Rigorous Benchmarking in Reasonable Time (ISMM 2013).
Out of scope: who came right before whom is the same in most rounds; that a target starts idle is left to settling it.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from duly_load.results.measure import LiveResults
from duly_load.results.outcomes import FrameOutcome

Figures = Mapping[str, float | None]
"""Figures by name, see FIGURES and OUTCOMES; None: the run has no such figure."""

FIGURES = {
    "offered_per_s": "frames that were to be sent, a second; the same for all targets of a round",
    "on_time_ratio": "on-time frames of all that were to be sent",
    "goodput_per_s": "on-time frames a second",
    "p50_ms": "median latency from capture, of frames that got a result",
    "p99_ms": "99th percentile of the same",
    "worst_stream_ratio": "on-time ratio of the stream that fared worst",
    "cpu_us_per_frame": "CPU time of the server's processes for each frame that was sent to it",
}
"""The figures by which targets are compared: name and meaning."""
OUTCOMES = {f"{outcome.name.lower()}_ratio": outcome for outcome in FrameOutcome if outcome is not FrameOutcome.ON_TIME}
"""What became of frames that were not on time, as shares of all that were to be sent: name, outcome."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One run that is due."""

    round: int
    """The round, counted from 0."""
    load: float
    target: int
    """Its place in what the user named; the first is what the others are measured by."""
    seed: int


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What one turn of a round came to."""

    turn: Turn
    figures: Figures | None
    """The figures of its valid run; None: no run of it was valid."""
    spoiled: tuple[str, ...] = ()
    """Why each invalid run of it was so, in order; it was repeated after each but the last."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How one figure varies over the rounds that have it."""

    least: float
    median: float
    greatest: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Row:
    """One target at one load."""

    load: float
    target: int
    figures: Mapping[str, Spread | None]
    """The spread of each figure of FIGURES and OUTCOMES; None: no round has it."""
    ratios: Mapping[str, Spread | None]
    """The spread of each ratio to the first target; None: no round has a pair, or this is the first target."""
    held: int
    """The number of rounds that had their turn."""
    valid: int
    """The number of rounds with a valid run."""
    pairs: int
    """Rounds in which the first target had one too; 0: it is the first."""
    spoiled: tuple[str, ...]
    """The reasons why runs were invalid, including those that were repeated."""


def figures_of(results: LiveResults) -> Figures:
    """FIGURES and OUTCOMES of one valid run."""
    latency_ms = results.latency_ms
    return {
        "offered_per_s": results.offered_per_s,
        "on_time_ratio": results.on_time_ratio,
        "goodput_per_s": results.goodput_per_s,
        "p50_ms": latency_ms.p50 if latency_ms else None,
        "p99_ms": latency_ms.p99 if latency_ms else None,
        "worst_stream_ratio": results.worst_on_time_ratio,
        "cpu_us_per_frame": results.server_cpu_us_per_frame,
        **{name: results.counts[outcome.name] / max(1, results.frames) for name, outcome in OUTCOMES.items()},
    }


def plan(loads: Sequence[float], targets: int, rounds: int, seed: int) -> tuple[Turn, ...]:
    """All turns in order. Round r has the seed `seed` + r and begins with target r, modulo `targets`."""
    return tuple(
        Turn(index, load, (index + place) % targets, seed + index)
        for index in range(rounds)
        for load in loads
        for place in range(targets)
    )


def rows(held: Sequence[RoundResult]) -> list[Row]:
    """A row for each load and target that had a turn, in that order."""
    places = sorted({(each.turn.load, each.turn.target) for each in held})
    return [_row(load, target, held) for load, target in places]


def _row(load: float, target: int, held: Sequence[RoundResult]) -> Row:
    own = {each.turn.round: each for each in held if (each.turn.load, each.turn.target) == (load, target)}
    first = {each.turn.round: each for each in held if (each.turn.load, each.turn.target) == (load, 0)}
    valid = {index: each.figures for index, each in own.items() if each.figures is not None}
    firsts = {index: each.figures for index, each in first.items() if each.figures is not None}
    pairs = [(valid[index], firsts[index]) for index in valid if index in firsts] if target else []
    return Row(
        load,
        target,
        {name: spread([figures.get(name) for figures in valid.values()]) for name in (*FIGURES, *OUTCOMES)},
        {name: spread([ratio(figures.get(name), by.get(name)) for figures, by in pairs]) for name in FIGURES},
        len(own),
        len(valid),
        len(pairs),
        tuple(reason for each in own.values() for reason in each.spoiled),
    )


def spread(values: Sequence[float | None]) -> Spread | None:
    """The spread of the values that are not None; None: all are."""
    found = [value for value in values if value is not None]
    return Spread(min(found), statistics.median(found), max(found), len(found)) if found else None


def ratio(value: float | None, by: float | None) -> float | None:
    """Infinite where `by` is 0 and `value` is not; None where one is not there, or both are 0 and so say nothing."""
    if value is None or by is None or not (value or by):
        return None
    return value / by if by else math.inf
