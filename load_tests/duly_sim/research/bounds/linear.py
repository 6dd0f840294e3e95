"""A bound on the frames that any scheduler could deliver on time, for several models, lanes and budgets.

The scheduler that is bounded is that of `optimum`: it knows every arrival beforehand, a batch of b frames of model m
takes exactly times_m(b) on any lane, holds frames of m alone, starts when all of them have arrived, is never
interrupted and ends by the earliest deadline among them. The optimum itself is out of reach here; the bound is what a
linear programme allows that keeps only rules that every such schedule obeys.

*What a frame costs.* A batch of b frames that starts at S and ends on time has b frames of m that arrived by S and
are due at or after S + times_m(b). Let B(i) be the sizes b for which that many frames, i among them, exist for some
S, and c(i) = min over b in B(i) of times_m(b) / b. Each frame of a batch of b has b in B(i), so the sum of c(i) over
the batch is at most times_m(b): no schedule spends less lane time than the c(i) of the frames that it has on time. A
frame with no b at all cannot be on time. Where a model's frames come thinly, its batches are small and its frames
dear: this is how the fixed cost of a batch enters, which a linear programme cannot otherwise charge.

*Where it is spent.* The batch of a frame runs between that frame's arrival and its deadline, whoever else is in it.
So in every interval [s, t] the frames on time that arrive at or after s and are due by t cost at most lanes * (t - s)
together. With x(i) the part of frame i that is served, the bound is

    maximise   sum of x(i)
    where      0 <= x(i) <= 1                                                            for each i
               sum of c(i) * x(i) over i that arrive from s on, due by t <= lanes * (t - s)   for all s < t

*How it is solved.* By max-flow min-cut those conditions hold exactly when the work c(i) * x(i) of each frame can be
spread over the time between its arrival and its deadline with no instant given more than `lanes` (W. Horn, "Some
simple scheduling algorithms", Naval Research Logistics Quarterly 21, 1974). What can so be drawn from the sources of a
network is a polymatroid, on which taking the best first is optimal (J. Edmonds, "Submodular functions, matroids, and
certain polyhedra", 1970): the best are the cheapest frames. So with W(c) the most work that the frames that cost at
most c can be given, the value is the sum over the costs in rising order of (W(c) - W(the cost before)) / c. And W is
what earliest deadline first does when work may be split and interrupted at will: at every instant it serves a frame
that leaves the least time to be served otherwise (F. Glover, "Maximum matching in a convex bipartite graph", Naval
Research Logistics Quarterly 14, 1967). That takes no solver and no grid, and time in proportion to frames * costs.

How tight: with the T4 table, 15 ms and Poisson arrivals at one lane the optimum is 98 % of the bound at 700 frames/s,
93 % at 1,000, where it is widest, and 98 % at 6,000; with 60 ms over 99 %. What is lost is that batches follow each
other whole, so the bound is loose (84 %) where a budget holds little more than one batch.

It says nothing about service times that scatter: a run with lucky times may exceed it.
"""

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray


def linear_bound(
    arrival_ns: NDArray[np.int64],
    deadline_ns: NDArray[np.int64],
    model_index: NDArray[np.integer],
    times_ns_by_model: Sequence[Sequence[int]],
    lanes: int,
) -> float:
    """No scheduler delivers more frames on time than this, give or take a rounding error far below one frame.

    `arrival_ns`, `deadline_ns`, `model_index`: shape (frames,), in any order. `times_ns_by_model`: by model index, of
    batches of 1, 2, ..., the largest allowed; the same on all lanes. Raises ValueError where the arrays do not fit
    each other, there is no lane, or times fall with batch size or are not positive.
    """
    order = np.argsort(arrival_ns, kind="stable")
    if not len(order) == len(deadline_ns) == len(model_index):
        lengths = f"{len(order)}, {len(deadline_ns)} and {len(model_index)}"
        raise ValueError(f"the arrays should be equally long, got {lengths}")
    arrivals, deadlines, models = arrival_ns[order], deadline_ns[order], model_index[order]
    if len(models) and not 0 <= models.min() <= models.max() < len(times_ns_by_model):
        last = len(times_ns_by_model) - 1
        raise ValueError(f"model indices should be 0 to {last}, got {models.min()} to {models.max()}")
    if lanes < 1:
        raise ValueError(f"lanes should be at least 1, got {lanes}")
    cost_ns = np.full(len(arrivals), np.inf)
    for model, times_ns in enumerate(times_ns_by_model):
        of_model = models == model
        cost_ns[of_model] = least_cost_ns(arrivals[of_model], deadlines[of_model], times_ns)
    frames = work_ns = 0.0
    for dearest_ns in np.unique(cost_ns[np.isfinite(cost_ns)]).tolist():
        chosen = cost_ns <= dearest_ns
        before_ns, work_ns = work_ns, _most_work_ns(arrivals[chosen], deadlines[chosen], cost_ns[chosen], lanes)
        frames += (work_ns - before_ns) / dearest_ns
    return frames


def least_cost_ns(
    arrivals: NDArray[np.int64], deadlines: NDArray[np.int64], times_ns: Sequence[int]
) -> NDArray[np.float64]:
    """For each frame of one model, the least lane time per frame of any batch in which it is on time; inf: none."""
    times = np.array(times_ns, np.int64)
    if len(times) == 0 or times[0] <= 0 or np.any(np.diff(times) < 0):
        raise ValueError(f"times should be positive and not fall with batch size, got {list(times_ns)}")
    cost_ns = np.full(len(arrivals), np.inf)
    for size, time_ns in enumerate(times.tolist(), 1):
        latest = deadlines - time_ns
        able = latest >= arrivals
        # How many could be in a batch grows at arrivals alone, so a batch may as well start at one.
        starts, ends = np.sort(arrivals[able]), np.sort(latest[able])
        there = np.searchsorted(starts, starts, "right") - np.searchsorted(ends, starts, "left")
        full = np.concatenate([[0], np.cumsum(there >= size)])
        found = full[np.searchsorted(starts, latest, "right")] > full[np.searchsorted(starts, arrivals, "left")]
        cost_ns[able & found] = np.minimum(cost_ns[able & found], time_ns / size)
    return cost_ns


def _most_work_ns(
    arrivals: NDArray[np.int64], deadlines: NDArray[np.int64], cost_ns: NDArray[np.float64], lanes: int
) -> float:
    """The lane time that fluid earliest deadline first spends on these frames, which are in order of arrival."""
    spent_ns = now_ns = 0.0
    # Heap of (deadline, lane time that the frame still takes).
    waiting: list[tuple[int, float]] = []
    nexts = [*arrivals[1:].tolist(), int(deadlines.max())]
    for arrival_ns, deadline_ns, work_ns, next_ns in zip(
        arrivals.tolist(), deadlines.tolist(), cost_ns.tolist(), nexts, strict=True
    ):
        heappush(waiting, (deadline_ns, work_ns))
        now_ns = max(now_ns, arrival_ns)
        while waiting and now_ns < next_ns:
            due_ns, left_ns = heappop(waiting)
            end_ns = now_ns + left_ns / lanes
            until_ns = min(due_ns, next_ns)
            if end_ns <= until_ns:
                spent_ns += left_ns
                now_ns = end_ns
            elif until_ns > now_ns:
                done_ns = (until_ns - now_ns) * lanes
                spent_ns += done_ns
                now_ns = until_ns
                if until_ns < due_ns:
                    heappush(waiting, (due_ns, left_ns - done_ns))
    return spent_ns
