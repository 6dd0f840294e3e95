"""The picture of the lanes: which batch ran where and when, and what was given up meanwhile."""

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
from duly_load.results.outcomes import FrameOutcome

LANES_MAX = 16
"""Lanes of a policy that are drawn."""
ROW = 34
"""Height of a lane, px."""
MODEL_COLOURS = 8


@dataclass(slots=True)
class LanePanel:
    """What the lanes of one policy did within the window; lists of the same length, times in ms from its start."""

    policy: str
    lanes: list[str]
    """Those that have a row; at most `LANES_MAX`."""
    lane: list[str]
    model: list[str]
    size: list[int]
    """0: a run that warms the lane."""
    start_ms: list[float]
    end_ms: list[float]
    late: list[int]
    """Frames of the batch that were late."""
    lost: list[bool]
    """It never ended, its lane or model went away."""
    text: list[str]
    """What else is to be said of the batch."""
    missed_ms: dict[FrameOutcome, Floats]
    """When frames that never ran were given up, by how they ended; each time once."""


def lane_timeline(window_ms: float, panels: list[LanePanel]) -> Json:
    """Batches as bars on their lanes, coloured by model; under each policy's lanes the frames that it gave up."""
    models = sorted({model for panel in panels for model in panel.model})
    series = {model: f"--model-{nth % MODEL_COLOURS}" for nth, model in enumerate(models)}
    rows = max(len(panel.lanes) for panel in panels) + 1
    layout = panels_layout([panel.policy for panel in panels], ROW * rows)
    data: list[Json] = []
    told: set[str] = set()
    for nth, panel in enumerate(panels):
        row = {lane: number for number, lane in enumerate(panel.lanes)}
        for model in sorted(set(panel.model)):
            at = [each for each, name in enumerate(panel.model) if name == model]
            bars = _bars(panel, at, row, nth, told, f"model {model}", rank=0)
            bars["marker"] = {"color": series[model], "line": {"color": "--paper", "width": 1}}
            bars["text"] = [str(panel.size[each]) if panel.size[each] else "" for each in at]
            bars |= {"textposition": "inside", "insidetextanchor": "middle", "textangle": 0}
            bars["textfont"] = {"color": "--on-model", "size": 11}
            bars["hovertext"] = [
                f"{escape(model)}, {panel.size[each] or 'warms the lane'}<br>{escape(panel.text[each])}" for each in at
            ]
            bars["hoverinfo"] = "text"
            data.append(bars)
        for name, marks, ring in (
            ("batch with late frames", panel.late, "--late"),
            ("lost batch", panel.lost, "--failed"),
        ):
            if at := [each for each, mark in enumerate(marks) if mark]:
                frame = _bars(panel, at, row, nth, told, name, rank=1)
                frame["marker"] = {"color": "rgba(0,0,0,0)", "line": {"color": ring, "width": 2.5}}
                data.append(frame | {"hoverinfo": "skip"})
        for outcome, at_ms in panel.missed_ms.items():
            data.append(_ticks(outcome, at_ms, len(panel.lanes), nth, told))
        axis = layout[y_key(nth)]
        assert isinstance(axis, dict)
        axis |= {"range": [len(panel.lanes) + 0.6, -0.6], "fixedrange": True, "showgrid": False, "zeroline": False}
        axis |= {"tickvals": list(range(len(panel.lanes) + 1))}
        axis |= {"ticktext": [escape(lane) for lane in panel.lanes] + ["not run"]}
    layout |= {"barmode": "overlay", "bargap": 0.25, "hovermode": "closest"}
    layout |= {"uniformtext": {"minsize": 8, "mode": "hide"}}
    layout["xaxis"] = x_axis("time in the window (ms)", range=[0, window_ms], anchor=y_name(len(panels) - 1))
    return {"data": data, "layout": layout}


def _bars(panel: LanePanel, at: list[int], row: dict[str, int], nth: int, told: set[str], name: str, rank: int) -> Json:
    showlegend = name not in told
    told.add(name)
    start_ms = np.array([panel.start_ms[each] for each in at])
    return {
        "type": "bar",
        "orientation": "h",
        "name": escape(name),
        "legendgroup": name,
        "legendrank": rank,
        "showlegend": showlegend,
        "base": numbers(start_ms),
        "x": numbers(np.array([panel.end_ms[each] for each in at]) - start_ms),
        "y": [row[panel.lane[each]] for each in at],
        "width": 0.72,
        "yaxis": y_name(nth),
    }


def _ticks(outcome: FrameOutcome, at_ms: Floats, row: int, nth: int, told: set[str]) -> Json:
    showlegend = outcome.name not in told
    told.add(outcome.name)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": words(outcome),
        "legendgroup": outcome.name,
        "legendrank": 2 + OUTCOME_ORDER.index(outcome),
        "showlegend": showlegend,
        "x": numbers(at_ms),
        "y": [row] * len(at_ms),
        "yaxis": y_name(nth),
        "marker": {"symbol": "line-ns-open", "size": 14, "color": colour(outcome), "line": {"width": 2}},
        "hovertemplate": f"{words(outcome)} at %{{x:.2f}} ms<extra></extra>",
    }
