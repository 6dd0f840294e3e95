"""What runs, and what does not, when not everything can be served in time.

Theory. A doomed frame that runs all the same takes the lane from one that could still make it: served that way, an
overloaded server delivers next to nothing on time. So a frame is dropped the moment its latest start (deadline minus
planned execution time of a batch of one) has passed, not when its turn comes, and the client learns it while it can
still act (Clockwork, OSDI'20, drops at the same point). But plans are q99s. A frame whose budget lies between what a
run usually takes and what it nearly always takes would never be served at all, so it is tried where the lane has
nothing else to do.

What runs is chosen by value density, the value of a batch's frames over the time it usually takes: the greedy rule for
a knapsack of lane time (Dantzig, 1957). Earliest latest start, right while everything fits, is wrong here: it runs what
is most urgent, in batches as small as their heads' slack allows. A batch that could grow loses nothing by waiting until
the lane has run something else, so batches that are ripe count RIPE_FACTOR times (up to 0.9 % more goodput with six
models on one or two lanes). Within the window of the queue that gives the best rate, frames of higher merit go first
(`merit`), and frames of equal merit go in their order.
"""

from collections.abc import Callable, Sequence

from duly.core.dispatch.batch_window import LOOKAHEAD_BATCHES
from duly.core.waiting import Entry, QueuedFrame

MISFITS_MAX = 1
"""The most frames that may not fit before density rules. A single frame that comes too late is lost in any order, and
giving up the order for it costs others. In simulation with 6 models on one lane, density from the first misfit on costs
2 % of the capacity, and from the second on nothing.
"""
RIPE_FACTOR = 2.0
"""How much more the density of a ripe batch counts. If every batch had to wait until it is ripe, whatever its density,
models with unequal run times would lose up to a third of their goodput.
"""
EDGE_PERCENT = 150
"""Slack, as a share of the plan, that a frame should have to run alone under overload. Among frames of equal merit, one
with less slack comes last, since any hiccup makes it late.
"""


def fits_serially(now_ns: int, lanes: int, urgencies: Sequence[tuple[int, int, int]]) -> bool:
    """Whether batches can start in time one after another on that many lanes, except for MISFITS_MAX frames. A batch is
    given as (latest start, usual time, frames); they come in order of latest start.
    """
    free_ns, misfits = now_ns, 0
    for latest_start_ns, usual_ns, frames in urgencies:
        if free_ns <= latest_start_ns:
            free_ns += usual_ns // lanes
        else:
            misfits += frames
            if misfits > MISFITS_MAX:
                return False
    return True


def worthiest(
    entries: Sequence[Entry],
    begin: int,
    size: int,
    batch_max: int,
    merit: Callable[[QueuedFrame], float],
    edge_ns: int = 0,
) -> tuple[list[QueuedFrame], float]:
    """The `size` frames of highest merit out of `entries` from `begin` on, in their order, and the sum of their merits.
    Among frames of equal merit, those that are due before `edge_ns` come last.
    """
    last = min(len(entries), begin + LOOKAHEAD_BATCHES * batch_max)
    ranked = [(-merit(entries[nth][2]), entries[nth][0] < edge_ns, nth) for nth in range(begin, last)]
    if len(ranked) > size:
        ranked.sort()
        del ranked[size:]
        ranked.sort(key=_place)
    return [entries[nth][2] for _, _, nth in ranked], -sum(value for value, _, _ in ranked)


def _place(ranked: tuple[float, bool, int]) -> int:
    return ranked[2]
