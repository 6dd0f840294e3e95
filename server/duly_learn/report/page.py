"""A page that opens offline: facts, tables, figures and pictures in one HTML file, with the drawing library inside.

A content security policy forbids the page to load or send anything, whatever its texts hold.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in a table."""

    text: str
    kind: str = ""
    """number: it is one; words: it is a sentence; lines: its line breaks stay; good, bad: so it is."""


@dataclass(frozen=True, slots=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    """The first cell of each is its name."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of plotly. Colours are names of CSS custom properties, such as "--series-0"."""

    data: Sequence[Json]
    layout: Json


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture of lines that was made here, as SVG: no text of it may come from elsewhere unless it is escaped."""

    svg: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture with what stands below it."""

    data: bytes
    mime: str
    caption: str


@dataclass(frozen=True, slots=True)
class Pair:
    """What is to be compared, side by side."""

    pictures: Sequence[Image | Figure]


@dataclass(frozen=True, slots=True)
class Section:
    heading: str
    about: str
    """What it shows and how to read it."""
    parts: Sequence[Table | Figure | Drawing | Pair | str]
    """In their order; a text is a heading of what follows."""


@dataclass(frozen=True, slots=True)
class Verdict:
    good: bool
    headline: str
    reasons: Sequence[str]


def render(title: str, facts: Sequence[tuple[str, str]], verdict: Verdict, sections: Sequence[Section]) -> str:
    """Returns the whole page. Raises ModuleNotFoundError where plotly is not installed."""
    own = files("duly_learn.report")
    body = "\n".join(map(_section, sections))
    drawn = '<div class="plot">' in body
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{(own / 'page.css').read_text('utf-8')}</style>",
        f"</head>\n<body>\n<header>\n<h1>{escape(title)}</h1>\n<dl>",
        *(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts),
        "</dl>\n</header>\n<main>",
        _verdict(verdict),
        body,
        "</main>",
        f"<script>{_plotly()}</script>" if drawn else "",
        f"<script>\n{(own / 'page.js').read_text('utf-8')}</script>" if drawn else "",
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def layout(height_px: int, x_title: str, y_title: str) -> Json:
    """Returns the layout of a figure with two axes."""
    grid: Json = {"gridcolor": "--grid", "zerolinecolor": "--rule", "tickcolor": "--rule", "automargin": True}
    return {
        "height": height_px,
        "margin": {"l": 64, "r": 20, "t": 12, "b": 52},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "--ink"},
        "hoverlabel": {"bgcolor": "--paper", "bordercolor": "--rule", "font": {"color": "--ink"}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "showlegend": True,
        "xaxis": grid | {"title": {"text": escape(x_title)}, "showline": True, "linecolor": "--rule"},
        "yaxis": grid | {"title": {"text": escape(y_title)}},
    }


def _verdict(verdict: Verdict) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    return (
        f'<section class="verdict{"" if verdict.good else " bad"}">\n<strong>{escape(verdict.headline)}</strong>\n'
        f"{f'<ul>{reasons}</ul>' if reasons else ''}\n</section>"
    )


def _section(section: Section) -> str:
    parts = "\n".join(_part(section, part) for part in section.parts)
    return f"<section>\n<h2>{escape(section.heading)}</h2>\n<p>{escape(section.about)}</p>\n{parts}\n</section>"


def _part(section: Section, part: Table | Figure | Drawing | Pair | str) -> str:
    if isinstance(part, Drawing):
        return f"<figure>{part.svg}</figure>"
    if isinstance(part, str):
        return f"<h3>{escape(part)}</h3>"
    if isinstance(part, Table):
        return _table(section.heading, part)
    if isinstance(part, Figure):
        return f"<figure>{_figure(part)}</figure>"
    return f'<div class="pair">{"".join(map(_side, part.pictures))}</div>'


def _side(side: Image | Figure) -> str:
    if isinstance(side, Figure):
        return f"<figure>{_figure(side)}</figure>"
    data = base64.b64encode(side.data).decode()
    caption = escape(side.caption)
    source = f"data:{side.mime};base64,{data}"
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _figure(figure: Figure) -> str:
    text = json.dumps({"data": figure.data, "layout": figure.layout}, allow_nan=False, separators=(",", ":"))
    # "<" is the one character that could end the script early.
    return f'<div class="plot"></div><script type="application/json">{text.replace("<", chr(92) + "u003c")}</script>'


def _table(heading: str, table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = []
    for first, *rest in table.rows:
        cells = "".join(f'<td class="{escape(cell.kind)}">{escape(cell.text)}</td>' for cell in rest)
        rows.append(f'<tr><th scope="row">{escape(first.text)}</th>{cells}</tr>')
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(heading)}">\n<table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{''.join(rows)}</tbody>\n</table>\n</div>"
    )


def _plotly() -> str:
    try:
        return (files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a report needs plotly: pip install 'duly[learn]'", name=error.name) from error
