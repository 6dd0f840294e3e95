"""A result as a picture: a panel for each corruption and attack, the score falling from clean to the worst, with the
interval in which it truly lies. Plain SVG, so that it opens anywhere and loads nothing.
"""

from collections.abc import Sequence
from html import escape

from duly_learn.robustness.result import Level, Result, Row

COLUMNS = 4
WIDTH, HEIGHT = 230, 170
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 30, 26
HEAD = 40
SERIES = ("first", "second")
STYLE = """
.robustness { font: 11px system-ui, sans-serif; --first: #0b6bb8; --second: #c2410c; --ink: #1f2328; --grid: #d8dee4; }
@media (prefers-color-scheme: dark) {
  .robustness { --first: #58a6ff; --second: #f0883e; --ink: #e6edf3; --grid: #3d444d; }
}
.robustness text { fill: var(--ink); }
.robustness .title { font-weight: 600; font-size: 12px; }
.robustness .grid { stroke: var(--grid); stroke-width: 1; }
.robustness .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.robustness .first { stroke: var(--first); } .robustness .second { stroke: var(--second); stroke-dasharray: 5 3; }
.robustness circle.first, .robustness polygon.first { fill: var(--first); }
.robustness circle.second, .robustness polygon.second { fill: var(--second); }
.robustness polygon { stroke: none; opacity: 0.16; }
"""


def picture(result: Result) -> str:
    """Returns the SVG of a result."""
    both = [result.tested] + ([result.against] if result.against is not None else [])
    rows = [row for row in result.tested.rows if row.levels]
    lines = -(-len(rows) // COLUMNS)
    width, height = COLUMNS * WIDTH, HEAD + max(1, lines) * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="robustness" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(_what(result))}</title><style>{STYLE}</style>",
        *_legend([tested.model for tested in both], _what(result)),
    ]
    for nth, row in enumerate(rows):
        x, y = nth % COLUMNS * WIDTH, HEAD + nth // COLUMNS * HEIGHT
        drawn = []
        for tested in both:
            own = next((each for each in tested.rows if each.name == row.name), None)
            drawn.append([tested.clean, *own.levels] if own is not None else [])
        parts += [f'<g transform="translate({x} {y})">', *_panel(row, drawn), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _what(result: Result) -> str:
    return f"{result.measure} of {result.frames} frames, against {result.expected}"


def _legend(models: Sequence[str], what: str) -> list[str]:
    parts = [f'<text x="{LEFT}" y="14">{escape(what)}</text>']
    for nth, model in enumerate(models):
        x = LEFT + nth * COLUMNS * WIDTH // 2
        parts.append(f'<line class="line {SERIES[nth]}" x1="{x}" y1="28" x2="{x + 24}" y2="28"/>')
        parts.append(f'<text x="{x + 30}" y="32">{escape(model)}</text>')
    return parts


def _panel(row: Row, drawn: Sequence[Sequence[Level]]) -> list[str]:
    parts = [f'<text class="title" x="{LEFT}" y="20">{escape(row.name)}</text>']
    for percent in (0, 50, 100):
        y = _y(percent / 100)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
    labels = ["clean", *(level.label for level in row.levels)]
    for nth, label in enumerate(labels):
        x = _x(nth, len(labels))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{escape(label)}</text>')
    for name, levels in zip(SERIES, drawn, strict=False):
        parts += _series(name, levels, len(labels))
    return parts


def _series(name: str, levels: Sequence[Level], count: int) -> list[str]:
    points = [(_x(nth, count), level.mean) for nth, level in enumerate(levels)]
    if not points:
        return []
    upper = [f"{x:.1f},{_y(mean.high):.1f}" for x, mean in points]
    lower = [f"{x:.1f},{_y(mean.low):.1f}" for x, mean in reversed(points)]
    line = [f"{x:.1f},{_y(mean.mean):.1f}" for x, mean in points]
    parts = [f'<polygon class="{name}" points="{" ".join([*upper, *lower])}"/>']
    parts.append(f'<polyline class="line {name}" points="{" ".join(line)}"/>')
    for (x, mean), level in zip(points, levels, strict=True):
        told = f"{level.label}: {100 * mean.mean:.1f} % ({100 * mean.low:.1f} to {100 * mean.high:.1f})"
        parts.append(
            f'<circle class="{name}" cx="{x:.1f}" cy="{_y(mean.mean):.1f}" r="3"><title>{escape(told)}</title></circle>'
        )
    return parts


def _x(nth: int, count: int) -> float:
    room = WIDTH - LEFT - RIGHT - 24
    return LEFT + 12 + room * nth / max(1, count - 1)


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)
