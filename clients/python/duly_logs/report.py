"""The comparison of two replays as one HTML file, which needs nothing else: pictures and plots are in it."""

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape

import cv2
import numpy as np

from duly_client.convert import Array
from duly_logs.comparison import Change, Comparison
from duly_logs.detections import Detection
from duly_logs.written import Row, Written

PICTURE_WIDTH_MAX = 640
"""Wider pictures are made smaller."""
LISTED_MAX = 1000
"""Number of changed frames that are listed."""
POINTS_MAX = 800
"""Number of points of a plot; of more frames each point stands for several, and is the worst of them."""

WIDTH, STRIP_HEIGHT, PLOT_HEIGHT = 1000, 18, 150
COLOURS = {
    "ON_TIME": "#2e9e5b",
    "LATE": "#e0a800",
    "EXPIRED": "#d9622b",
    "SUPERSEDED": "#8a94a6",
    "SHED": "#8e5bd0",
    "SKIPPED": "#b59a7a",
    "INVALID": "#c2255c",
    "CANCELLED": "#555f70",
    "FAILED": "#b00020",
}
"""By status, the best first."""
BEFORE, AFTER = "#2f6fde", "#d6336c"

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2430; background: #f6f7f9; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 34px 0 8px; }
p { margin: 6px 0; } .verdict { font-size: 17px; } .muted { color: #667085; }
table { border-collapse: collapse; background: #fff; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid #e6e9ee; vertical-align: top; }
td.n, th.n { text-align: right; } tr.differs td { background: #fff6e0; }
svg.chart { background: #fff; display: block; width: 100%; height: auto; border: 1px solid #e6e9ee; }
.key span { display: inline-block; margin-right: 14px; } .key i { display: inline-block; width: 11px; height: 11px;
margin-right: 5px; border-radius: 2px; }
.before { color: #2f6fde; } .after { color: #d6336c; }
figure { margin: 0 0 20px; background: #fff; border: 1px solid #e6e9ee; padding: 10px; }
figcaption { margin-bottom: 8px; } .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; }
.pair svg { width: 100%; height: auto; display: block; } .pair div { font-size: 13px; margin-bottom: 3px; }
"""


def report(comparison: Comparison, pictures_max: int) -> str:
    """The page. Pictures of at most so many frames are in it, those that changed most. Raises LogError, OSError."""
    before, after = comparison.before, comparison.after
    parts = [
        f"<h1>{escape(before.name)} <span class=muted>→</span> {escape(after.name)}</h1>",
        f"<p class=verdict>{escape(verdict(comparison))}</p>",
        "<h2>What was run</h2>",
        _settings(before, after),
        "<h2>How frames ended</h2>",
        _endings(comparison),
        "<h2>Along the drive</h2>",
        _timeline(comparison),
        _key([(status, colour) for status, colour in COLOURS.items() if _has(comparison, status)]),
    ]
    for title, key, worst in (("Slack, ms", _slack, np.nanmin), ("Age of the newest result, ms", _age, np.nanmax)):
        parts += [f"<h2>{title}</h2>", _plot(comparison, key, worst)]
        parts.append(_key([(f"before: {before.name}", BEFORE), (f"after: {after.name}", AFTER)]))
    labels = comparison.labels()
    if labels:
        rows = [(name, *map(str, numbers)) for name, *numbers in labels]
        heads = ("label", "found before", "found after", "appeared", "vanished")
        parts += ["<h2>What was found</h2>", _table(heads, rows, [bool(row[3] or row[4]) for row in labels])]
        parts.append("<p class=muted>Appeared and vanished are counted in frames that have a result in both.</p>")
    if comparison.changes:
        parts += ["<h2>The frames that changed most</h2>", _pictures(comparison, pictures_max)]
        parts += ["<h2>All frames that changed</h2>", _listed(comparison)]
    head = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(before.name)} → {escape(after.name)}</title>"
    )
    return f"{head}<style>{_STYLE}</style><main>{''.join(parts)}</main></html>\n"


def verdict(comparison: Comparison) -> str:
    """What changed, in a sentence."""
    changes, frames = comparison.changes, len(comparison.common)
    left = comparison.only_before + comparison.only_after
    more = f"; {left} frames are in one of the two only" if left else ""
    if not changes:
        return f"Nothing changed in {frames} frames{more}."
    ended = sum(change.ended_otherwise for change in changes)
    found = sum(bool(change.appeared or change.vanished) for change in changes)
    moved = sum(bool(change.moved) for change in changes)
    numbers = sum(bool(change.outputs) for change in changes)
    kinds = [
        (ended, "ended otherwise"),
        (found, "found other things"),
        (moved, "have other boxes or scores"),
        (numbers, "have other numbers"),
    ]
    words = ", ".join(f"{count} {text}" for count, text in kinds if count)
    return f"{len(changes)} of {frames} frames changed: {words}{more}."


def _has(comparison: Comparison, status: str) -> bool:
    both = (comparison.before.rows, comparison.after.rows)
    return any(row.status == status for rows in both for row in rows.values())


def _badness(status: str) -> int:
    """The place among all statuses; one that is not known comes last."""
    return list(COLOURS).index(status) if status in COLOURS else len(COLOURS)


def _slack(row: Row) -> float:
    return row.slack_ms


def _age(row: Row) -> float:
    return row.age_ms


def _key(entries: Sequence[tuple[str, str]]) -> str:
    spans = (f"<span><i style='background:{colour}'></i>{escape(name)}</span>" for name, colour in entries)
    return f"<p class='key muted'>{''.join(spans)}</p>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], differs: Sequence[bool]) -> str:
    def cells(tag: str, texts: Sequence[str]) -> str:
        first, *rest = texts
        return f"<{tag}>{escape(first)}</{tag}>" + "".join(f"<{tag} class=n>{escape(text)}</{tag}>" for text in rest)

    body = (
        f"<tr{' class=differs' if marked else ''}>{cells('td', row)}</tr>"
        for row, marked in zip(rows, differs, strict=True)
    )
    return f"<table><tr>{cells('th', heads)}</tr>{''.join(body)}</table>"


def _settings(before: Written, after: Written) -> str:
    names = list(dict.fromkeys([*before.about, *after.about]))
    rows = [(name, before.about.get(name, "-"), after.about.get(name, "-")) for name in names]
    return _table(("", "before", "after"), rows, [row[1] != row[2] for row in rows])


def _endings(comparison: Comparison) -> str:
    sides = [[written.rows[frame] for frame in comparison.common] for written in (comparison.before, comparison.after)]
    counts = [Counter(row.status for row in rows) for rows in sides]
    rows = [
        (status, str(counts[0][status]), str(counts[1][status]))
        for status in COLOURS
        if counts[0][status] + counts[1][status]
    ]

    def line(name: str, key: Callable[[Row], float], quantile: float, results: bool) -> None:
        numbers = [[key(row) for row in rows if row.ok or not results] for rows in sides]
        told = [f"{np.percentile(side, quantile):.1f} ms" if side else "-" for side in numbers]
        rows.append((name, told[0], told[1]))

    line("latency, median", lambda row: row.latency_ms, 50, True)
    line("latency, 99th percentile", lambda row: row.latency_ms, 99, True)
    line("slack, 1st percentile", _slack, 1, True)
    line("age of the newest result, 99th percentile", _age, 99, False)
    return _table(("", "before", "after"), rows, [row[1] != row[2] and not row[1].endswith("ms") for row in rows])


def _seconds(comparison: Comparison) -> list[float]:
    """Where each common frame lies, in s; where the clock of the log jumps, frames just follow one another."""
    times = [comparison.before.rows[frame].time_ns for frame in comparison.common]
    steps = np.diff(np.array(times, np.int64)) / 1e9
    usual = float(np.median(steps)) if len(steps) else 0.1
    steps = np.where((steps < 0) | (steps > 10), usual, steps)
    return [0.0, *np.cumsum(steps).tolist()]


def _timeline(comparison: Comparison) -> str:
    seconds = _seconds(comparison)
    end_s = seconds[-1] or 1.0
    left, width = 60, WIDTH - 70
    columns = min(len(seconds), POINTS_MAX)
    changed = {change.before.frame for change in comparison.changes}
    marks: list[str] = []
    for column, part in enumerate(np.array_split(np.arange(len(seconds)), columns)):
        x, wide = left + width * column / columns, width / columns + 0.05
        frames = [comparison.common[i] for i in part]
        for line, written in enumerate((comparison.before, comparison.after)):
            worst = max((written.rows[frame].status for frame in frames), key=_badness)
            y = 6 + line * (STRIP_HEIGHT + 4)
            fill = COLOURS.get(worst, "black")
            marks.append(f"<rect x='{x:.1f}' y='{y}' width='{wide:.2f}' height='{STRIP_HEIGHT}' fill='{fill}'/>")
        if any(frame in changed for frame in frames):
            y = 6 + 2 * (STRIP_HEIGHT + 4)
            marks.append(
                f"<rect x='{x:.1f}' y='{y}' width='{max(1.5, wide):.2f}' height='{STRIP_HEIGHT}' fill='#1c2430'/>"
            )
    for line, name in enumerate(("before", "after", "changed")):
        marks.append(f"<text x='0' y='{20 + line * (STRIP_HEIGHT + 4)}' font-size='13' fill='#667085'>{name}</text>")
    marks.append(_axis(left, width, 6 + 3 * (STRIP_HEIGHT + 4), end_s))
    return f"<svg class=chart viewBox='0 0 {WIDTH} {12 + 3 * (STRIP_HEIGHT + 4) + 20}'>{''.join(marks)}</svg>"


def _axis(left: float, width: float, y: float, end_s: float) -> str:
    ticks = np.linspace(0, end_s, 6)
    return "".join(
        f"<text x='{left + width * tick / end_s:.1f}' y='{y + 14:.1f}' font-size='12' fill='#667085' "
        f"text-anchor='{'start' if tick == 0 else 'end' if tick == end_s else 'middle'}'>{tick:.3g} s</text>"
        for tick in ticks.tolist()
    )


def _plot(comparison: Comparison, key: Callable[[Row], float], worst: Callable[[Array], float]) -> str:
    seconds = _seconds(comparison)
    end_s = seconds[-1] or 1.0
    left, width = 60, WIDTH - 70
    lines = [
        np.array([key(written.rows[frame]) for frame in comparison.common])
        for written in (comparison.before, comparison.after)
    ]
    low = min(0.0, *(float(np.nanmin(line)) for line in lines))
    high = max(*(float(np.nanmax(line)) for line in lines), low + 1e-3)

    def y_of(value: float) -> float:
        return 8 + (PLOT_HEIGHT - 16) * (high - value) / (high - low)

    parts = [
        f"<line x1='{left}' x2='{left + width}' y1='{y_of(value):.1f}' y2='{y_of(value):.1f}' stroke='#e6e9ee'/>"
        f"<text x='{left - 6}' y='{y_of(value) + 4:.1f}' font-size='12' fill='#667085' text-anchor='end'>"
        f"{value:.4g}</text>"
        for value in dict.fromkeys((low, 0.0, high))
    ]
    for line, colour in zip(lines, (BEFORE, AFTER), strict=True):
        points = [
            f"{left + width * seconds[part[len(part) // 2]] / end_s:.1f},{y_of(float(worst(line[part]))):.1f}"
            for part in np.array_split(np.arange(len(line)), min(len(line), POINTS_MAX))
        ]
        parts.append(f"<polyline points='{' '.join(points)}' fill='none' stroke='{colour}' stroke-width='1.5'/>")
    parts.append(_axis(left, width, PLOT_HEIGHT, end_s))
    return f"<svg class=chart viewBox='0 0 {WIDTH} {PLOT_HEIGHT + 22}'>{''.join(parts)}</svg>"


def _pictures(comparison: Comparison, pictures_max: int) -> str:
    chosen = sorted(comparison.changes, key=lambda change: change.size, reverse=True)[:pictures_max]
    wanted = {change.before.time_ns for change in chosen}
    pictures = comparison.before.pictures(wanted) or comparison.after.pictures(wanted)
    if not pictures:
        return "<p class=muted>There are no pictures in the logs.</p>"
    left_out = len(comparison.changes) - len(chosen)
    more = f"<p class=muted>{left_out} more frames that changed have no picture here.</p>" if left_out else ""
    seconds = dict(zip(comparison.common, _seconds(comparison), strict=True))
    figures = [
        _figure(change, pictures[change.before.time_ns], seconds[change.before.frame])
        for change in chosen
        if change.before.time_ns in pictures
    ]
    key = _key([("only before", BEFORE), ("only after", AFTER), ("in both", "#2e9e5b")])
    return key + "".join(figures) + more


def _figure(change: Change, picture: bytes | Array, at_s: float) -> str:
    jpeg, width, height, full = _small(picture)
    if not jpeg:
        return ""
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    shown = []
    # The same picture twice, but only once in the page.
    image = f"<image id='picture{change.before.frame}' href='{source}' width='{width}' height='{height}'/>"
    for name, row, only, colour in (
        ("before", change.before, change.only_before, BEFORE),
        ("after", change.after, change.only_after, AFTER),
    ):
        boxes = "".join(
            _box(found.in_pixels(full), width / full[0], width, colour if found in only else "#2e9e5b")
            for found in row.detections
        )
        words = f"{row.status}, {row.latency_ms:.1f} ms" + (f": {row.reason}" if row.reason else "")
        shown.append(
            f"<div><div class={name}>{name}: {escape(words)}</div><svg viewBox='0 0 {width} {height}'>"
            f"{image}{boxes}</svg></div>"
        )
        image = f"<use href='#picture{change.before.frame}'/>"
    caption = f"<b>Frame {change.before.frame}</b>, {at_s:.2f} s: {escape(change.words())}"
    pair = f"<div class=pair>{''.join(shown)}</div>"
    return f"<figure id=frame{change.before.frame}><figcaption>{caption}</figcaption>{pair}</figure>"


def _box(found: Detection, scale: float, width: int, colour: str) -> str:
    x, y = found.x0 * scale, found.y0 * scale
    wide, high = (found.x1 - found.x0) * scale, (found.y1 - found.y0) * scale
    text = f"{found.label} {found.score:.2f}"
    above = y - 16 if y > 16 else y
    long = 7.4 * len(text) + 8
    x_text = max(0.0, min(x, width - long))
    return (
        f"<rect x='{x:.1f}' y='{y:.1f}' width='{wide:.1f}' height='{high:.1f}' fill='none' stroke='{colour}' "
        f"stroke-width='2.5'/><rect x='{x_text:.1f}' y='{above:.1f}' width='{long:.0f}' height='16' "
        f"fill='{colour}'/><text x='{x_text + 4:.1f}' y='{above + 12:.1f}' font-size='13' fill='#fff'>"
        f"{escape(text)}</text>"
    )


def _small(picture: bytes | Array) -> tuple[bytes, int, int, tuple[int, int]]:
    """The picture as JPEG, its width and height, and those that it had; empty: it cannot be shown."""
    pixels = (
        cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        if isinstance(picture, bytes)
        else np.ascontiguousarray(picture[:, :, ::-1] if picture.ndim == 3 else picture)
    )
    if pixels is None or pixels.dtype != np.uint8:
        return b"", 0, 0, (0, 0)
    full = (pixels.shape[1], pixels.shape[0])
    if full[0] > PICTURE_WIDTH_MAX:
        height = max(1, round(full[1] * PICTURE_WIDTH_MAX / full[0]))
        pixels = cv2.resize(pixels, (PICTURE_WIDTH_MAX, height), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, 80))[1].tobytes()
    return jpeg, pixels.shape[1], pixels.shape[0], full


def _listed(comparison: Comparison) -> str:
    seconds = dict(zip(comparison.common, _seconds(comparison), strict=True))
    rows = [
        f"<tr><td>{change.before.frame}</td><td class=n>{seconds[change.before.frame]:.2f} s</td>"
        f"<td>{escape(change.words())}</td></tr>"
        for change in comparison.changes[:LISTED_MAX]
    ]
    left_out = len(comparison.changes) - len(rows)
    more = f"<p class=muted>and {left_out} more</p>" if left_out else ""
    table = f"<table><tr><th>frame</th><th class=n>at</th><th>what changed</th></tr>{''.join(rows)}</table>"
    return f"<details><summary>{len(rows)} frames</summary>{table}</details>{more}"
