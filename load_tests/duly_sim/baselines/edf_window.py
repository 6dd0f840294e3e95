"""Earliest deadline first over models, each in the largest batch that its head allows, never waiting.

Theory of operation. A free lane takes the model whose head has the earliest deadline, and the longest run of its frames
that meets the head's deadline. `target` says for which batch heads are given up:

- 1: a head goes when it could not even run alone in time. Every frame has its chance, but a head with little slack
  forces a small batch just when the lane is short.
- more: the shortest prefix goes that keeps a batch of so many, or of all that wait, from being in time. Batches stay
  large under overload, and frames are lost that would have been served one after another.

Source: the eager half of Symphony (`kImmediately` in `nexus/dispatcher/rankmt/model_thread.cpp`, see symphony.py) under
EDF over models: what a careful engineer would write first. On the 99th percentile of the last runs.
"""

from duly_sim.baselines.deadline import DeadlineBaseline, largest_batch
from duly_sim.baselines.profile import P99, Estimate


class EdfWindow(DeadlineBaseline):
    def __init__(self, target: int = 4, estimate: Estimate = P99) -> None:
        super().__init__(estimate)
        self._target = target

    def _decide(self, now_ns: int) -> None:
        self._drop_doomed(now_ns)
        while self._free:
            found = self._most_urgent()
            if found is None:
                return
            model, lane = found
            profile = model.profile
            first, size = largest_batch(model.waiting, now_ns, profile.plan_ns, profile.batch_max, self._target)
            self._expire(model, first)
            if size:
                self._dispatch(now_ns, lane, model, size)
