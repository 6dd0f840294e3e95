"""A result as a page that opens offline: the picture, tables, what was left out, and what the corruptions look like."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape

from duly_learn.robustness.picture import picture
from duly_learn.robustness.result import CLEAN, Level, Result, Shown, Tested

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child { text-align: left; } td small { opacity: 0.7; display: block; }
.sure { font-weight: 700; } .wide { overflow-x: auto; }
figure { display: inline-block; margin: 0 0.6rem 0.6rem 0; } figcaption { font-size: 0.85rem; }
svg { max-width: 100%; height: auto; }
"""


def page(result: Result, title: str) -> str:
    """Returns the whole page."""
    both = [result.tested] + ([result.against] if result.against is not None else [])
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>",
        f"<p>{escape(_about(result))}</p>",
        picture(result),
        *(f"<h2>{escape(tested.model)}</h2>\n{_table(tested)}" for tested in both),
        _differences(result),
        _notes(result.notes),
        "".join(_thumbnails(result.pictures)),
        "</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _about(result: Result) -> str:
    agreement = f" On clean frames both agree by {result.agreement}." if result.agreement is not None else ""
    return (
        f"Measure {result.measure} of {result.frames} frames of {result.streams} streams, against {result.expected}; "
        f"seed {result.seed}.{agreement} Intervals are for a confidence of 95 % and take frames as independent of one "
        "another; neighbours of one recording are not, so that the true ones are rather wider."
    )


def _table(tested: Tested) -> str:
    """All conditions of one version."""
    widest = max((len(row.levels) for row in tested.rows), default=0)
    lines = [_line(CLEAN, "", [tested.clean], widest)]
    for row in tested.rows:
        lines.append(_line(row.name, f"{row.unit}; {row.scale}", row.levels, widest))
    return f'<div class="wide"><table>\n{"".join(lines)}</table></div>'


def _line(name: str, unit: str, levels: Sequence[Level], widest: int) -> str:
    cells = []
    for level in levels:
        mean, amount = level.mean, "" if level.amount is None else f" ({_shown(level.amount)})"
        cells.append(
            f"<td>{100 * mean.mean:.1f}<small>{100 * mean.low:.0f} to {100 * mean.high:.0f}</small>"
            f"<small>{escape(level.label + amount)}</small></td>"
        )
    cells += ["<td></td>"] * (widest - len(levels))
    return f'<tr><th scope="row" title="{escape(unit)}">{escape(name)}</th>{"".join(cells)}</tr>\n'


def _shown(amount: object) -> str:
    if isinstance(amount, tuple):
        return ", ".join(map(_shown, amount))
    return f"{amount:.4g}" if isinstance(amount, float) else str(amount)


def _differences(result: Result) -> str:
    if result.against is None:
        return ""
    lines = []
    for each in result.compared:
        found, mark = each.difference, "significant" if each.significant else ""
        condition = escape(each.row if each.row == CLEAN else f"{each.row} {each.label}")
        lines.append(
            f'<tr{" class=sure" if each.significant else ""}><th scope="row">{condition}</th>'
            f"<td>{100 * found.mean:+.1f}</td><td>{100 * found.low:+.1f} to {100 * found.high:+.1f}</td>"
            f"<td>{found.p:.2g}</td><td>{mark}</td></tr>\n"
        )
    return (
        f"<h2>{escape(result.against.model)} less {escape(result.tested.model)}</h2>\n"
        "<p>Points of the score, on the same harmed frames. Significant: by Holm's rule, so that the chance to call "
        "any condition different by mistake is 5 % at most.</p>\n"
        '<div class="wide"><table><tr><th>condition</th><th>difference</th><th>95 %</th><th>p</th><th></th></tr>\n'
        f"{''.join(lines)}</table></div>"
    )


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f"<h2>Notes</h2>\n<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"


def _thumbnails(shown: Sequence[Shown]) -> Iterator[str]:
    if shown:
        yield "<h2>What it looks like</h2>\n"
    for each in shown:
        source = f"data:image/jpeg;base64,{b64encode(each.jpeg).decode()}"
        text = escape(f"{each.row} {each.label}")
        yield f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>\n'
