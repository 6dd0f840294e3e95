"""The report on a comparison: what targets make of one scenario as its load grows, as one HTML file that opens offline.

Against load stand medians over the rounds and how far these lie apart. A run of each target in detail, at the
scenario's own load and under overload, shows what lies behind them. Invalid runs are left out of every number and
picture, and reported at the top.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from duly_load.compare.rounds import Row, Spread
from duly_load.compare.tables import WORDS
from duly_load.report.figures import against_load
from duly_load.report.layout import log_ticks
from duly_load.report.page import Column, Picture, Table, Verdict, render
from duly_load.report.pictures import pictures
from duly_load.report.tables import best_latency, tables
from duly_load.report.view import RunView
from duly_load.results.formats import write_text

REASONS_MAX = 10
"""The most reasons why runs are invalid that the page shows in full."""
LOAD = "offered load (times the scenario's own)"


@dataclass(frozen=True, slots=True)
class Detail:
    """What targets made of one load, frame by frame."""

    load: float
    """The factor by which the scenario's own load was multiplied."""
    runs: list[RunView]
    """A valid run of each target that has one, under the target's name."""


@dataclass(frozen=True, slots=True)
class _Measure:
    """Something that targets are compared by."""

    heading: str
    about: str
    figure: str
    """The key of `duly_load.compare.rounds.FIGURES`."""
    axis_title: str
    digits: str
    hover: str
    best: int


_MEASURES = (
    _Measure(
        "On-time ratio against load",
        "On-time frames of all that were intended. Where a line leaves 100 % its target begins to break; how it falls "
        "from there on is how it breaks.",
        "on_time_ratio",
        "on-time ratio",
        ".2%",
        "%{y:.2~%}",
        1,
    ),
    _Measure(
        "Goodput against load",
        "On-time predictions per second. A line that goes flat holds what it can do; one that falls serves frames that "
        "are lost already.",
        "goodput_per_s",
        "goodput (frames/s)",
        ",.1f",
        "%{y:,.4~g}/s",
        1,
    ),
    _Measure(
        "p99 latency against load",
        "99th percentile of the latency from capture, of frames that got a result. A target that gives up frames which "
        "can't be on time has fewer results, see the on-time ratio; one that serves them all falls behind for good.",
        "p99_ms",
        "p99 latency from capture (ms)",
        ",.1f",
        "%{y:,.4~g} ms",
        -1,
    ),
)


def write_comparison(
    path: Path,
    title: str,
    names: Sequence[str],
    rows: Sequence[Row],
    details: Sequence[Detail],
    facts: Sequence[tuple[str, str]],
) -> None:
    """One page: a line for each target that has a row, in the order of `names`, then the details of each load.

    `facts`: (name, value) of what was run on what, such as the scenario, versions of targets and `Machine.facts()`.
    The folder of `path` must exist. Raises ValueError where there are no rows, ModuleNotFoundError without plotly.
    """
    if not rows:
        raise ValueError("a comparison should have at least one row, got none")
    shown = [
        *(_table(measure, names, rows) for measure in _MEASURES),
        *([_ratios(names, rows)] if any(row.pairs for row in rows) else []),
        _spreads(names, rows),
    ]
    curves = [_picture(measure, names, rows) for measure in _MEASURES]
    drawn: list[Picture] = []
    for detail in details:
        at = f"at {detail.load:g}x"
        shown += [replace(table, heading=f"{table.heading}, {at}") for table in tables(detail.runs)]
        drawn += [replace(picture, heading=f"{picture.heading}, {at}") for picture in pictures(detail.runs)]
    write_text(path, render(title, list(facts), shown, drawn, _verdict(names, rows), curves))


def _by_load(rows: Sequence[Row], target: int) -> dict[float, Row]:
    return {row.load: row for row in rows if row.target == target}


def _loads(rows: Sequence[Row]) -> list[float]:
    """The loads at which any target has a figure."""
    return sorted({row.load for row in rows if row.valid})


def _picture(measure: _Measure, names: Sequence[str], rows: Sequence[Row]) -> Picture:
    curves = []
    for target in sorted({row.target for row in rows}):
        spreads = [(load, row.figures[measure.figure]) for load, row in sorted(_by_load(rows, target).items())]
        if found := [(load, *_parts(spread)) for load, spread in spreads if spread]:
            curves.append((names[target], found))
    about = f"{measure.about} Lines are medians over the rounds, bands go from the least to the greatest."
    there = [names[target] for target in sorted({row.target for row in rows})]
    if without := [name for name in there if name not in dict(curves)]:
        about += f" Nothing is known of {', '.join(without)}."
    if not curves:
        return Picture(measure.heading, about, None)
    axis: dict[str, object] = {}
    if measure.digits.endswith("%"):
        axis = {"tickformat": ".0%", "range": [-0.02, 1.04]}
    elif measure.best < 0:
        axis = log_ticks([np.array([value for _, found in curves for point in found for value in point[1:]])])
    return Picture(measure.heading, about, against_load(curves, LOAD, measure.axis_title, measure.hover, **axis))


