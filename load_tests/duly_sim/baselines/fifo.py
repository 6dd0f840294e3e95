"""First come, first served over all models, in batches of at most `batch_max`: the floor that any policy should beat.

Theory of operation. A free lane takes the frame that has waited longest, whatever its model, and with it as many more
of that model, in order of arrival, as there are up to `batch_max`. Nothing is planned and nothing is dropped: a frame
runs even where its deadline has long passed, so that under overload everything ends late.

Source: what a server without deadlines does, a pool of workers behind one queue; `batch_max` 1 is its plainest form.
"""

from duly_sim.baselines.base import Baseline
from duly_sim.baselines.profile import MEAN


class Fifo(Baseline):
    by_deadline = False

    def __init__(self, batch_max: int = 1) -> None:
        super().__init__(MEAN)
        self._batch_max = batch_max

    def _decide(self, now_ns: int) -> None:
        while self._free:
            oldest = None
            for model in self._models.values():
                if model.waiting and (oldest is None or model.waiting[0] < oldest.waiting[0]) and self._lane_for(model):
                    oldest = model
            lane = None if oldest is None else self._lane_for(oldest)
            if oldest is None or lane is None:
                return
            self._dispatch(now_ns, lane, oldest, min(len(oldest.waiting), self._batch_max, oldest.profile.batch_max))
