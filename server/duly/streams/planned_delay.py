"""How long the next frame of a stream is planned to take, from its receipt to the hand-over of its result.

Robots that go on acting while a policy computes need this number before they send an observation: the actions of that
time are carried out already when the result comes, and the policy is told how many they are. It is the longest of the
newest results, which has in it what waiting and batches take under the load of now, and never less than the plan of the
version that serves. (The longest of a few newest is what "Real-Time Execution of Action Chunking Flow Policies", Black
et al. 2025, algorithm 1, measures at the robot; the server knows besides when another version is slower.)
"""

from collections import deque

from duly.core.types import OutcomeStatus

RESULTS = 10
"""How many of a stream's newest results count. A queue that was long is forgotten after so many."""
_TELLING = frozenset((OutcomeStatus.ON_TIME, OutcomeStatus.LATE, OutcomeStatus.EXPIRED))
"""Frames that expired have waited, too: the next one will be no quicker."""


class PlannedDelay:
    def __init__(self) -> None:
        self._model = ""
        self._took_ns: deque[int] = deque(maxlen=RESULTS)

    def answered(self, model: str, status: OutcomeStatus, took_ns: int) -> None:
        """Notes that a frame of that model version was answered, so long after its receipt."""
        if model != self._model:  # what another version took says nothing of this one
            self._model = model
            self._took_ns.clear()
        if status in _TELLING:
            self._took_ns.append(took_ns)

    def ns(self, model: str, planned_one_ns: int) -> int:
        """Returns the delay while that version serves, whose single frames are planned to run for so long."""
        took_ns = max(self._took_ns, default=0) if model == self._model else 0
        return max(planned_one_ns, took_ns)
