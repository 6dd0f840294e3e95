"""The pictures of a report, as plain plotly figures (`{"data": ..., "layout": ...}`) made from plain arrays.

They know nothing of where the numbers come from, simulator or live load. Colours are names of CSS custom properties
(`--late`): `page.js` looks them up when it draws, so that one figure serves the light and the dark scheme. Names that
others chose are escaped, since plotly reads its texts as markup.
"""

from html import escape

import numpy as np

from duly_load.report.layout import (
    OUTCOME_ORDER,
    Floats,
    Json,
    axis_title,
    colour,
    log_ticks,
    numbers,
    panels_layout,
    shortened,
    single,
    tail_axis,
    words,
    x_axis,
    y_axis,
    y_key,
    y_name,
)
from duly_load.results.outcomes import FrameOutcome

Curve = tuple[Floats, Floats]
"""Two arrays of the same length, x and y."""

POLICY_COLOURS = ("duly", "triton", "clockwork", "nexus", "symphony", "edf", "edf_window", "fifo")
"""Policies that keep their colour on every page, `--series-0` and on; others take the two behind, then those free."""
SERIES = 10
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "7px,2px", "2px,2px", "12px,3px", "4px,5px")

HEIGHT = 380
"""The height of a picture with one panel, px."""
PANEL = 150
"""The height of a panel, px."""


def policy_series(policies: list[str]) -> dict[str, int]:
    """Number of the colour and dash of each policy."""
    series = {policy: POLICY_COLOURS.index(policy) for policy in policies if policy in POLICY_COLOURS}
    free = [number for number in (8, 9, *range(1, 8)) if number not in series.values()] or [8, 9]
    others = [policy for policy in dict.fromkeys(policies) if policy not in series]
    return series | {policy: free[index % len(free)] for index, policy in enumerate(others)}


def outcomes_over_time(edges_s: Floats, panels: list[tuple[str, dict[FrameOutcome, Floats]]]) -> Json:
    """Frames per second by outcome, stacked, in bins of arrival; a panel for each policy, all to the same scale.

    `edges_s` has one number more than each array of rates.
    """
    data: list[Json] = []
    in_legend: set[FrameOutcome] = set()
    for index, (_, rates) in enumerate(panels):
        for outcome in OUTCOME_ORDER:
            if outcome not in rates:
                continue
            data.append(
                {
                    "type": "bar",
                    "name": words(outcome),
                    "legendgroup": outcome.name,
                    "showlegend": outcome not in in_legend,
                    "legendrank": OUTCOME_ORDER.index(outcome),
                    "x": numbers((edges_s[:-1] + edges_s[1:]) / 2),
                    "width": numbers(np.diff(edges_s)),
                    "y": numbers(rates[outcome]),
                    "yaxis": y_name(index),
                    "marker": {"color": colour(outcome), "line": {"width": 0}},
                    "hovertemplate": "%{y:,.5~g}/s",
                }
            )
            in_legend.add(outcome)
    layout = panels_layout([name for name, _ in panels], PANEL)
    for index in range(len(panels)):
        axis = layout[y_key(index)]
        assert isinstance(axis, dict)
        axis |= {"rangemode": "tozero", "nticks": 4, "separatethousands": True} | axis_title("frames/s")
        if index:
            axis["matches"] = "y"
    layout |= {"barmode": "stack", "bargap": 0, "hovermode": "x unified"}
    layout["xaxis"] = x_axis("time (s)", range=numbers(edges_s[[0, -1]]), anchor=y_name(len(panels) - 1))
    return {"data": data, "layout": layout}


def upper_tails(curves: list[tuple[str, Curve]], x_title: str) -> Json:
    """Share of the values that are at least x, on a logarithmic scale: how far out the tail goes."""
    layout = single(HEIGHT) | {"hovermode": "closest"}
    layout["xaxis"] = x_axis(x_title, **log_ticks([x for _, (x, _) in curves]))
    layout["yaxis"] = tail_axis("percentile", ["all", "p90", "p99", "p99.9", "p99.99"])
    return {"data": lines(curves, "%{x:.4~g} ms, reached by %{y:.3~%}"), "layout": layout}


def lower_tails(curves: list[tuple[str, Curve]], x_title: str) -> Json:
    """Share of the values that are at most x, on a logarithmic scale; a line at 0 divides the good from the bad.

    The picture opens on what lies round 0, as far below it as the greatest value lies above; the rest can be zoomed to.
    """
    greatest = max((float(x.max()) for _, (x, _) in curves if len(x)), default=1.0)
    least = min((float(x.min()) for _, (x, _) in curves if len(x)), default=0.0)
    reach = greatest if greatest > 0 else -least or 1.0
    layout = single(HEIGHT) | {
        "hovermode": "closest",
        "shapes": [
            {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1}
            | {"line": {"color": "--late", "width": 1.5, "dash": "dot"}}
        ],
    }
    layout["xaxis"] = x_axis(
        x_title, range=numbers(np.array([max(min(least, 0.0), -reach) - 0.03 * reach, 1.05 * reach]))
    )
    layout["yaxis"] = tail_axis("share with less slack", ["100 %", "10 %", "1 %", "0.1 %", "0.01 %"])
    return {"data": lines(curves, "%{y:.3~%} have at most %{x:.4~g} ms"), "layout": layout}


