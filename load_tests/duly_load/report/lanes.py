"""The picture of the lanes: which batch ran where and when, and what was given up meanwhile.

Batches take milliseconds and runs minutes, so that a short stretch of time is shown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from duly_load.report.layout import (
    OUTCOME_ORDER,
    Floats,
    Json,
    colour,
    numbers,
    panels_layout,
    words,
    x_axis,
    y_key,
    y_name,
)
from duly_load.report.view import Batch, RunView
from duly_load.results.outcomes import FrameOutcome

WINDOWS_NS = tuple(step * 100_000 for step in (2000, 1000, 500, 200, 100, 50, 20, 10, 5, 2, 1))
"""The lanes are shown for the longest of these in which their batches are wide enough to be read."""
BEFORE_PERCENT = 30
"""Share of the window that lies before the moment that it is shown for."""
BATCHES_MAX = 80
"""The most batches of one lane that begin within the window."""
TICKS_MAX = 1000
"""Places within the window at which frames that never ran are marked; more would lie on the same pixels."""
LANES_MAX = 16
"""The most lanes of a run that are drawn."""
ROW = 34
"""The height of a lane, px."""
MODEL_COLOURS = 8


@dataclass(frozen=True, slots=True)
class LanePanel:
    """What the lanes of one run did within the window."""

    name: str
    lanes: list[str]
    """The lanes that have a row; at most `LANES_MAX`."""
    batches: list[Batch]
    """The batches to be drawn, on these lanes."""
    missed_ms: dict[FrameOutcome, Floats]
    """When frames that never ran were given up, from the start of the window, by how they ended; each time once."""


def window_ns(at_ns: int, start_ns: int, readable: Callable[[int, int], bool]) -> tuple[int, int]:
    """(start, width) of the window round `at_ns`, not before `start_ns`. `readable(start, width)` says if one is."""
    windows = [(max(start_ns, at_ns - width_ns * BEFORE_PERCENT // 100), width_ns) for width_ns in WINDOWS_NS]
    return next((window for window in windows if readable(*window)), windows[-1])


def readable(batches: Sequence[Batch], start_ns: int, width_ns: int) -> bool:
    """Whether no lane began more batches within the window than a reader can distinguish."""
    began = [batch.lane for batch in batches if start_ns <= batch.start_ns < start_ns + width_ns]
    return max(np.bincount(np.array(began, np.int64)).tolist(), default=0) <= BATCHES_MAX


def lane_panel(view: RunView, batches: Sequence[Batch], start_ns: int, width_ns: int) -> LanePanel:
    """What is to be drawn of the run within the window."""
    end_ns = start_ns + width_ns
    shown = [each for each in batches if each.lane < LANES_MAX and each.start_ns < end_ns and each.end_ns > start_ns]
    rows = range(max((each.lane for each in shown), default=0) + 1)
    lanes = list(view.lanes[:LANES_MAX]) or [f"row {row + 1}" for row in rows]
    tick_ns = width_ns // TICKS_MAX
    within = view.given_up & (view.resolved_ns >= start_ns) & (view.resolved_ns < end_ns)
    missed_ms = {
        each: np.unique((view.resolved_ns[of] - start_ns) // tick_ns) * tick_ns / 1e6
        for each in FrameOutcome
        if np.any(of := within & (view.outcome == each))
    }
    return LanePanel(view.name, lanes, shown, missed_ms)


def lane_timeline(start_ns: int, width_ns: int, panels: list[LanePanel]) -> Json:
    """Batches as bars on their lanes, coloured by model; under each run's lanes the frames that it gave up."""
    models = sorted({batch.model for panel in panels for batch in panel.batches})
    series = {model: f"--model-{index % MODEL_COLOURS}" for index, model in enumerate(models)}
    layout = panels_layout([panel.name for panel in panels], ROW * (max(len(panel.lanes) for panel in panels) + 1))
    data: list[Json] = []
    in_legend: set[str] = set()
    for index, panel in enumerate(panels):
        for model in sorted({batch.model for batch in panel.batches}):
            of = [batch for batch in panel.batches if batch.model == model]
            bars = _bars(of, start_ns, index, in_legend, f"model {model}", rank=0)
            bars["marker"] = {"color": series[model], "line": {"color": "--paper", "width": 1}}
            bars["text"] = [str(batch.size) if batch.size else "" for batch in of]
            bars |= {"textposition": "inside", "insidetextanchor": "middle", "textangle": 0}
            bars["textfont"] = {"color": "--on-model", "size": 11}
            bars["hovertext"] = [
                f"{escape(model)}, {batch.size or 'warms the lane'}<br>{escape(_text(batch))}" for batch in of
            ]
            bars["hoverinfo"] = "text"
            data.append(bars)
        late, lost = [each for each in panel.batches if each.late], [each for each in panel.batches if each.lost]
        for name, marked, ring in (("batch with late frames", late, "--late"), ("lost batch", lost, "--failed")):
            if marked:
                frame = _bars(marked, start_ns, index, in_legend, name, rank=1)
                frame["marker"] = {"color": "rgba(0,0,0,0)", "line": {"color": ring, "width": 2.5}}
                data.append(frame | {"hoverinfo": "skip"})
        for outcome, at_ms in panel.missed_ms.items():
            data.append(_ticks(outcome, at_ms, len(panel.lanes), index, in_legend))
        axis = layout[y_key(index)]
        assert isinstance(axis, dict)
        axis |= {"range": [len(panel.lanes) + 0.6, -0.6], "fixedrange": True, "showgrid": False, "zeroline": False}
        axis |= {"tickvals": list(range(len(panel.lanes) + 1))}
        axis |= {"ticktext": [escape(lane) for lane in panel.lanes] + ["not run"]}
    layout |= {"barmode": "overlay", "bargap": 0.25, "hovermode": "closest"}
    layout |= {"uniformtext": {"minsize": 8, "mode": "hide"}}
    layout["xaxis"] = x_axis("time in the window (ms)", range=[0, width_ns / 1e6], anchor=y_name(len(panels) - 1))
    return {"data": data, "layout": layout}


