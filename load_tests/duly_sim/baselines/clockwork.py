"""Clockwork: one queue for each model and batch size, the most urgent first (Gujarati et al., OSDI'20).

Theory of operation. Each model has a strategy for each batch size (1, 2, 4, ...): a view on its frames that has dropped
those that a batch of this size would not serve in time. A strategy with enough frames to fill its size has a required
start: its head's deadline less the estimate. A free lane takes the model with the earliest required start and runs the
largest size that can be filled; whatever came before that batch is lost. Estimates are the 99th percentile (in effect
the maximum) of the last 10 runs of the size; sizes end at `batch_max`.

Source: `src/clockwork/controller/infer5/infer5_scheduler.{h,cpp}` in malixian/clockwork (a mirror): `new_strategies`,
`try_dequeue`, `add_measurement`; a `max_batch_size` of 8.

Where ours differs: theirs plans 10 ms ahead of its workers because messages take time, and workers refuse what starts
more than 10 ms after its plan; here messages take none, so it decides when a lane is free, with all that has arrived.
Theirs aims 5 ms before the deadline, though not with budgets of 15 ms or less (`set_slo`); `buffer_ns` is 0 by default.
Frames wait in order of deadline rather than arrival, which is the same for equal budgets. Loading of weights has no
part here: all models stay loaded. All this only helps it.
"""

from bisect import bisect_left

from duly_sim.baselines.base import Model
from duly_sim.baselines.deadline import DeadlineBaseline
from duly_sim.baselines.profile import Estimate

LAST_10 = Estimate(runs=10, percentile=99)


class Clockwork(DeadlineBaseline):
    def __init__(self, batch_max: int = 8, buffer_ns: int = 0) -> None:
        super().__init__(LAST_10)
        self._sizes = [1 << power for power in range(batch_max.bit_length())]
        self._buffer_ns = buffer_ns

    def _decide(self, now_ns: int) -> None:
        self._drop_doomed(now_ns)
        while self._free:
            urgent_ns = size = first = 0
            chosen = lane = None
            for model in self._models.values():
                free = self._lane_for(model) if model.waiting else None
                strategy = self._strategy(now_ns, model) if free else None
                if strategy is not None and (chosen is None or strategy[0] < urgent_ns):
                    urgent_ns, size, first = strategy
                    chosen, lane = model, free
            if chosen is None or lane is None:
                return
            self._expire(chosen, first)
            self._dispatch(now_ns, lane, chosen, size)

    def _strategy(self, now_ns: int, model: Model) -> tuple[int, int, int] | None:
        """The model's earliest required start, the largest size that can be filled, and its first frame's index."""
        waiting, plan_ns = model.waiting, model.profile.plan_ns
        ready_ns = now_ns + self._buffer_ns
        found: tuple[int, int, int] | None = None
        for size in self._sizes:
            if size > len(waiting) or size > model.profile.batch_max:
                break
            first = bisect_left(waiting, (ready_ns + plan_ns[size],))
            if len(waiting) - first >= size:
                required_ns = waiting[first][0] - plan_ns[size]
                found = (required_ns if found is None else min(found[0], required_ns), size, first)
        return found
