"""What a comparison found, for a terminal of 100 columns: a row for each load and target."""

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from duly_load.compare.rounds import OUTCOMES, Row, Spread

COLUMNS = 100
TARGET_COLUMNS = 21
"""A longer name goes on in the next line."""
SHARE_MIN = 0.05
"""The least percentage of all frames with which an outcome is shown."""
WORDS = {
    "on_time_ratio": "on time",
    "goodput_per_s": "goodput",
    "p50_ms": "p50",
    "p99_ms": "p99",
    "cpu_us_per_frame": "CPU/frame",
}
"""Figures whose ratios are shown."""


def outcomes(title: str, names: Sequence[str], rows: Sequence[Row]) -> Table:
    """What became of the frames: medians of the rounds. Under each target what those became that were not on time."""
    table = _table(
        title,
        "runs",
        "offered\n/s",
        "on time\n%",
        "least..\ngreatest",
        "good\nput/s",
        "p50\nms",
        "p99\nms",
        "worst\n%",
        "to\nfirst",
    )
    for row, load, target in _named(names, rows):
        on_time, figures = row.figures["on_time_ratio"], row.figures
        cells = [
            f"{row.valid}/{row.valid + len(row.spoiled)}",
            _median(figures["offered_per_s"]),
            _median(on_time, 100, ".1f") if row.valid else "[bold red]invalid[/]",
            _ends(on_time, 100, ".1f"),
            _median(figures["goodput_per_s"], 1, ".1f"),
            _median(figures["p50_ms"]),
            _median(figures["p99_ms"]),
            _median(figures["worst_stream_ratio"], 100, ".1f"),
            _median(row.ratios["on_time_ratio"], 1, ".2f"),
        ]
        table.add_row(load, "\n".join([target, *_not_on_time(row)]), *cells)
    return table


def _not_on_time(row: Row) -> list[str]:
    """The outcomes that are not on time, the most frequent first, without those that would be written as 0."""
    shares = [(spread.median * 100, outcome) for name, outcome in OUTCOMES.items() if (spread := row.figures[name])]
    shares.sort(key=lambda each: -each[0])
    return [f"[dim]  {outcome.name.lower()} {share:.1f} %[/]" for share, outcome in shares if share >= SHARE_MIN]


def ratios(names: Sequence[str], rows: Sequence[Row]) -> Table:
    """The ratios to the first target: the median of the rounds over the least and the greatest."""
    title = f"ratios to {names[0]}: median over least..greatest of the rounds"
    table = _table(title, "CPU\nµs/frame", *(f"{words}\nratio" for words in WORDS.values()))
    for row, load, target in _named(names, rows):
        cells = [
            f"{_median(row.ratios[name], 1, '.2f')}\n{_ends(row.ratios[name], 1, '.2f')}".rstrip() for name in WORDS
        ]
        table.add_row(load, target, _median(row.figures["cpu_us_per_frame"]), *cells)
    return table


def _table(title: str, *headings: str) -> Table:
    """Columns of loads, targets and, for each of `headings`, numbers."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("load", justify="right", no_wrap=True)
    table.add_column("target", overflow="fold", max_width=TARGET_COLUMNS)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _named(names: Sequence[str], rows: Sequence[Row]) -> list[tuple[Row, str, str]]:
    """Each row with the texts of its load, once for all its targets, and of its target."""
    loads = [None, *(row.load for row in rows)]
    return [
        (row, f"{row.load:g}" if row.load != before else "", escape(names[row.target]))
        for before, row in zip(loads, rows, strict=False)
    ]


def _median(spread: Spread | None, factor: float = 1, digits: str = "") -> str:
    return "-" if spread is None else _number(spread.median * factor, digits)


def _ends(spread: Spread | None, factor: float, digits: str) -> str:
    if spread is None:
        return ""
    return f"{_number(spread.least * factor, digits)}..{_number(spread.greatest * factor, digits)}"


def _number(value: float, digits: str) -> str:
    """Three digits unless said otherwise; infinite where the first target had none at all."""
    if math.isinf(value):
        return "∞"
    return format(value, digits) if digits else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
