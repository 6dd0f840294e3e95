"""The page of a soak: what was held and how late things were, over hours."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from duly_load.report.figures import lines
from duly_load.report.layout import Floats, Json, single, x_axis, y_axis
from duly_load.report.page import Column, Picture, Table, render
from duly_load.results.formats import write_text
from duly_load.soak.phases import Phase
from duly_load.soak.record import SliceResult, Soak
from duly_load.soak.verdict import SERIES, Growth, Judgement, Series, at_both_ends, values_of

HEIGHT = 320
"""The height of a picture, px."""
POINTS_MAX = 400
"""The most points of a curve; of more, the worst of each stretch is drawn."""

Curve = tuple[str, list[float], list[float]]
"""A curve: its name, times in s, values."""


def write(path: Path, title: str, facts: list[tuple[str, str]], done: Soak, judged: Judgement) -> None:
    """The folder of `path` must exist. Raises OSError, and ModuleNotFoundError without plotly."""
    against = [("Why not", reason) for reason in judged.against]
    doubts = [("Why nobody can say", doubt) for doubt in judged.doubts]
    notes = [("Note", note) for note in judged.notes]
    busy = [("Busy slices", at_both_ends(judged.decline))] if judged.decline else []
    shown = [("Verdict", judged.holds.value), *against, *doubts, *notes, *busy, *facts]
    tables = [growth_table(judged)] if judged.growth else []
    if done.slices:
        tables.append(_slices(done))
    write_text(path, render(title, shown, tables, _pictures(done)))


def growth_table(judged: Judgement) -> Table:
    return Table(
        "Does it grow?",
        "In busy slices after the warm-up, by the median of the slopes between all pairs of samples, with its "
        "confidence interval. What grows has the whole interval beyond its limit, what does not grow has it below. "
        "Memory in MiB.",
        "what",
        (
            Column("first", "median of the first tenth", ",.1f"),
            Column("last", "median of the last tenth", ",.1f"),
            Column("an hour", "slope", ",.3g"),
            Column("from", "lower end of its interval", ",.3g"),
            Column("to", "upper end of its interval", ",.3g"),
            Column("limit", "growth an hour that somebody would care about", ",.3g"),
        ),
        [(f"{each.of} {each.series.name}: {each.trend.verdict}", _cells(each)) for each in judged.growth],
    )


def _cells(growth: Growth) -> tuple[float | None, ...]:
    found, scale = growth.trend, growth.series.scale
    slopes = (found.per_h, found.low_per_h, found.high_per_h, found.limit_per_h)
    levels = (growth.first / scale, growth.last / scale)
    return (*levels, *(None if value is None or not np.isfinite(value) else value / scale for value in slopes))


def _slices(done: Soak) -> Table:
    rows: list[tuple[str, tuple[float | None, ...]]] = []
    for phase in (Phase.BUSY, Phase.SINGLE):
        if valid := done.valid_in(phase):
            rows.append((f"{phase}, all that are valid", _row(valid)))
            rows.append((f"{phase}, worst", _row([min(valid, key=lambda result: result.on_time_ratio)])))
    if idle := done.in_phase(Phase.IDLE):
        rows.append((f"{Phase.IDLE}, nothing sent", (len(idle), 0, None, None, None, 0)))
    if done.invalid:
        frames, unanswered = (sum(each) for each in zip(*((r.frames, r.unanswered) for r in done.invalid), strict=True))
        rows.append(("invalid, left out", (len(done.invalid), frames, None, None, None, unanswered)))
    return Table(
        "Slices",
        "What clients that behave sent, in turn: the scenario (busy), nothing (idle), one stream of its first sensor "
        "(single), each time with another seed.",
        "slices",
        (
            Column("slices", "how many", ",d"),
            Column("frames", "that were intended", ",d"),
            Column("on time %", "from the scenario's warm_s on", ".2f"),
            Column("on time /s", "frames on time a second, median of the slices", ",.1f"),
            Column("p99 ms", "latency from capture", ",.2f"),
            Column("unanswered", "sent, and nothing came", ",d"),
        ),
        rows,
    )


def _row(slices: list[SliceResult]) -> tuple[float | None, ...]:
    p99s_ms = [result.p99_ms for result in slices if result.p99_ms is not None]
    return (
        len(slices),
        sum(result.frames for result in slices),
        100 * float(np.mean([result.on_time_ratio for result in slices])),
        float(np.median([result.goodput_per_s for result in slices])),
        float(np.median(p99s_ms)) if p99s_ms else None,
        sum(result.unanswered for result in slices),
    )


def _pictures(done: Soak) -> list[Picture]:
    pictures = [
        Picture(
            "Memory",
            "Of the server and all its processes, and of the harness. RSS counts shared pages in every process, PSS "
            "divides them, USS leaves them out. The line marks the end of the warm-up.",
            _over_time(_usage(done, [each for each in SERIES if each.is_memory]), "memory (MiB)", done.warm_s),
        )
    ]
    for series in SERIES:
        if not series.is_memory:
            about = f"{series.name.capitalize()} of the server and all its processes, and of the harness."
            figure = _over_time(_usage(done, [series]), series.name, done.warm_s)
            pictures.append(Picture(series.name.capitalize(), about, figure))
    if lags := _lags(done):
        about = (
            "How late the server's event loop was for its timers, where its metrics were to be read; how long it took "
            "at worst to answer a call that only asks; and how late the harness itself sent."
        )
        pictures.append(Picture("Lag", about, _over_time(lags, "ms", done.warm_s)))
    held = [(sample.at_s, sample.asked) for sample in done.samples]
    streams: Curve = ("streams open", *_there([(at, each.streams_open if each else None) for at, each in held]))
    frames: Curve = ("frames in flight", *_there([(at, each.frames_in_flight if each else None) for at, each in held]))
    if streams[1]:
        about = "What the server says that it holds: it must come down to nothing when all are gone."
        pictures.append(Picture("Streams and frames", about, _over_time([streams, frames], "", done.warm_s)))
    if ratios := _of_slices(done, lambda result: 100 * result.on_time_ratio):
        about = "Share of the frames of each valid slice, busy and single."
        pictures.append(Picture("On time", about, _on_time(ratios, done.warm_s)))
    if goodputs := _of_slices(done, lambda result: result.goodput_per_s):
        about = "Frames on time a second of each valid slice, busy and single."
        pictures.append(Picture("Goodput", about, _over_time(goodputs, "on time (1/s)", done.warm_s, np.min)))
    if p99s := _of_slices(done, lambda result: result.p99_ms):
        about = "The 99th percentile of latency from capture, of each valid slice, busy and single."
        pictures.append(Picture("Latency", about, _over_time(p99s, "p99 (ms)", done.warm_s)))
    return pictures


def _of_slices(done: Soak, value: Callable[[SliceResult], float | None]) -> list[Curve]:
    """One for each phase in which something is sent."""
    curves: list[Curve] = [
        (str(phase), *_there([(result.at_s, value(result)) for result in done.valid_in(phase)]))
        for phase in (Phase.BUSY, Phase.SINGLE)
    ]
    return [curve for curve in curves if curve[1]]


def _usage(done: Soak, series: list[Series]) -> list[Curve]:
    curves: list[Curve] = []
    for of in ("server", "harness"):
        for each in series:
            at_s, values = values_of(done.samples, of, each)
            # Of the harness, one line says enough.
            if values and (of == "server" or each.judged):
                curves.append((f"{of} {each.name}", at_s, [value / each.scale for value in values]))
    return curves


def _lags(done: Soak) -> list[Curve]:
    samples = done.samples
    curves: list[Curve] = [
        ("loop lag p99", *_there([(each.at_s, each.loop_lag.p99_ms if each.loop_lag else None) for each in samples])),
        (
            "loop lag, mean",
            *_there([(each.at_s, each.loop_lag.mean_ms if each.loop_lag else None) for each in samples]),
        ),
        ("answer, worst", *_there([(each.at_s, each.asked.answer_ms if each.asked else None) for each in samples])),
        # Of invalid slices too: it is why they are.
        ("harness sends late, p99", *_there([(each.at_s, each.lag_p99_ms) for each in done.slices])),
    ]
    return [curve for curve in curves if curve[1]]


def _there(points: list[tuple[float, float | int | None]]) -> tuple[list[float], list[float]]:
    there = [(at_s, float(value)) for at_s, value in points if value is not None]
    return [at_s for at_s, _ in there], [value for _, value in there]


def _on_time(ratios: list[Curve], warm_s: float) -> Json:
    """The scale begins a little below the worst, at 99 % at most."""
    figure = _over_time(ratios, "on time (%)", warm_s, np.min)
    reach = max(100 - min(min(values) for _, _, values in ratios), 1.0)
    layout = figure["layout"]
    assert isinstance(layout, dict)
    layout["yaxis"] = y_axis("on time (%)", range=[100 - 1.06 * reach, 100 + 0.04 * reach])
    return figure


def _over_time(curves: list[Curve], title: str, warm_s: float, worst: Callable[[Floats], np.float64] = np.max) -> Json:
    """Lines over hours, or minutes where there are no hours. `worst` of many values is the one that is drawn."""
    end_s = max((at_s[-1] for _, at_s, _ in curves if at_s), default=1.0)
    unit, unit_s = ("h", 3600.0) if end_s >= 2 * 3600 else ("min", 60.0)
    drawn = [(name, (_thinned(at_s, np.min) / unit_s, _thinned(values, worst))) for name, at_s, values in curves]
    data = lines(drawn, f"%{{y:,.5~g}} at %{{x:.4~g}} {unit}", {name: index for index, (name, _) in enumerate(drawn)})
    for line, (_, (x, _)) in zip(data, drawn, strict=True):
        line["mode"] = "lines" if len(x) > 1 else "markers"
    layout = single(HEIGHT) | {"hovermode": "closest"}
    if warm_s < end_s:
        layout["shapes"] = [
            {"type": "line", "x0": warm_s / unit_s, "x1": warm_s / unit_s, "yref": "paper", "y0": 0, "y1": 1}
            | {"line": {"color": "--rule", "width": 1.5, "dash": "dot"}}
        ]
    layout["xaxis"] = x_axis(f"time ({unit})", rangemode="tozero")
    layout["yaxis"] = y_axis(title, rangemode="tozero", separatethousands=True)
    return {"data": data, "layout": layout}


def _thinned(values: list[float], one_of: Callable[[Floats], np.float64]) -> Floats:
    found = np.array(values, np.float64)
    parts = np.array_split(found, min(len(found), POINTS_MAX)) if len(found) else []
    return np.array([one_of(part) for part in parts], np.float64)
