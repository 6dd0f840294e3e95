"""The pictures of a report on simulated runs, computed from the runs themselves.

What arrived before the scenario's warm-up was over is left out. Policies share each picture, so that they compare.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duly.core.types import OutcomeStatus
from duly_load.report.figures import fairness, lower_tails, outcomes_over_time, upper_tails
from duly_load.report.lanes import LANES_MAX, LanePanel, lane_timeline
from duly_load.report.page import Picture
from duly_load.report.series import (
    MISSED,
    age_tail,
    bin_edges,
    busiest_ns,
    lower_tail,
    ranked,
    rates_by_status,
    upper_tail,
)
from duly_load.report.window import BATCHES_MAX, WINDOWS_NS, given_up_ms, ms, span, window_ns
from duly_load.results.tally import GOT_RESULT
from duly_sim.report.tables import Entry
from duly_sim.simulator.engine import Run
from duly_sim.simulator.results import SimulatedResults, ages_of, lane_left_ns
from duly_sim.simulator.world import World


@dataclass(slots=True)
class _Counted:
    """The frames of a run that count, and how long it counts."""

    arrival_ns: NDArray[np.int64]
    deadline_ns: NDArray[np.int64]
    resolved_ns: NDArray[np.int64]
    status: NDArray[np.int8]
    start_ns: int
    end_ns: int

    @property
    def missed(self) -> NDArray[np.bool_]:
        missed: NDArray[np.bool_] = np.isin(self.status, MISSED)
        return missed

    @property
    def served(self) -> NDArray[np.bool_]:
        got: NDArray[np.bool_] = np.isin(self.status, GOT_RESULT)
        return got


def _counted(world: World, run: Run) -> _Counted:
    start_ns = round(world.scenario.warm_s * 1e9)
    frames = run.frames
    keep = frames.arrival_ns >= start_ns
    return _Counted(
        frames.arrival_ns[keep],
        frames.deadline_ns[keep],
        run.resolved_ns[keep],
        run.status[keep],
        start_ns,
        round(world.scenario.duration_s * 1e9),
    )


def pictures(entries: list[Entry]) -> list[Picture]:
    counted = [(policy, _counted(world, run)) for policy, world, run, _ in entries]
    first = counted[0][1]
    edges_ns = bin_edges(first.start_ns, first.end_ns, len(first.status))
    return [
        Picture(
            "Outcomes over time",
            f"Frames by when they arrived, in bins of {span(int(edges_ns[1] - edges_ns[0]))}. The whole height is "
            "what was sent, the lowest layer is the goodput.",
            outcomes_over_time(
                edges_ns / 1e9,
                [(policy, rates_by_status(run.arrival_ns, run.status, edges_ns)) for policy, run in counted],
            ),
        ),
        Picture(
            "Latency",
            "From a frame's arrival to its result, of the frames that got one. At the height of p99, one result in a "
            "hundred took at least as long as the line says.",
            upper_tails(
                [
                    (policy, ms(upper_tail((run.resolved_ns - run.arrival_ns)[run.served].astype(np.float64))))
                    for policy, run in counted
                ],
                "latency (ms)",
            ),
        ),
        Picture(
            "Slack",
            "From a result to its deadline, of the frames that got one: what is left of 0 came late, and where a line "
            "meets 0 is the share of late results. It opens round 0; a line that is not seen lies further left.",
            lower_tails(
                [
                    (policy, ms(lower_tail((run.deadline_ns - run.resolved_ns)[run.served].astype(np.float64))))
                    for policy, run in counted
                ],
                "slack at the result (ms)",
            ),
        ),
        Picture(
            "Fairness",
            "On-time ratio of every stream, the worst first. A flat line treats all alike; one that starts near 0 "
            "starves somebody.",
            fairness([(policy, ranked(_stream_ratios(results))) for policy, _, _, results in entries]),
        ),
        Picture(
            "Age of information",
            "How old the newest result is that a stream holds, counted from its frame's arrival, over the time of all "
            "streams: at the height of p99, it is at least so old for one hundredth of the time. Frames that are never "
            "answered show here, as they do not in the latency.",
            upper_tails(
                [
                    (policy, ms(age_tail(ages_of(world.sessions, run, first.start_ns, first.end_ns))))
                    for policy, world, run, _ in entries
                ],
                "age of information (ms)",
            ),
        ),
        _lanes(entries, counted),
    ]


def _stream_ratios(results: SimulatedResults) -> NDArray[np.float64]:
    return np.array([stream.on_time_ratio for stream in results.by_stream.values() if stream.frames])


def _lanes(entries: list[Entry], counted: list[tuple[str, _Counted]]) -> Picture:
    """The lanes of all policies within one window: round the first miss of the policy that misses least."""
    missing = [(int(np.sum(run.missed)), nth) for nth, (_, run) in enumerate(counted) if np.any(run.missed)]
    if missing:
        policy, run = counted[min(missing)[1]]
        at_ns = int(run.resolved_ns[run.missed].min())
        why = f"round the first miss of {policy}"
    else:
        _, run = counted[0]
        at_ns = busiest_ns(run.arrival_ns, run.start_ns, run.end_ns, WINDOWS_NS[0])
        why = "where most frames arrive, since none was missed"
    start_ns, width_ns = window_ns(
        at_ns, run.start_ns, lambda *window: all(_readable(run, *window) for _, _, run, _ in entries)
    )
    end_ns = start_ns + width_ns
    hidden = max(len(world.scenario.to_simulate().lanes) for _, world, _, _ in entries) - LANES_MAX
    return Picture(
        "Lanes",
        f"Batches as bars that bear their size: {span(end_ns - start_ns)} from {start_ns / 1e9:.3f} s on, {why}. "
        "Ticks below are frames that never ran, at the time when they were given up."
        + (f" {hidden} more lanes are not shown." if hidden > 0 else ""),
        lane_timeline(
            (end_ns - start_ns) / 1e6,
            [_lane_panel(policy, world, run, start_ns, end_ns) for policy, world, run, _ in entries],
        ),
    )


def _readable(run: Run, start_ns: int, width_ns: int) -> bool:
    """Whether no lane began more batches within the window than can be told apart."""
    started_ns = np.array(run.batches.started_ns, np.int64)
    began = np.flatnonzero((started_ns >= start_ns) & (started_ns < start_ns + width_ns))
    on_lane = Counter(run.batches.lane[nth] for nth in began)
    return max(on_lane.values(), default=0) <= BATCHES_MAX


def _lane_panel(policy: str, world: World, run: Run, start_ns: int, end_ns: int) -> LanePanel:
    lanes = list(world.scenario.to_simulate().lanes[:LANES_MAX])
    batches = run.batches
    ended_ns = lane_left_ns(run)
    shown = [
        nth
        for nth, lane in enumerate(batches.lane)
        if batches.started_ns[nth] < end_ns and ended_ns[nth] > start_ns and lane in lanes
    ]
    ran_late = run.batch[(run.status == OutcomeStatus.LATE) & (run.batch >= 0)]
    late = np.bincount(ran_late, minlength=len(batches.size))
    return LanePanel(
        policy,
        lanes,
        [batches.lane[nth] for nth in shown],
        [batches.model[nth] for nth in shown],
        [batches.size[nth] for nth in shown],
        [(batches.started_ns[nth] - start_ns) / 1e6 for nth in shown],
        [(int(ended_ns[nth]) - start_ns) / 1e6 for nth in shown],
        [int(late[nth]) for nth in shown],
        [batches.ended_ns[nth] < 0 for nth in shown],
        [_told(run, nth, int(late[nth])) for nth in shown],
        given_up_ms(run.resolved_ns, run.status, run.batch < 0, start_ns, end_ns - start_ns),
    )


def _told(run: Run, nth: int, late: int) -> str:
    batches = run.batches
    if batches.ended_ns[nth] < 0:
        took = "never ended"
    else:
        took = f"took {(batches.ended_ns[nth] - batches.started_ns[nth]) / 1e6:.2f} ms"
    planned = f", planned {batches.planned_ns[nth] / 1e6:.2f} ms" if batches.planned_ns[nth] else ""
    return f"variant {batches.variant[nth]}: {took}{planned}" + (f", {late} late" if late else "")