def fairness(curves: list[tuple[str, Curve]]) -> Json:
    """On-time ratio of each stream, the worst first: a flat curve is fair, one that starts at 0 starves somebody.

    The scale begins a little below the worst, at 99 % at most.
    """
    worst = min((float(y.min()) for _, (_, y) in curves if len(y)), default=0.0)
    reach = max(1 - worst, 0.01)
    layout = single(HEIGHT) | {"hovermode": "closest"}
    layout["xaxis"] = x_axis("streams, the worst first", range=[-0.02, 1.02], tickformat=".0%", zeroline=False)
    layout["yaxis"] = y_axis(
        "on-time ratio of the stream", range=[1 - 1.06 * reach, 1 + 0.04 * reach], tickformat=".3~%"
    )
    data = lines(curves, "%{x:.3~%} of the streams have at most %{y:.4~%} on time")
    for line, (_, (x, _)) in zip(data, curves, strict=True):
        line["mode"] = "lines+markers" if len(x) <= 40 else "lines"
    return {"data": data, "layout": layout}


def against_load(
    curves: list[tuple[str, list[tuple[float, float, float, float]]]],
    load: str,
    measure: str,
    hover: str,
    **axis: object,
) -> Json:
    """Median of each policy's runs at a load, in a band from the least to the greatest of them.

    `curves`: (policy, [(load, least, median, greatest)]), each with a point at least. `load` and `measure` are the
    titles of the axes, `hover` how plotly writes a median (`%{y:.2~%}`), `axis` what else there is to the y axis.
    """
    series = policy_series([policy for policy, _ in curves])
    data: list[Json] = []
    for policy, points in curves:
        at, least, median, greatest = (np.array(column) for column in zip(*sorted(points), strict=True))
        look = f"--series-{series[policy]}"
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": numbers(np.concatenate([at, at[::-1]])),
                "y": numbers(np.concatenate([greatest, least[::-1]])),
                "fill": "toself",
                "fillcolor": look,
                "opacity": 0.18,
                "line": {"width": 0},
                "legendgroup": policy,
                "showlegend": False,
                "hoverinfo": "skip",
            }
        )
        line = lines([(policy, (at, median))], f"{hover} at %{{x:,.4~g}}", series)[0]
        data.append(line | {"mode": "lines+markers", "legendgroup": policy})
    layout = single(HEIGHT + 80) | {"hovermode": "closest"}
    layout["xaxis"] = x_axis(load, separatethousands=True)
    layout["yaxis"] = y_axis(measure, **({"rangemode": "tozero", "separatethousands": True} | axis))
    return {"data": data, "layout": layout}


def over_time(panels: list[tuple[str, str, list[tuple[str, Curve]]]], end_s: Floats) -> Json:
    """Lines over one axis of time in s, a panel for each measure, one above the other.

    `panels`: (what it shows, title of its y axis, [(policy, (times, values))]); values are drawn on a logarithmic
    scale, NaN leaves a gap. `end_s`: where the axis begins and ends.
    """
    data: list[Json] = []
    layout = panels_layout([name for name, _, _ in panels], PANEL)
    series = policy_series([policy for _, _, curves in panels for policy, _ in curves])
    in_legend: set[str] = set()
    for index, (_, title, curves) in enumerate(panels):
        for line, (policy, (x, _)) in zip(lines(curves, "%{y:.4~g} at %{x:.5~g} s", series), curves, strict=True):
            shown = {"yaxis": y_name(index), "legendgroup": policy, "showlegend": policy not in in_legend}
            in_legend.add(policy)
            data.append(line | shown | {"mode": "lines+markers" if len(x) <= 40 else "lines"})
        axis = layout[y_key(index)]
        assert isinstance(axis, dict)
        axis |= log_ticks([y[np.isfinite(y)] for _, (_, y) in curves]) | axis_title(title)
    layout["hovermode"] = "closest"
    layout["xaxis"] = x_axis("time (s)", range=numbers(end_s), anchor=y_name(len(panels) - 1))
    return {"data": data, "layout": layout}


def lines(curves: list[tuple[str, Curve]], hover: str, series: dict[str, int] | None = None) -> list[Json]:
    """A trace for each of `curves`, whose `hover` is how plotly writes a point; `series`: as `policy_series`, whose
    answer it is unless given.
    """
    number_of = series or policy_series([policy for policy, _ in curves])
    dashes = DASHES if len(number_of) > 1 else ("solid",) * len(DASHES)
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": escape(shortened(policy)),
            "x": numbers(x),
            "y": numbers(y),
            "line": {"color": f"--series-{number_of[policy]}", "width": 2.25, "dash": dashes[number_of[policy]]},
            "marker": {"color": f"--series-{number_of[policy]}", "size": 6},
            "hovertemplate": f"{escape(shortened(policy))}: {hover}<extra></extra>",
        }
        for policy, (x, y) in curves
    ]
