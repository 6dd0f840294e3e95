"""Which of the waiting frames of one model form the next batch.

Theory. A batch pays only where running b frames together costs less than running them one after another. The measured
profile alone tells: on a GPU it nearly always pays, for a convolution on one CPU thread it does not. So a batch takes
frames in their order and grows for free while the whole still meets the earliest deadline in it, up to the largest size
that pays.

Under overload a head with little slack would keep batches small for ever: the lane then does its least when most is
asked of it. The window rule passes over the shortest prefix behind which the batch with the best rate meets its own
head's deadline (Nexus, SOSP'19, `model_exec.cpp` slides a window of a fixed size; here the size follows the queue).

The rate counts frames of LATEST and KEEP_LAST streams, which want fresh results, by what their streams missed
(`merit`). A stream that was passed over last time is then not passed over again for the sake of one frame more; without
this, such streams sometimes wait a third period at twice the load. For streams that want all their frames the same rule
would cost up to 2.5 % of the goodput.

The window is used only where the frames that wait, and those expected meanwhile, could not all be served in their order
(`keeps_up`). That is one step ahead of the misses, since a prefix dropped late has already cost the batches before it.
Against the exact optimum that knows all arrivals, this is the difference between 0.975 and 0.984 at 1.3 times the load
that can be served.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from duly.core.timing.profile import Plan
from duly.core.waiting import Entry, QueuedFrame

STARTS_MAX = 64
"""The most windows that are compared where frames differ in worth; it bounds the cost of one decision."""
LOOKAHEAD_BATCHES = 4
"""Number of full batches of waiting frames that one decision looks at; it bounds the cost of the decision."""


def largest_size(profile: Plan, limit_ns: int, frames: int) -> int:
    """The largest efficient batch of at most `frames` frames that is planned within `limit_ns`; at least 1."""
    fitting = bisect_right(profile.plan_ns, limit_ns) - 1
    if fitting > frames:
        fitting = frames
    return profile.largest_efficient(fitting) if fitting > 0 else 1


def keeps_up(entries: Sequence[Entry], profile: Plan, now_ns: int, gap_ns: float, lanes: float) -> bool:
    """Whether all of `entries` (one class, in order) can be served one batch after another on that many lanes, along
    with the frames that arrive every `gap_ns` (0: none) until the last entry is due.
    """
    plan, usual, batch_max = profile.plan_ns, profile.usual_ns, profile.batch_max
    known = min(len(entries), LOOKAHEAD_BATCHES * batch_max)
    deadline_ns, _, last = entries[known - 1]
    budget_ns = deadline_ns - last.arrived_ns
    expected = known
    if gap_ns > 0:
        expected += min(int(budget_ns / gap_ns), LOOKAHEAD_BATCHES * batch_max)
    free_ns, served = now_ns, 0
    while served < expected:
        here = known
        if gap_ns > 0:
            here = min(expected, known + int((free_ns - now_ns) / gap_ns))
        if served >= here:
            return True
        deadline_ns = entries[served][0] if served < known else now_ns + budget_ns + int((served - known + 1) * gap_ns)
        fitting = bisect_right(plan, deadline_ns - free_ns) - 1
        if fitting < 1:
            return False
        size = profile.largest_efficient(min(fitting, here - served))
        free_ns += int(usual[size] / lanes)
        served += size
    return True


def best_window(
    entries: Sequence[Entry], first: int, profile: Plan, now_ns: int, cap_ns: int, worth: Callable[[QueuedFrame], float]
) -> tuple[int, int]:
    """Finds the batch whose frames are worth the most for its lane time, if the worthiest are in it. Looks at `entries`
    (one class, in order) from `first` on; returns where the batch begins and its size.
    """
    usual = profile.usual_ns
    last = min(len(entries), first + LOOKAHEAD_BATCHES * profile.batch_max)
    worths = [worth(entries[nth][2]) for nth in range(first, last)]
    ranked = sorted(worths)
    alike = ranked[0] == ranked[-1]
    begin, best, best_value = first, 0, 0.0
    for start in range(first, last):
        left = last - start
        if left <= best:
            break
        slack_ns = entries[start][0] - now_ns
        size = largest_size(profile, slack_ns if slack_ns < cap_ns else cap_ns, left)
        value = size * ranked[0] if alike else sum(ranked[-size:])
        if value * usual[best] > best_value * usual[size] or not best:
            begin, best, best_value = start, size, value
        if not alike:
            if start - first == STARTS_MAX:
                break
            del ranked[bisect_left(ranked, worths[start - first])]
    return begin, best