def _text(batch: Batch) -> str:
    took = "never ended" if batch.lost else f"took {(batch.end_ns - batch.start_ns) / 1e6:.2f} ms"
    return ", ".join(filter(None, (took, batch.about, f"{batch.late} late" if batch.late else "")))


def _bars(batches: list[Batch], start_ns: int, index: int, in_legend: set[str], name: str, rank: int) -> Json:
    showlegend = name not in in_legend
    in_legend.add(name)
    return {
        "type": "bar",
        "orientation": "h",
        "name": escape(name),
        "legendgroup": name,
        "legendrank": rank,
        "showlegend": showlegend,
        "base": numbers(np.array([(each.start_ns - start_ns) / 1e6 for each in batches])),
        "x": numbers(np.array([(each.end_ns - each.start_ns) / 1e6 for each in batches])),
        "y": [each.lane for each in batches],
        "width": 0.72,
        "yaxis": y_name(index),
    }


def _ticks(outcome: FrameOutcome, at_ms: Floats, row: int, index: int, in_legend: set[str]) -> Json:
    showlegend = outcome.name not in in_legend
    in_legend.add(outcome.name)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": words(outcome),
        "legendgroup": outcome.name,
        "legendrank": 2 + OUTCOME_ORDER.index(outcome),
        "showlegend": showlegend,
        "x": numbers(at_ms),
        "y": [row] * len(at_ms),
        "yaxis": y_name(index),
        "marker": {"symbol": "line-ns-open", "size": 14, "color": colour(outcome), "line": {"width": 2}},
        "hovertemplate": f"{words(outcome)} at %{{x:.2f}} ms<extra></extra>",
    }
