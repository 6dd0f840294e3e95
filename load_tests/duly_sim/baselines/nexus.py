"""Nexus: models take turns on a lane, each with the batch size its budget was planned for (Shen et al., SOSP'19).

Theory of operation. A lane goes round its models in a duty cycle. In its turn a model runs a batch of its target size,
or of all that wait if fewer. Sliding window: it drops heads until the first that remains meets its deadline in that
batch ("early drop"), so that batches stay as large as planned under overload. `earliest` instead drops only heads that
could not run alone and takes the largest batch up to the target that fits the head's budget ("lazy drop").

The target, where none is given, is the paper's for a session that fills its GPU: the largest size of which two batches
fit the budget, since a frame that just missed one waits for it and then runs in the next.

Source: in abcdabcd987/nexuslb, `GetBatchTaskSlidingWindow` of `tools/nexus_scheduler/model_exec.cpp`, the cycle of
`fake_nexus_backend.cpp` beside it, and `GetBatchTaskEarliest` of earlier `src/nexus/backend/model_exec.cpp`. Plans on
the mean.

Where ours differs: theirs splits models over GPUs every 30 s and routes by weights; ours has one queue for all lanes,
so that no lane idles while frames wait elsewhere, and models without frames are passed over. Both only help it.
"""

from bisect import bisect_right

from duly_sim.baselines.base import Model
from duly_sim.baselines.deadline import DeadlineBaseline, first_that_fits, largest_batch
from duly_sim.baselines.profile import MEAN, Estimate


class Nexus(DeadlineBaseline):
    def __init__(self, target: int | None = None, *, earliest: bool = False, estimate: Estimate = MEAN) -> None:
        """`target`: batch size of all models; None: by the smallest budget of each."""
        super().__init__(estimate)
        self._target = target
        self._earliest = earliest
        self._turns: dict[str, int] = {}
        """The place of the model whose turn is next on each lane."""

    def _decide(self, now_ns: int) -> None:
        self._drop_doomed(now_ns)
        models = list(self._models.values())
        for lane in list(self._free):
            turn = self._turns.get(lane, 0)
            for place in range(turn, turn + len(models)):
                model = models[place % len(models)]
                if model.waiting and lane in model.lanes:
                    size = self._form(now_ns, model)
                    if size:
                        self._dispatch(now_ns, lane, model, size)
                        self._turns[lane] = (place + 1) % len(models)
                        break

    def _form(self, now_ns: int, model: Model) -> int:
        """Drops what is in the way of the batch; its size, 0 where no frame is left."""
        target, plan_ns = self._target_size(model), model.profile.plan_ns
        if self._earliest:
            first, size = largest_batch(model.waiting, now_ns, plan_ns, target, target=1)
        else:
            first = first_that_fits(model.waiting, now_ns, plan_ns, target)
            size = min(len(model.waiting) - first, target)
        self._expire(model, first)
        return size

    def _target_size(self, model: Model) -> int:
        if self._target is not None:
            return min(self._target, model.profile.batch_max)
        if not model.budget_ns:
            return model.profile.batch_max
        return max(1, bisect_right(model.profile.plan_ns, model.budget_ns // 2) - 1)
