"""What all pictures have in common: colours by name, axes, panels."""

from html import escape
from math import isnan

import numpy as np
from numpy.typing import NDArray

from duly_load.results.outcomes import FrameOutcome

Json = dict[str, object]
Floats = NDArray[np.float64]

MARGINS = 110
"""The height that the axis titles and the legend take, px."""

NAME_MAX = 48
"""The most characters of a name in a picture or a row."""

LEGEND: Json = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}

OUTCOME_ORDER: tuple[FrameOutcome, ...] = (
    FrameOutcome.ON_TIME,
    FrameOutcome.LATE,
    FrameOutcome.EXPIRED,
    FrameOutcome.SHED,
    FrameOutcome.SUPERSEDED,
    FrameOutcome.SKIPPED,
    FrameOutcome.INVALID,
    FrameOutcome.CANCELLED,
    FrameOutcome.FAILED,
    FrameOutcome.REFUSED,
    FrameOutcome.UNSENT,
    FrameOutcome.UNANSWERED,
)


def words(outcome: FrameOutcome) -> str:
    """The name of an outcome for readers."""
    return outcome.name.lower().replace("_", " ")


def colour(outcome: FrameOutcome) -> str:
    """The CSS custom property that holds the outcome's colour."""
    return f"--{outcome.name.lower().replace('_', '-')}"


def shortened(name: str) -> str:
    """A name that others chose, as long as a legend can bear; long ones lose their middle: they differ at the end."""
    return name if len(name) <= NAME_MAX else f"{name[: NAME_MAX // 2]}…{name[-(NAME_MAX // 2) :]}"


def single(height_px: int) -> Json:
    """A layout of one panel, without its axes."""
    return {
        "height": height_px,
        "margin": {"l": 64, "r": 20, "t": 12, "b": 52},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "--ink"},
        "hoverlabel": {"bgcolor": "--paper", "bordercolor": "--rule", "font": {"color": "--ink"}},
        "legend": LEGEND,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "--rule", "activecolor": "--ink"},
        "showlegend": True,
    }


def panels_layout(names: list[str], panel_px: int) -> Json:
    """A layout of panels one above the other, each with its name over it and its own y axis."""
    gap_px = 30
    body_px = len(names) * (panel_px + gap_px)
    layout = single(body_px + MARGINS)
    annotations: list[Json] = []
    for index, name in enumerate(names):
        bottom = (len(names) - 1 - index) * (panel_px + gap_px) / body_px
        top = bottom + panel_px / body_px
        layout[y_key(index)] = y_axis("") | {"domain": [round(bottom, 4), round(top, 4)]}
        annotations.append(
            {
                "text": f"<b>{escape(shortened(name))}</b>",
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": round(top, 4),
            }
            | {"yref": "paper", "yanchor": "bottom", "showarrow": False}
        )
    over_name = {"y": 1 + 22 / body_px}
    return layout | {"annotations": annotations, "legend": LEGEND | over_name}


def y_name(index: int) -> str:
    """How traces name the y axis of the panel."""
    return "y" if index == 0 else f"y{index + 1}"


def y_key(index: int) -> str:
    """How the layout names it."""
    return "yaxis" if index == 0 else f"yaxis{index + 1}"


def x_axis(title: str, **more: object) -> Json:
    return _grid() | axis_title(title) | {"showline": True, "linecolor": "--rule", "ticks": "outside"} | more


def y_axis(title: str, **more: object) -> Json:
    return _grid() | axis_title(title) | more


def axis_title(text: str) -> Json:
    return {"title": {"text": escape(text), "font": {"size": 13, "color": "--quiet"}, "standoff": 10}}


def tail_axis(title: str, texts: list[str]) -> Json:
    """Shares from all to one in 10,000, on a logarithmic scale; `texts` name the powers of ten."""
    ticks: Json = {"tickvals": [1, 0.1, 0.01, 0.001, 0.0001], "ticktext": texts}
    return y_axis(title) | {"type": "log", "range": [-4.1, 0.06]} | ticks


def log_ticks(values: list[Floats]) -> Json:
    """A logarithmic axis with ticks at 1, 2 and 5 within up to three decades, at the powers of ten within more; closer
    where the values are.
    """
    positive = np.concatenate([[], *values])
    positive = positive[positive > 0]
    low, high = (np.log10(positive.min()), np.log10(positive.max())) if len(positive) else (0.0, 1.0)
    steps = (1,) if high - low > 3 else (1, 2, 5) if high - low > 0.7 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    ticks = [step * 10.0**power for power in range(int(np.floor(low)), int(np.ceil(high)) + 1) for step in steps]
    margin = 0.03 * max(high - low, 0.1)
    texts = [f"{tick:,.6g}" for tick in ticks]
    return {"type": "log", "range": [low - margin, high + margin], "tickvals": ticks, "ticktext": texts}


def numbers(values: Floats) -> list[float | None]:
    """Six digits are more than a picture shows and keep the page small. NaN becomes None: a gap in a line."""
    return [None if isnan(value) else float(f"{value:.6g}") for value in values.tolist()]


def _grid() -> Json:
    return {"gridcolor": "--grid", "zerolinecolor": "--rule", "tickcolor": "--rule", "automargin": True}
