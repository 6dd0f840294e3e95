"""The pictures of a report on runs. What was due before the scenario's warm-up was over is left out.

Runs share each picture, so that they compare: several targets or policies, or one of them several times. Where a run
has nothing to show in a picture its text says so; where none has, there are the words alone.
"""

from collections.abc import Callable, Sequence

import numpy as np

from duly_load.report.figures import Curve, fairness, lower_tails, outcomes_over_time, over_time, upper_tails
from duly_load.report.lanes import LANES_MAX, WINDOWS_NS, lane_panel, lane_timeline, readable, window_ns
from duly_load.report.layout import Json
from duly_load.report.page import Picture
from duly_load.report.series import (
    MISSED,
    age_tail,
    bin_edges,
    busiest_ns,
    lower_tail,
    percentiles_over_time,
    ranked,
    rates_by_status,
    upper_tail,
)
from duly_load.report.view import Floats, Ints, RunView
from duly_load.results.measure import NEVER_SENT

LAG_MS_MIN = 1e-3
"""What the logarithmic axis of the lag begins with; lags may be 0."""

Curves = list[tuple[str, Curve]]


def pictures(views: Sequence[RunView]) -> list[Picture]:
    """All pictures of a run or more; the first one's time is everybody's."""
    first = views[0]
    edges_ns = bin_edges(first.start_ns, first.end_ns, len(first.outcome))
    return [
        _of_curves(
            "Latency",
            "From capture, the moment for which a frame was intended, to its result, of frames that got one, on time "
            "or late. At the height of p99, one result in a hundred took at least as long as the line says.",
            [(view.name, _ms(upper_tail(view.latency_ns.astype(np.float64)))) for view in views],
            "no result",
            lambda curves: upper_tails(curves, "latency from capture (ms)"),
        ),
        _outcomes(views, edges_ns),
        _over_time(views, edges_ns),
        _of_curves(
            "Slack",
            "From a result to its deadline, of frames that got one: what is left of 0 came late, and where a line "
            "meets 0 is the share of late results. It opens round 0; a line that is not seen lies further left.",
            [(view.name, _ms(lower_tail(view.slack_ns.astype(np.float64)))) for view in views],
            "no result",
            lambda curves: lower_tails(curves, "slack at the result (ms)"),
        ),
        _of_curves(
            "Fairness",
            "On-time ratio of every stream, the worst first. A flat line treats all alike; one that starts near 0 "
            "starves somebody.",
            [(view.name, ranked(view.stream_ratios)) for view in views],
            "no stream that should have sent anything",
            fairness,
        ),
        _of_curves(
            "Age of information",
            "How old the newest result is that a stream holds, counted from its frame's capture, over the time of all "
            "streams: at the height of p99, it is at least so old for one hundredth of the time. Frames that are never "
            "answered show here, as they do not in the latency.",
            [(view.name, _ms(age_tail(view.outcomes.ages))) for view in views],
            "no stream that was open",
            lambda curves: upper_tails(curves, "age of information (ms)"),
        ),
        _lanes(views),
    ]


def _of_curves(heading: str, about: str, curves: Curves, lacking: str, draw: Callable[[Curves], Json]) -> Picture:
    """`lacking`: what a run has not that has no curve."""
    there = [(name, curve) for name, curve in curves if len(curve[0])]
    without = [name for name, curve in curves if not len(curve[0])]
    if without:
        about = f"{about} There is {lacking} in {', '.join(without)}."
    return Picture(heading, about, draw(there) if there else None)


def _outcomes(views: Sequence[RunView], edges_ns: Ints) -> Picture:
    heading, none = "Outcomes over time", "No frame was to be sent."
    if not any(len(view.outcome) for view in views):
        return Picture(heading, none, None)
    return Picture(
        heading,
        f"Frames by when they were to arrive, in bins of {_span(int(edges_ns[1] - edges_ns[0]))}. The whole height is "
        "what was intended, whether it could be sent or not; the lowest layer is the goodput.",
        outcomes_over_time(
            edges_ns / 1e9,
            [(view.name, rates_by_status(view.arrival_ns, view.outcome, edges_ns)) for view in views],
        ),
    )


