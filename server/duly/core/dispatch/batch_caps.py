"""How long a batch may block its lane.

Theory. A lane is not preemptive: whoever comes just after a batch began waits for all of it. That is the blocking term
of every schedulability test (Jeffay, 1991). So while streams of a more critical class are open, batches of two or more
are bound to half of that class's tightest budget and to BLOCKING_NS or, where single frames block for long anyway, to
SINGLES of them. (A bound in time alone forbids a model of 20 ms every batch: it then does a third of what it could.)
CRITICAL streams bound each other's batches likewise, since `critical_proof` counts on it.

Other streams of the most critical class that is open are bound by the deadlines in their batches alone. To leave room
for the tightest budget among equals sounds fair, yet one stream of 4 ms then forbids all other models their batches:
over 120 random loads, one to six models with budgets of 2 to 12 frames' times, that served 7 % less than the best of
four other schedulers, and 2 % more without.
"""

from collections.abc import Mapping

from duly.core.types import StreamClass

BLOCKING_NS = 25_000_000
SINGLES = 3
"""Batches of one of whatever takes longest."""
UNBOUND_NS = 1 << 60


def caps_ns(tightest_ns: Mapping[StreamClass, int], single_ns: int) -> dict[StreamClass, int]:
    """By class: the longest that a batch of two or more may be planned. `tightest_ns`: the smallest budget of each
    class that has open streams. `single_ns`: the longest planned time of a batch of one, of the models that these use.
    """
    if not tightest_ns:
        return dict.fromkeys(StreamClass, UNBOUND_NS)
    most_critical = min(tightest_ns)
    bound_ns = min(max(BLOCKING_NS, SINGLES * single_ns), tightest_ns[most_critical] // 2)
    caps = dict.fromkeys(StreamClass, bound_ns)
    if most_critical is not StreamClass.CRITICAL:
        caps[most_critical] = UNBOUND_NS
    return caps
