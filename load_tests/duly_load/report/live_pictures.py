"""The pictures of a report on live runs. What was due before the scenario's warm-up was over is left out.

Runs share each picture, so that they compare: several targets, or one target several times. Where a run has nothing to
show in a picture its text says so; where none has, there are the words alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duly_load.report.figures import Curve, fairness, outcomes_over_time, over_time, upper_tails
from duly_load.report.lanes import LANES_MAX, lane_timeline
from duly_load.report.layout import Floats, Json
from duly_load.report.live_batches import batches_of, lane_panel, readable, tells
from duly_load.report.live_tables import LiveEntry
from duly_load.report.page import Picture
from duly_load.report.series import (
    MISSED,
    age_tail,
    bin_edges,
    busiest_ns,
    percentiles_over_time,
    ranked,
    rates_by_status,
    upper_tail,
)
from duly_load.report.window import WINDOWS_NS, ms, span, window_ns
from duly_load.results.measure import NEVER_SENT, ages_of
from duly_load.results.record import Ints, LiveRun
from duly_load.results.tally import GOT_RESULT

LAG_MS_MIN = 1e-3
"""What the logarithmic axis of the lag begins with; lags may be 0."""

Curves = list[tuple[str, Curve]]


@dataclass(frozen=True, slots=True)
class _Counted:
    """The frames of a run that count; arrays of the same length."""

    arrival_ns: Ints
    outcome: NDArray[np.int8]
    latency_ns: Ints
    lag_ns: Ints

    @property
    def got_result(self) -> NDArray[np.bool_]:
        return np.isin(self.outcome, GOT_RESULT)

    @property
    def was_sent(self) -> NDArray[np.bool_]:
        was_sent: NDArray[np.bool_] = ~np.isin(self.outcome, NEVER_SENT)
        return was_sent


def _counted(run: LiveRun) -> _Counted:
    frames, record = run.schedule.frames, run.record
    keep = frames.arrival_ns >= round(run.scenario.warm_s * 1e9)
    return _Counted(frames.arrival_ns[keep], record.outcome[keep], record.latency_ns[keep], record.lag_ns[keep])


def pictures(entries: list[LiveEntry]) -> list[Picture]:
    """Of a run or more."""
    counted = [(name, _counted(run)) for name, run, _ in entries]
    scenario = entries[0][1].scenario
    start_ns, end_ns = round(scenario.warm_s * 1e9), round(scenario.duration_s * 1e9)
    edges_ns = bin_edges(start_ns, end_ns, len(counted[0][1].outcome))
    return [
        _latency(counted),
        _outcomes(counted, edges_ns),
        _over_time(counted, edges_ns),
        _of_curves(
            "Fairness",
            "On-time ratio of every stream, the worst first. A flat line treats all alike; one that starts near 0 "
            "starves somebody.",
            [
                (name, ranked(np.array([each.on_time_ratio for each in results.by_stream.values() if each.frames])))
                for name, _, results in entries
            ],
            "no stream that should have sent anything",
            fairness,
        ),
        _of_curves(
            "Age of information",
            "How old the newest result is that a stream holds, counted from its frame's capture, over the time of all "
            "streams: at the height of p99, it is at least so old for one hundredth of the time. Frames that are never "
            "answered show here, as they do not in the latency.",
            [(name, ms(age_tail(ages_of(run)))) for name, run, _ in entries],
            "no stream that was open",
            lambda curves: upper_tails(curves, "age of information (ms)"),
        ),
        _lanes(entries, counted, start_ns, end_ns),
    ]


def _of_curves(heading: str, about: str, curves: Curves, lacking: str, draw: Callable[[Curves], Json]) -> Picture:
    """`lacking`: what a run has not that has no curve."""
    there = [(name, curve) for name, curve in curves if len(curve[0])]
    without = [name for name, curve in curves if not len(curve[0])]
    if without:
        about = f"{about} There is {lacking} in {', '.join(without)}."
    return Picture(heading, about, draw(there) if there else None)


def _latency(counted: list[tuple[str, _Counted]]) -> Picture:
    return _of_curves(
        "Latency",
        "From capture, the moment for which a frame was intended, to its result, of frames that got one, on time or "
        "late. At the height of p99, one result in a hundred took at least as long as the line says.",
        [(name, ms(upper_tail(run.latency_ns[run.got_result].astype(np.float64)))) for name, run in counted],
        "no result",
        lambda curves: upper_tails(curves, "latency from capture (ms)"),
    )


def _outcomes(counted: list[tuple[str, _Counted]], edges_ns: Ints) -> Picture:
    heading, none = "Outcomes over time", "No frame was to be sent."
    if not any(len(run.outcome) for _, run in counted):
        return Picture(heading, none, None)
    return Picture(
        heading,
        f"Frames by when they were to arrive, in bins of {span(int(edges_ns[1] - edges_ns[0]))}. The whole height is "
        "what was intended, whether it could be sent or not; the lowest layer is the goodput.",
        outcomes_over_time(
            edges_ns / 1e9, [(name, rates_by_status(run.arrival_ns, run.outcome, edges_ns)) for name, run in counted]
        ),
    )


def _over_time(counted: list[tuple[str, _Counted]], edges_ns: Ints) -> Picture:
    """The harness's own lag beside what it measured."""
    latency: Curves = []
    lag: Curves = []
    for name, run in counted:
        of = run.got_result
        at_s, p99 = percentiles_over_time(run.arrival_ns[of], run.latency_ns[of] / 1e6, edges_ns, 99)
        if np.any(of):
            latency.append((name, (at_s, p99)))
        of = run.was_sent
        at_s, p99 = percentiles_over_time(run.arrival_ns[of], run.lag_ns[of] / 1e6, edges_ns, 99)
        if np.any(of):
            lag.append((name, (at_s, np.maximum(p99, LAG_MS_MIN))))
    heading = "Latency and the harness's own lag over time"
    unsent = [name for name, _ in counted if name not in dict(lag)]
    if not lag:
        return Picture(heading, "No frame was sent.", None)
    return Picture(
        heading,
        f"99th percentiles in bins of {span(int(edges_ns[1] - edges_ns[0]))}, latency from capture above, below how "
        "late the generator sent. A peak of the latency with one of the lag under it is the harness's or the "
        "machine's, not the target's. Gaps are bins without any."
        + (f" No frame was sent in {', '.join(unsent)}." if unsent else ""),
        over_time(
            [("Latency, p99", "latency (ms)", latency), ("Generator's lag, p99", "lag (ms)", lag)],
            _seconds(edges_ns[[0, -1]]),
        ),
    )


