"""The report on a comparison: what targets make of one scenario as its load grows, as one HTML file that opens offline.

Invalid runs are left out of every number and picture, and told of at the top.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duly_load.live_results import LiveResults
from duly_load.report.figures import against_load
from duly_load.report.layout import log_ticks
from duly_load.report.page import Column, Picture, Table, Verdict, render

REASONS_MAX = 40
"""Reasons why runs are invalid that are told in full."""
LOAD = "offered load (times the scenario's own)"


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a target at a load; one round of several."""

    target: str
    load: float
    """What the scenario's own load was multiplied by."""
    results: LiveResults


@dataclass(frozen=True, slots=True)
class Ratio:
    """How a figure of one target compares to that of another, over the rounds."""

    label: str
    """What is divided by what: `on time, duly / triton, at 2x`."""
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class _Measure:
    """Something that targets are compared by."""

    heading: str
    about: str
    of: Callable[[LiveResults], float | None]
    axis_title: str
    digits: str
    hover: str
    best: int


_MEASURES = (
    _Measure(
        "On-time ratio against load",
        "On-time frames of all that were intended. Where a line leaves 100 % its target begins to break; how it falls "
        "from there on is how it breaks.",
        lambda results: results.on_time_ratio,
        "on-time ratio",
        ".2%",
        "%{y:.2~%}",
        1,
    ),
    _Measure(
        "Goodput against load",
        "On-time predictions per second. A line that goes flat holds what it can do; one that falls serves frames that "
        "are lost already.",
        lambda results: results.goodput_per_s,
        "goodput (frames/s)",
        ",.1f",
        "%{y:,.4~g}/s",
        1,
    ),
    _Measure(
        "p99 latency against load",
        "99th percentile of the latency from capture, of frames that got a result. A target that gives up frames which "
        "can't be on time has fewer results, see the on-time ratio; one that serves them all falls behind for good.",
        lambda results: results.latency_ms.p99 if results.latency_ms else None,
        "p99 latency from capture (ms)",
        ",.1f",
        "%{y:,.4~g} ms",
        -1,
    ),
)


def write_comparison(
    path: Path, title: str, points: Sequence[Point], ratios: Sequence[Ratio], facts: Sequence[tuple[str, str]]
) -> None:
    """One page: a line for each target, in the order of their first points, with the spread of its rounds.

    `facts`: (name, value) of what was run on what, such as the scenario, versions of targets and `Machine.facts()`.
    The folder of `path` must exist. Raises ValueError where there are no points, ModuleNotFoundError without plotly.
    """
    if not points:
        raise ValueError("a comparison should have at least one point, got none")
    valid = [point for point in points if not point.results.problems]
    targets = list(dict.fromkeys(point.target for point in points))
    tables = [
        *(_table(measure, valid, targets) for measure in _MEASURES),
        *([_ratios(ratios)] if ratios else []),
        _spreads(valid, targets),
    ]
    pictures = [_picture(measure, valid, targets) for measure in _MEASURES]
    path.write_text(render(title, list(facts), tables, pictures, _verdict(points)), "utf-8")


Spread = tuple[float, float, float]
"""Least, median, greatest."""


def _spread(measure: _Measure, points: Sequence[Point], target: str, load: float) -> Spread | None:
    """Of the rounds that have the figure; None: none has."""
    values = [measure.of(point.results) for point in points if (point.target, point.load) == (target, load)]
    found = [value for value in values if value is not None]
    return (min(found), statistics.median(found), max(found)) if found else None


def _loads(points: Sequence[Point]) -> list[float]:
    return sorted({point.load for point in points})


def _picture(measure: _Measure, points: Sequence[Point], targets: list[str]) -> Picture:
    curves = []
    for target in targets:
        spreads = [(load, _spread(measure, points, target, load)) for load in _loads(points)]
        if found := [(load, *spread) for load, spread in spreads if spread]:
            curves.append((target, found))
    about = f"{measure.about} Lines are medians over the rounds, bands go from the least to the greatest."
    if without := [target for target in targets if target not in dict(curves)]:
        about += f" Nothing is known of {', '.join(without)}."
    if not curves:
        return Picture(measure.heading, about, None)
    axis: dict[str, object] = {}
    if measure.digits.endswith("%"):
        axis = {"tickformat": ".0%", "range": [-0.02, 1.04]}
    elif measure.best < 0:
        axis = log_ticks([np.array([value for _, found in curves for point in found for value in point[1:]])])
    return Picture(measure.heading, about, against_load(curves, LOAD, measure.axis_title, measure.hover, **axis))


def _table(measure: _Measure, points: Sequence[Point], targets: list[str]) -> Table:
    loads = _loads(points)
    columns = tuple(
        Column(f"{load:g}x", f"median over the rounds at {load:g} times the load", measure.digits, best=measure.best)
        for load in loads
    )
    rows = []
    for target in targets:
        spreads = [_spread(measure, points, target, load) for load in loads]
        rows.append((target, tuple(spread[1] if spread else None for spread in spreads)))
    return Table(measure.heading, f"Median over the rounds of {measure.axis_title}.", "target", columns, rows)


def _ratios(ratios: Sequence[Ratio]) -> Table:
    columns = (
        Column("least", "of all rounds", ",.3g"),
        Column("median", "over the rounds", ",.3g"),
        Column("greatest", "of all rounds", ",.3g"),
    )
    about = (
        "Formed within each round, so that a machine that is slower for a while does not matter. Where least and "
        "greatest have 1 between them, no difference was shown."
    )
    return Table(
        "Ratios", about, "ratio", columns, [(each.label, (each.low, each.median, each.high)) for each in ratios]
    )


def _spreads(points: Sequence[Point], targets: list[str]) -> Table:
    """Every target at every load, with how far its rounds lie apart."""
    columns = [Column("rounds", "valid runs", ","), Column("offered/s", "frames intended per second, median", ",.1f")]
    for measure, title in zip(_MEASURES, ("on time", "goodput/s", "p99 ms"), strict=True):
        columns += [
            Column(f"{title} {what}", f"{what} of the rounds", measure.digits)
            for what in ("least", "median", "greatest")
        ]
    columns.append(Column("worst stream", "on-time ratio of the stream that fared worst in any round", ".2%"))
    rows = []
    for target in targets:
        for load in _loads(points):
            of = [point.results for point in points if (point.target, point.load) == (target, load)]
            if not of:
                continue
            spreads = [_spread(measure, points, target, load) for measure in _MEASURES]
            cells = (
                len(of),
                statistics.median(results.offered_per_s for results in of),
                *(value for spread in spreads for value in (spread or (None,) * 3)),
                min(results.worst_on_time_ratio for results in of),
            )
            rows.append((f"{target} at {load:g}x", cells))
    return Table("All figures", "With how far the rounds lie apart.", "target and load", tuple(columns), rows)


def _verdict(points: Sequence[Point]) -> Verdict:
    reasons = [
        f"{point.target} at {point.load:g}x: {problem}" for point in points for problem in point.results.problems
    ]
    invalid = sum(bool(point.results.problems) for point in points)
    if len(reasons) > REASONS_MAX:
        reasons = [*reasons[:REASONS_MAX], f"and {len(reasons) - REASONS_MAX:,} more reasons"]
    if not invalid:
        return Verdict(True, f"All {len(points)} runs are valid", ())
    what = "all of them" if invalid == len(points) else f"{invalid} of {len(points)} runs; these are left out"
    return Verdict(False, f"INVALID: {what}", tuple(reasons))
