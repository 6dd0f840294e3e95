"""How long a batch may block its lane.

Theory. A lane is not preemptive: a frame that comes just after a batch began waits for all of it. That is the blocking
term of every schedulability test (Jeffay, 1991). So while streams of a more critical class are open, batches of two or
more are limited to half of that class's tightest budget, and to BLOCKING_NS or, where single frames block for long
anyway, to SINGLES of them. (A limit in time alone would forbid every batch to a model that takes 20 ms, which would
then do a third of what it could.) CRITICAL streams limit each other's batches as well, since `critical_proof` relies on
it.

Other streams of the most critical open class are limited only by the deadlines in their batches. Leaving room for the
tightest budget among equals sounds fair, yet one stream with a budget of 4 ms would then forbid all other models their
batches. Over 120 random loads, with one to six models and budgets of 2 to 12 times a frame's run time, that rule served
7 % less than the best of four other schedulers; without it duly served 2 % more.
"""

from collections.abc import Mapping

from duly.core.types import StreamClass

BLOCKING_NS = 25_000_000
SINGLES = 3
"""Where single frames block for long, a cap is the time of this many batches of one, of whatever takes longest."""
UNBOUND_NS = 1 << 60


def caps_ns(tightest_ns: Mapping[StreamClass, int], single_ns: int) -> dict[StreamClass, int]:
    """The longest planned time of a batch of two or more, for each class. `tightest_ns` is the smallest budget of each
    class that has open streams; `single_ns` is the longest planned time of a batch of one among the models that these
    streams use.
    """
    if not tightest_ns:
        return dict.fromkeys(StreamClass, UNBOUND_NS)
    most_critical = min(tightest_ns)
    bound_ns = min(max(BLOCKING_NS, SINGLES * single_ns), tightest_ns[most_critical] // 2)
    caps = dict.fromkeys(StreamClass, bound_ns)
    if most_critical is not StreamClass.CRITICAL:
        caps[most_critical] = UNBOUND_NS
    return caps
