"""Which of the waiting frames of one model form the next batch.

Theory. A batch pays only where running b frames together costs less than one after another, which the measured profile
alone tells: on a GPU it nearly always does, for a convolution on one CPU thread it does not. So a batch takes frames
in their order and grows for free while the whole still meets the earliest deadline in it, up to the largest size that
earns its keep.

Under overload a head with little slack would force small batches for ever: the lane then does its least when most is
asked of it. The window rule passes over the shortest prefix behind which the batch with the best rate meets its own
head's deadline (Nexus, SOSP'19, `model_exec.cpp` slides a window of a fixed size; here the size follows the queue). The
rate counts frames that are to be fresh, LATEST or KEEP_LAST, by what their streams missed (`merit`), so that who was
passed over last time is not passed over again for one frame more: else they wait a third period now and then at twice
the load. For streams that want all their frames the same costs up to 2.5 % of the goodput. The window is asked for only
where not all that waits, and is expected meanwhile, could be served in its order (`keeps_up`): one step ahead of the
misses, since a prefix dropped late has already cost the batches before it. Against the exact optimum that knows all
arrivals this is the difference between 0.975 and 0.984 at 1.3 times the load that can be served.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from duly.core.timing.profile import Plan
from duly.core.waiting import Entry, QueuedFrame

STARTS_MAX = 64
"""How many windows are weighed where frames differ in worth: bounds the cost of one decision, too."""
LOOKAHEAD_BATCHES = 4
"""How many full batches of waiting frames one decision looks at: bounds its cost."""


def largest_size(profile: Plan, limit_ns: int, frames: int) -> int:
    """Largest efficient batch of at most so many frames that is planned within `limit_ns`; at least 1."""
    fitting = bisect_right(profile.plan_ns, limit_ns) - 1
    if fitting > frames:
        fitting = frames
    return profile.efficient[fitting] if fitting > 0 else 1


def keeps_up(entries: Sequence[Entry], profile: Plan, now_ns: int, gap_ns: float, lanes: float) -> bool:
    """Whether all of `entries` (one class, in order), and those that arrive every `gap_ns` (0: none) until the last of
    them is due, can be served one batch after another on so many lanes.
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
        size = profile.efficient[min(fitting, here - served)]
        free_ns += int(usual[size] / lanes)
        served += size
    return True


def best_window(
    entries: Sequence[Entry], first: int, profile: Plan, now_ns: int, cap_ns: int, worth: Callable[[QueuedFrame], float]
) -> tuple[int, int]:
    """Where in `entries` (one class, in order) from `first` on the batch begins whose frames are worth the most for its
    lane time, if the worthiest are in it, and its size.
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
