"""How long a batch may block its lane.

Theory. A lane is not preemptive: whoever comes just after a batch began waits for all of it. That is the blocking term
of every schedulability test (Jeffay, 1991), so while streams of a more critical class are open, batches of two or more
are bound to BLOCKING_NS or, where single frames block for long anyway, to SINGLES of them, and to half of that class's
tightest budget. (A bound in time alone forbids a model of 20 ms every batch: it then does a third of what it could.)
CRITICAL streams bound each other's batches
likewise, since `hard` counts on it. Streams of the most critical class that is open, where that is not CRITICAL, are
bound by their own deadlines already (a batch must meet its head's); they leave room for one another's tightest budget.
In simulation a tighter bound among equals gains nothing and costs up to 25 % of the capacity of one model on one lane.
"""

from collections.abc import Mapping

from duly.core.types import StreamClass

BLOCKING_NS = 25_000_000
SINGLES = 3
"""Batches of one of whatever takes longest."""
AMONG_EQUALS_PERCENT = 75
"""Of the tightest budget."""


def caps_ns(tightest_ns: Mapping[StreamClass, int], single_ns: int) -> dict[StreamClass, int]:
    """By class: the longest that a batch of two or more may be planned. `tightest_ns`: the smallest budget of each
    class that has open streams. `single_ns`: the longest planned time of a batch of one, of all that is served.
    """
    bound_ns = max(BLOCKING_NS, SINGLES * single_ns)
    if not tightest_ns:
        return dict.fromkeys(StreamClass, bound_ns)
    most_critical = min(tightest_ns)
    budget_ns = tightest_ns[most_critical]
    caps = dict.fromkeys(StreamClass, min(bound_ns, budget_ns // 2))
    if most_critical is not StreamClass.CRITICAL:
        caps[most_critical] = budget_ns * AMONG_EQUALS_PERCENT // 100
    return caps
