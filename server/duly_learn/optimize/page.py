"""The report of `duly models optimize`: one HTML page that says what was made, how good and how fast it is, and why
what is not kept is not.
"""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from duly_learn.optimize.judged import Judged
from duly_learn.optimize.rule import RISK
from duly_learn.optimize.run import Found
from duly_learn.report.frames import drawn, said, series
from duly_learn.report.page import Cell, Figure, Json, Pair, Section, Table, Verdict, layout, render

_SIGNS = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚", "star": "★"}
"""Plotly's marks, and how they look."""
COLOURS = 8
"""The page has so many for series."""


def _mark(place: int) -> str:
    return list(_SIGNS)[place % len(_SIGNS)]


def report(found: Found) -> str:
    """Returns the page. Raises ModuleNotFoundError where plotly is not installed."""
    version = found.asked.version
    title = f"{version.key}: faster variants"
    return render(title, _facts(found), _verdict(found), [_accuracy_and_latency(found), _table(found), *_worst(found)])


def _facts(found: Found) -> list[tuple[str, str]]:
    asked = found.asked
    compared = "the mean" if asked.by_mean else "the lower end of the interval"
    return [
        ("model", asked.version.key),
        ("answers compared by", found.measure.name),
        ("tolerance", f"{asked.tolerance:g}, for {compared}"),
        ("intervals", f"the lower ends of all {found.rule.candidates} candidates hold at once with {1 - RISK:.0%}"),
        *([("lost before", f"{found.rule.lost:.4g}")] if found.rule.lost else []),
        ("frames to fit to", str(found.rule.fitted)),
        ("frames held out", str(len(found.held_out))),
        ("from", ", ".join(path.name for path in asked.places)),
        ("seed", str(asked.seed)),
        ("threads", str(asked.version.config.threads or asked.threads)),
        ("machine", _processor()),
    ]


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _verdict(found: Found) -> Verdict:
    reasons = [f"{each.name}: {refusal}" for each in found.candidates for refusal in each.refusals]
    if not found.number:
        return Verdict(False, f"Nothing is faster within the tolerance of {found.asked.tolerance:g}", reasons)
    names = ", ".join(variant.name for variant in found.variants)
    return Verdict(True, f"{found.asked.version.name}/{found.number} is written, with {names}", reasons)


def _accuracy_and_latency(found: Found) -> Section:
    measured = [each for each in found.candidates if each.times and each.agreement is not None]
    sizes = sorted({size for each in measured for size in each.times})
    originals = {
        size: [ns for each in measured if size in each.times for ns in each.times[size].original_ns] for size in sizes
    }
    data = [_line(found.original, originals, sizes, 0)]
    for place, each in enumerate(measured, 1):
        data.append(_line(each, {size: times.candidate_ns for size, times in each.times.items()}, sizes, place))
    shape = layout(460, "ms for a batch", f"agreement ({found.measure.name})")
    shape["xaxis"] = _object(shape["xaxis"]) | {"type": "log"}
    least = 1 - found.asked.tolerance
    line: Json = {"color": "--bad", "dash": "dash", "width": 1}
    shape["shapes"] = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": least, "y1": least, "line": line}]
    about = (
        "The further left, the faster; the higher, the more alike the original's answers. Bars reach to the ends of "
        "the confidence interval of the agreement, and from the fastest to the slowest round. What lies below the "
        "dashed line is beyond the tolerance. "
    )
    about += (
        f"Signs are batch sizes: {', '.join(f'{_SIGNS[_mark(place)]} {size}' for place, size in enumerate(sizes))}."
    )
    if not measured:
        return Section("Accuracy against latency", "Nothing could be measured.", [])
    return Section("Accuracy against latency", about, [Figure(data, shape)])


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _line(each: Judged, times_ns: Mapping[int, Sequence[float]], sizes: Sequence[int], place: int) -> Json:
    """The points of one variant, from batch size to batch size."""
    ends = [(size, min(ns) / 1e6, median(ns) / 1e6, max(ns) / 1e6) for size, ns in sorted(times_ns.items())]
    agreement = each.agreement
    mean, low, high = (agreement.mean, agreement.low, agreement.high) if agreement is not None else (0.0, 0.0, 0.0)
    colour = f"--series-{place % COLOURS}"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": each.name,
        "x": [middle for _, _, middle, _ in ends],
        "y": [mean] * len(ends),
        "text": [f"{each.name}, batches of {size}" for size, *_ in ends],
        "hovertemplate": "%{text}<br>%{x:.3g} ms<br>agreement %{y:.4f}<extra></extra>",
        "line": {"color": colour, "width": 1, "dash": "dot"},
        "marker": {
            "size": 12,
            "symbol": [_mark(sizes.index(size)) for size, *_ in ends],
            "color": colour,
        },
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high - mean] * len(ends),
            "arrayminus": [mean - low] * len(ends),
            "thickness": 1,
            "color": colour,
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [most - middle for _, _, middle, most in ends],
            "arrayminus": [middle - least for _, least, middle, _ in ends],
            "thickness": 1,
            "color": colour,
        },
    }