def _lanes(entries: list[LiveEntry], counted: list[tuple[str, _Counted]], start_ns: int, end_ns: int) -> Picture:
    """The batches of all runs that tell within one window: round the first miss of the run that misses least."""
    heading = "Lanes"
    telling = [(name, run) for name, run, _ in entries if tells(run)]
    if not telling:
        return Picture(heading, "No target tells when its batches ran, so that there is nothing to be shown.", None)
    missing = []
    for name, run in counted:
        missed_ns = run.arrival_ns[np.isin(run.outcome, MISSED)]
        if len(missed_ns) and name in dict(telling):
            missing.append((len(missed_ns), int(missed_ns.min()), name))
    if missing:
        _, at_ns, name = min(missing)
        why = f"round the first frame that {name} missed"
    else:
        arrival_ns = dict(counted)[telling[0][0]].arrival_ns
        at_ns, why = (
            busiest_ns(arrival_ns, start_ns, end_ns, WINDOWS_NS[0]),
            "where most frames arrive, none was missed",
        )
    widest_ns = (max(start_ns, at_ns - WINDOWS_NS[0]), at_ns + WINDOWS_NS[0])
    batches = [(name, run, batches_of(run, *widest_ns)) for name, run in telling]
    from_ns, width_ns = window_ns(
        at_ns, start_ns, lambda *window: all(readable(of_run, *window) for _, _, of_run in batches)
    )
    silent = [name for name, run, _ in entries if not tells(run)]
    hidden = max((batch.row + 1 for _, _, of_run in batches for batch in of_run), default=0) - LANES_MAX
    return Picture(
        heading,
        f"Batches as bars that bear their size: {span(width_ns)} from {from_ns / 1e9:.3f} s on, {why}. They are put "
        "together from what each frame was told; targets do not say on which lane, so that rows are what ran side by "
        "side. Ticks below are frames that never ran, at the time when the answer came."
        + (f" {', '.join(silent)} does not tell." if silent else "")
        + (f" {hidden} more rows are not shown." if hidden > 0 else ""),
        lane_timeline(
            width_ns / 1e6, [lane_panel(name, run, of_run, from_ns, width_ns) for name, run, of_run in batches]
        ),
    )


def _seconds(times_ns: Ints) -> Floats:
    return times_ns / 1e9
