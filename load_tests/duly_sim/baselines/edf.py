"""Earliest deadline first, one frame at a time: the textbook's order without batching.

Theory of operation. A free lane takes the waiting frame with the earliest deadline over all models and runs it alone.
Frames that cannot finish in time any more are dropped, since plain EDF collapses under overload: it gives the lane to
those that are already lost.

Source: Liu and Layland, "Scheduling algorithms for multiprogramming in a hard-real-time environment" (1973), without
preemption (Jeffay, Stanat and Martel, RTSS'91), and with the drop that every serving system since has added. It has no
plan of its own; it is given the 99th percentile of the last runs, the best of those that the others use.
"""

from duly_sim.baselines.deadline import DeadlineBaseline
from duly_sim.baselines.profile import P99, Estimate


class Edf(DeadlineBaseline):
    def __init__(self, estimate: Estimate = P99) -> None:
        super().__init__(estimate)

    def _decide(self, now_ns: int) -> None:
        self._drop_doomed(now_ns)
        while self._free:
            found = self._most_urgent()
            if found is None:
                return
            model, lane = found
            self._dispatch(now_ns, lane, model, 1)