def _over_time(views: Sequence[RunView], edges_ns: Ints) -> Picture:
    """Latency, and for live runs the harness's own lag beside it."""
    latency: Curves = []
    lag: Curves = []
    unsent = []
    for view in views:
        if np.any(of := view.got_result):
            latency.append((view.name, percentiles_over_time(view.arrival_ns[of], view.latency_ns / 1e6, edges_ns, 99)))
        if view.lag_ns is None:
            continue
        if np.any(of := ~np.isin(view.outcome, NEVER_SENT)):
            at_s, p99 = percentiles_over_time(view.arrival_ns[of], view.lag_ns[of] / 1e6, edges_ns, 99)
            lag.append((view.name, (at_s, np.maximum(p99, LAG_MS_MIN))))
        else:
            unsent.append(view.name)
    live = any(view.lag_ns is not None for view in views)
    heading = "Latency and the harness's own lag over time" if live else "Latency over time"
    if not lag if live else not latency:
        return Picture(heading, "No frame was sent." if live else "There is no result.", None)
    about = f"99th percentiles of the latency from capture in bins of {_span(int(edges_ns[1] - edges_ns[0]))}."
    panels = [("Latency, p99", "latency (ms)", latency)]
    if live:
        panels.append(("Generator's lag, p99", "lag (ms)", lag))
        about += (
            " Below, how late the generator sent: a peak of the latency with one of the lag under it is the harness's "
            "or the machine's, not the target's."
        )
    about += " Gaps are bins without any." + (f" No frame was sent in {', '.join(unsent)}." if unsent else "")
    return Picture(heading, about, over_time(panels, edges_ns[[0, -1]] / 1e9))


def _lanes(views: Sequence[RunView]) -> Picture:
    """The batches of all runs that report them, in a window round the first miss of the run that misses least."""
    heading = "Lanes"
    reporting = [view for view in views if view.batches is not None]
    if not reporting:
        return Picture(heading, "No target tells when its batches ran, so that there is nothing to be shown.", None)
    missing = []
    for index, view in enumerate(reporting):
        missed_ns = view.resolved_ns[np.isin(view.outcome, MISSED)]
        if len(missed_ns):
            missing.append((len(missed_ns), index, int(missed_ns.min())))
    first = reporting[0]
    if missing:
        _, index, at_ns = min(missing)
        why = f"round the first miss of {reporting[index].name}"
    else:
        at_ns = busiest_ns(first.arrival_ns, first.start_ns, first.end_ns, WINDOWS_NS[0])
        why = "where most frames arrive, since none was missed"
    widest_ns = (max(first.start_ns, at_ns - WINDOWS_NS[0]), at_ns + WINDOWS_NS[0])
    batches = [(view, view.batches(*widest_ns)) for view in reporting if view.batches is not None]
    from_ns, width_ns = window_ns(
        at_ns, first.start_ns, lambda *window: all(readable(of_run, *window) for _, of_run in batches)
    )
    about = f"Batches as bars that bear their size: {_span(width_ns)} from {from_ns / 1e9:.3f} s on, {why}. "
    if not all(view.lanes for view in reporting):
        about += (
            "They are put together from what each frame reports; targets do not say on which lane, so that rows are "
            "what ran side by side. "
        )
    about += "Ticks below are frames that never ran, at the time when they were given up."
    if silent := [view.name for view in views if view.batches is None]:
        about += f" {', '.join(silent)} does not tell."
    rows = [max([len(view.lanes), *(batch.lane + 1 for batch in of_run)]) for view, of_run in batches]
    if max(rows) > LANES_MAX:
        about += f" {max(rows) - LANES_MAX} more lanes are not shown."
    panels = [lane_panel(view, of_run, from_ns, width_ns) for view, of_run in batches]
    return Picture(heading, about, lane_timeline(from_ns, width_ns, panels))


def _span(span_ns: int) -> str:
    """A span of time for people."""
    return f"{span_ns / 1e9:.4g} s" if span_ns >= 1_000_000_000 else f"{span_ns / 1e6:.4g} ms"


def _ms(curve: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """A curve over ns as one over ms."""
    return curve[0] / 1e6, curve[1]