def _parts(spread: Spread) -> tuple[float, float, float]:
    return spread.least, spread.median, spread.greatest


def _table(measure: _Measure, names: Sequence[str], rows: Sequence[Row]) -> Table:
    loads = _loads(rows)
    columns = tuple(
        Column(
            f"{load:g}x",
            f"median over the rounds at {load:g} times the load",
            measure.digits,
            _best(measure, rows, load),
        )
        for load in loads
    )
    cells = []
    for target in sorted({row.target for row in rows}):
        of = _by_load(rows, target)
        spreads = [of[load].figures[measure.figure] if load in of else None for load in loads]
        cells.append((names[target], tuple(spread.median if spread else None for spread in spreads)))
    return Table(measure.heading, f"Median over the rounds of {measure.axis_title}.", "target", columns, cells)


def _best(measure: _Measure, rows: Sequence[Row], load: float) -> int:
    """`Column.best`."""
    if measure.best > 0:
        return measure.best
    return best_latency([ratio.median for row in rows if row.load == load and (ratio := row.figures["on_time_ratio"])])


def _ratios(names: Sequence[str], rows: Sequence[Row]) -> Table:
    columns = (
        Column("least", "of all rounds", ",.3g"),
        Column("median", "over the rounds", ",.3g"),
        Column("greatest", "of all rounds", ",.3g"),
    )
    about = (
        "Formed within each round, so that a machine that is slower for a while does not matter. Where least and "
        "greatest have 1 between them, no difference was shown."
    )
    cells = [
        (f"{words}, {names[row.target]} / {names[0]}, at {row.load:g}x", _parts(spread))
        for row in rows
        for figure, words in WORDS.items()
        if (spread := row.ratios[figure])
    ]
    return Table("Ratios", about, "ratio", columns, cells)


def _spreads(names: Sequence[str], rows: Sequence[Row]) -> Table:
    """Every target at every load, with how far its rounds lie apart."""
    columns = [Column("rounds", "valid runs", ","), Column("offered/s", "frames intended per second, median", ",.1f")]
    for measure, title in zip(_MEASURES, ("on time", "goodput/s", "p99 ms"), strict=True):
        columns += [
            Column(f"{title} {what}", f"{what} of the rounds", measure.digits)
            for what in ("least", "median", "greatest")
        ]
    columns.append(Column("worst stream", "on-time ratio of the stream that fared worst in any round", ".2%"))
    cells = []
    for row in sorted(rows, key=lambda row: (row.target, row.load)):
        spreads = [row.figures[measure.figure] for measure in _MEASURES]
        offered, worst = row.figures["offered_per_s"], row.figures["worst_stream_ratio"]
        numbers = (
            row.valid,
            offered.median if offered else None,
            *(value for spread in spreads for value in (_parts(spread) if spread else (None,) * 3)),
            worst.least if worst else None,
        )
        cells.append((f"{names[row.target]} at {row.load:g}x", numbers))
    return Table("All figures", "With how far the rounds lie apart.", "target and load", tuple(columns), cells)


def _verdict(names: Sequence[str], rows: Sequence[Row]) -> Verdict:
    reasons = [f"{names[row.target]} at {row.load:g}x: {reason}" for row in rows for reason in row.spoiled]
    held, valid = sum(row.held for row in rows), sum(row.valid for row in rows)
    repeated = len(reasons) - (held - valid)
    complete = all(row.valid for row in rows)
    if valid == held:
        headline = f"All {held} turns have a valid run"
    elif complete:
        headline = f"Every target has a figure at every load; {held - valid} of {held} turns are invalid and left out"
    elif valid:
        headline = f"INVALID: {held - valid} of {held} turns have no valid run; these are left out"
    else:
        headline = "INVALID: no turn has a valid run"
    if repeated:
        headline += f"; {repeated} invalid run{'s were' if repeated > 1 else ' was'} repeated"
    if len(reasons) > REASONS_MAX:
        reasons = [*reasons[:REASONS_MAX], f"and {len(reasons) - REASONS_MAX:,} more reasons"]
    return Verdict(complete, headline, tuple(reasons))
