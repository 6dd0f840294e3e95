"""A page that opens offline: facts, tables and figures in one HTML file, with the drawing library inside.

A content security policy forbids the page to load or send anything, whatever its texts hold.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from duly_load.report.layout import Json, shortened

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    meaning: str
    """The text that is shown when the pointer rests on the title."""
    digits: str
    """The format of its numbers, as in `format(value, digits)`."""
    best: int = 0
    """1: the greatest number is the best, -1: the least, 0: neither."""

    def text(self, value: float | None) -> str:
        return "-" if value is None else format(value, self.digits)


@dataclass(frozen=True, slots=True)
class Table:
    heading: str
    about: str
    first: str
    """The title of the column of names."""
    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, tuple[float | None, ...]]]
    """A number by column; None: there is none."""


@dataclass(frozen=True, slots=True)
class Picture:
    heading: str
    about: str
    """What it shows and how to read it; also its description for those who can't see it."""
    figure: Json | None
    """The figure; None: there is nothing to draw, which `about` says."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether what the page says can be believed; stands above everything else."""

    valid: bool
    headline: str
    reasons: tuple[str, ...]


def render(
    title: str,
    facts: list[tuple[str, str]],
    tables: list[Table],
    pictures: list[Picture],
    verdict: Verdict | None = None,
    first: Sequence[Picture] = (),
) -> str:
    """The whole page: `first`, the pictures that say most, stand above the tables. Raises ModuleNotFoundError where
    plotly is not installed.
    """
    own = files("duly_load.report")
    drawn = any(picture.figure for picture in (*first, *pictures))
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{(own / 'page.css').read_text('utf-8')}</style>",
        f"</head>\n<body>\n<header>\n<h1>{escape(title)}</h1>\n<dl>",
        *(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts),
        "</dl>\n</header>\n<main>",
        _verdict(verdict) if verdict else "",
        "<noscript><p>The pictures are drawn by a script inside this page; the tables do without.</p></noscript>",
        *(_picture(index, picture) for index, picture in enumerate(first)),
        *(_table(table) for table in tables),
        *(_picture(index, picture) for index, picture in enumerate(pictures, start=len(first))),
        "</main>",
        f"<script>{_plotly()}</script>" if drawn else "",
        f"<script>\n{(own / 'page.js').read_text('utf-8')}</script>" if drawn else "",
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _verdict(verdict: Verdict) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    return (
        f'<section class="verdict {"valid" if verdict.valid else "invalid"}">\n'
        f"<strong>{escape(verdict.headline)}</strong>\n{f'<ul>{reasons}</ul>' if reasons else ''}\n</section>"
    )


def _table(table: Table) -> str:
    best = [_best(table, index) for index in range(len(table.columns))]
    head = "".join(
        f'<th scope="col" title="{escape(each.meaning)}">{escape(each.title)}</th>' for each in table.columns
    )
    rows = []
    for name, cells in table.rows:
        row = f'<tr><th scope="row" title="{escape(name)}">{escape(shortened(name))}</th>'
        for index, (column, value) in enumerate(zip(table.columns, cells, strict=True)):
            text = column.text(value)
            row += f'<td class="best">{text}</td>' if text == best[index] else f"<td>{text}</td>"
        rows.append(f"{row}</tr>")
    return "\n".join(
        [
            f"<section>\n<h2>{escape(table.heading)}</h2>\n<p>{escape(table.about)}</p>",
            f'<div class="wide" role="region" tabindex="0" aria-label="{escape(table.heading)}">\n<table>',
            f'<thead><tr><th scope="col">{escape(table.first)}</th>{head}</tr></thead>\n<tbody>',
            *rows,
            "</tbody>\n</table>\n</div>\n</section>",
        ]
    )


def _best(table: Table, index: int) -> str | None:
    """The best number of a column as it is written, where rows differ in it."""
    column = table.columns[index]
    values = [cells[index] for _, cells in table.rows]
    found = sorted(value for value in values if value is not None)
    if not column.best or not found or format(found[0], column.digits) == format(found[-1], column.digits):
        return None
    return format(found[-1] if column.best > 0 else found[0], column.digits)


def _picture(index: int, picture: Picture) -> str:
    if picture.figure is None:
        return f"<section>\n<h2>{escape(picture.heading)}</h2>\n<p>{escape(picture.about)}</p>\n</section>"
    figure = json.dumps(picture.figure, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return "\n".join(
        [
            f'<section>\n<h2 id="picture-{index}">{escape(picture.heading)}</h2>',
            f'<p id="about-{index}">{escape(picture.about)}</p>',
            f'<figure aria-labelledby="picture-{index}" aria-describedby="about-{index}">\n<div class="plot"></div>',
            # "<" is the one character that could end the script early.
            f'<script type="application/json">{figure.replace("<", chr(92) + "u003c")}</script>\n</figure>\n</section>',
        ]
    )


def _plotly() -> str:
    try:
        return (files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a report needs plotly: pip install 'duly[load]'", name=error.name) from error
