"""How long a batch may block its lane.

Theory. A lane is not preemptive: whoever comes just after a batch began waits for all of it. That is the blocking term
of every schedulability test (Jeffay, 1991), so while streams of a more critical class are open, batches of two or more
are bound to BLOCKING_NS_MAX and to half of that class's tightest budget. CRITICAL streams bound each other's batches
likewise, since `hard` counts on it. Streams of the most critical class that is open, where that is not CRITICAL, are
bound by their own deadlines already (a batch must meet its head's); they leave room for one another's tightest budget.
In simulation a tighter bound among equals gains nothing and costs up to 25 % of the capacity of one model on one lane.
"""

from collections.abc import Mapping

from duly.core.types import StreamClass

BLOCKING_NS_MAX = 25_000_000
AMONG_EQUALS_PERCENT = 75
"""Of the tightest budget."""


def caps_ns(tightest_ns: Mapping[StreamClass, int]) -> dict[StreamClass, int]:
    """By class: the longest that a batch of two or more may be planned. `tightest_ns`: the smallest budget of each
    class that has open streams.
    """
    if not tightest_ns:
        return dict.fromkeys(StreamClass, BLOCKING_NS_MAX)
    most_critical = min(tightest_ns)
    budget_ns = tightest_ns[most_critical]
    caps = dict.fromkeys(StreamClass, min(BLOCKING_NS_MAX, budget_ns // 2))
    if most_critical is not StreamClass.CRITICAL:
        caps[most_critical] = budget_ns * AMONG_EQUALS_PERCENT // 100
    return caps
