"""Whether CRITICAL streams meet every deadline whatever their phases: the synchronous worst case.

Theory. A free lane takes the CRITICAL frame with the earliest deadline, and is not preemptive. C, D, T: planned time of
one frame, budget, period; B: the longest batch that may be running when a frame comes. A frame J that came at a with
deadline d misses only if it has not started by d - C, and until then every lane that could run it is busy. The test
counts what can keep the lanes busy; J is safe if that is too little.

One lane, the demand bound. Let t0 be the last instant before which no frame with a deadline up to d waits. From t0 on
the lane runs first what blocked it (B at most), then only frames that came at t0 or later with deadlines up to d. So no
frame misses if for every t, of which those of the form D + k T suffice,

    B + sum over streams with D <= t of (floor((t - D) / T) + 1) C <= t,

the condition of Jeffay, Stanat and Martel 1991 for non-preemptive EDF, for deadlines other than periods as in George,
Rivierre and Spuri 1996. It holds by itself from (B + sum max(0, T - D) C / T) / (1 - U) on, which bounds the points.

Several lanes (n), a window for each frame (Bertogna, Cirinei and Lipari 2005; non-preemptive: Guan et al. 2008). From a
to d - C all n lanes are busy. They run at most n batches that had begun before a, and frames with deadlines after a and
up to d; the earliest frame of a stream counts for no more than fits before its deadline. No frame misses if
n B + that work - C of J <= n (D - C).

Batches are planned no longer than their frames one by one, so each frame counts for at most C. Less urgent frames ride
along only behind all frames of their model that are more urgent, and only where no frame of another model waits whose
turn is before theirs. So at the start of a batch with frames due after d, no frame due up to d is left waiting outside
of it, and it counts as the blocking batch, from which t0 is counted.

The proof rests on these facts: no lane idles while a CRITICAL frame waits that it could run, none is passed over for a
better batch, runs take no longer than planned, frames of one stream come no less than a period apart, and a stream is
not bound to fewer lanes than its model has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from duly.core.types import ModelPlan, StreamDemand, in_ms

POINTS_MAX = 10_000
"""The most points in time that are checked for one lane; a set that needs more is too close to full to be promised."""


@dataclass(slots=True)
class _Task:
    """Streams with equal lanes, period, budget and frame time, which the tests count together."""

    stream_id: int
    """Id of the first of these streams."""
    lanes: tuple[str, ...]
    period_ns: int
    budget_ns: int
    frame_ns: int
    """Planned time of one frame alone, C."""
    streams: int = 0


def hard_schedulable(
    critical: Sequence[StreamDemand], plans: Mapping[str, ModelPlan], lanes: int, blocking_ns: int
) -> str:
    """Why these streams could miss a deadline; empty where they never do, in any phase, if plans hold.

    `critical` are all streams of CRITICAL class, each with a period. `lanes` is the number of lanes that are up.
    `blocking_ns` is the longest batch, of these or of less critical streams, that may be running when one of their
    frames comes; their own single frames are counted without it. The most accurate variant is counted. The test is
    sufficient and not necessary: streams that it refuses may still meet their deadlines.
    """
    equal: dict[tuple[tuple[str, ...], int, int, int], _Task] = {}
    for stream in critical:
        plan = plans.get(stream.model)
        if plan is None or not plan.lanes:
            return f"no lane serves model {stream.model}"
        frame_ns = max(plan.ranks[0][0], plan.promised_one_ns)
        if frame_ns > stream.budget_ns:
            return (
                f"stream {stream.stream_id}: one frame takes {in_ms(frame_ns)} of a budget of {in_ms(stream.budget_ns)}"
            )
        kind = (plan.lanes, stream.period_ns, stream.budget_ns, frame_ns)
        equal.setdefault(kind, _Task(stream.stream_id, *kind)).streams += 1
    tasks = list(equal.values())
    if len(critical) > 1 or any(task.budget_ns > task.period_ns for task in tasks):
        blocking_ns = max([blocking_ns, *(task.frame_ns for task in tasks)])
    lane_faults: dict[str, str] = {}
    for task in tasks:
        lane_fault = ""
        # The demand bound comes first: it is computed once for all streams of a lane, the window once for each stream.
        if min(lanes, len(task.lanes)) == 1:
            lane = task.lanes[0]
            if lane not in lane_faults:
                lane_faults[lane] = _lane_fault([other for other in tasks if lane in other.lanes], blocking_ns)
            lane_fault = lane_faults[lane]
            if not lane_fault:
                continue
        fault = _window_fault(task, tasks, lanes, blocking_ns)
        if fault:
            return lane_fault or fault
    return ""


def _lane_fault(tasks: list[_Task], blocking_ns: int) -> str:
    """Why the demand bound fails over all tasks that the lane may run; empty: it holds."""
    utilisation = sum(task.streams * task.frame_ns / task.period_ns for task in tasks)
    if utilisation >= 1:
        return f"CRITICAL frames one by one would take {utilisation:.0%} of their lane"
    early_ns = sum(
        task.streams * max(0, task.period_ns - task.budget_ns) * task.frame_ns / task.period_ns for task in tasks
    )
    until_ns = (blocking_ns + early_ns) / (1 - utilisation)
    points = [(task.budget_ns, nth) for nth, task in enumerate(tasks)]
    heapify(points)
    demand_ns = blocking_ns
    for _ in range(POINTS_MAX):
        point_ns, nth = points[0]
        if point_ns > until_ns:
            return ""
        task = tasks[nth]
        demand_ns += task.streams * task.frame_ns
        if demand_ns > point_ns:
            return (
                f"stream {task.stream_id}: with all frames that may be due within {in_ms(point_ns)} "
                f"its lane has to run {in_ms(demand_ns)}"
            )
        heapreplace(points, (point_ns + task.period_ns, nth))
    return f"CRITICAL streams fill {utilisation:.1%} of their lane, too much to be checked within {POINTS_MAX} points"


def _window_fault(task: _Task, tasks: list[_Task], lanes: int, blocking_ns: int) -> str:
    """Why other work may keep all lanes of the task busy until the latest start of a frame; empty: it can't."""
    count = min(lanes, len(task.lanes))
    work_ns = count * blocking_ns - task.frame_ns
    own = set(task.lanes)
    for other in tasks:
        if not own.isdisjoint(other.lanes):
            whole = max(0, (task.budget_ns - other.frame_ns) // other.period_ns + 1)
            part_ns = task.budget_ns - whole * other.period_ns
            work_ns += other.streams * (whole * other.frame_ns + max(0, min(other.frame_ns, part_ns)))
    room_ns = count * (task.budget_ns - task.frame_ns)
    if work_ns <= room_ns:
        return ""
    return (
        f"stream {task.stream_id}: {count} lanes may have to run {in_ms(work_ns)} before it, {in_ms(room_ns)} are left"
    )