def _table(found: Found) -> Section:
    everybody = (found.original, *found.candidates)
    sizes = sorted({size for each in everybody for size in each.warm_ns})
    columns = ["variant", "", "agreement", "interval", "size"]
    for size in sizes:
        columns += [f"batches of {size}", "times as fast", "warm-up"]
    columns.append("energy of a frame")
    chosen = {variant.name for variant in found.variants}
    rows = [_row(each, sizes, each.name in chosen) for each in everybody]
    words = [[Cell(each.name), *(Cell(text, "words") for text in _words(each))] for each in everybody]
    about = (
        "Agreement is that with the original on frames that were held out. Times are the worker's own, with reading "
        "and writing the frames: the median of rounds in which both ran by turns, and how far the rounds lie apart; "
        "how many times as fast is the median of the rounds' own ratios, with their first quartile. The warm-up is the "
        "median that the scheduler begins with."
    )
    if found.no_joules:
        about += f" Energy: {found.no_joules}."
    return Section(
        "What was made", about, [Table(columns, rows), Table(["variant", "what was done", "why not"], words)]
    )


def _row(each: Judged, sizes: Sequence[int], chosen: bool) -> list[Cell]:
    agreement = each.agreement
    row = [
        Cell(each.name),
        Cell("kept", "good") if chosen else Cell("not kept", "bad") if each.refusals else Cell("left out"),
        Cell("-" if agreement is None else f"{agreement.mean:.4f}" + (" (same)" if each.same else ""), "number"),
        Cell("-" if agreement is None else f"{agreement.low:.4f} to {agreement.high:.4f}", "number"),
        Cell(f"{each.size_bytes / 1e6:,.3g} MB" if each.size_bytes else "-", "number"),
    ]
    for size in sizes:
        times = each.times.get(size)
        warm = each.warm_ns.get(size)
        row += [
            Cell("-" if times is None else times.spread_ms(times.candidate_ns), "number"),
            Cell("-" if times is None else f"{times.ratio:.2f} (from {times.ratio_low:.2f})", "number"),
            Cell("-" if warm is None else f"{warm / 1e6:.3g} ms", "number"),
        ]
    return [*row, Cell("-" if each.joules is None else f"{each.joules:.3g} J", "number")]


def _words(each: Judged) -> tuple[str, str]:
    done = ". ".join(word.rstrip(".") for word in (each.said, *each.notes) if word)
    return done or "nothing was made", "; ".join(each.refusals)


def _worst(found: Found) -> list[Section]:
    labels = {spec.name: spec.labels for spec in found.signature.outputs if spec.labels}
    if not labels and found.asked.version.labels:
        labels = {"classes": found.asked.version.labels}
    sections: list[Section] = []
    for each in found.candidates:
        parts: list[Table | Figure | Pair | str] = []
        for frame, got in each.worst:
            held_out, expected = found.held_out[frame.index], found.expected[frame.index]
            parts.append(f"{Path(held_out.stream).name}, frame {frame.index} of those held out: {frame.score:.3f}")
            names = (found.original.name, each.name)
            pictures = [
                drawn(held_out, answer, labels, name) for answer, name in zip((expected, got), names, strict=True)
            ]
            shown = [picture for picture in pictures if picture is not None]
            if not shown:
                answers = (
                    f"{name}: {said(answer, labels)}" for answer, name in zip((expected, got), names, strict=True)
                )
                parts.append("; ".join(answers))
            parts.append(Pair(shown or series(held_out, expected, got, names)))
            if frame.reason:
                parts.append(f"{each.name} gave no answer: {frame.reason}")
        if parts:
            about = "The held-out frames on which the two agree least: the original's answer beside the candidate's."
            sections.append(Section(f"Worst frames of {each.name}", about, parts))
    return sections
