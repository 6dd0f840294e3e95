"""Symphony: deferred batching, each batch at the last moment at which one more frame could join (Chen et al., 2023).

Theory of operation. Each model has one candidate: the largest batch that meets its own head's deadline as if it
started now (`largest_batch`). It does not run at once: while a batch of one more would still be in time, another frame
may come, and a lane that runs a small batch is lost to a larger one. So a candidate is due at deadline - l(b + 1), or
now if that has passed or it cannot grow. A lane that is free, or becomes so, takes of all due candidates the one with
the earliest latest start, deadline - l(b).

Heads are dropped for a batch of `target`: 1 drops only what could not run alone (`kDropTimeout`), more keeps batches
large (`kWindowDrop`). A candidate of `enough` frames is due at once: 1 never defers (`kImmediately`), the default
always does (`kFrontrun`), sizes between are `kTargetBatchSize`.

Source: "Symphony: Optimized DNN Model Serving using Deferred Batch Scheduling" (arXiv:2308.07470), and
`src/nexus/dispatcher/{batch_policy,rankmt/model_thread,rankmt/rank_thread}.cpp` in abcdabcd987/nexuslb.

Where ours differs: no latency of control and data is set aside, as there is none here. It plans on the mean as theirs
does, but what theirs sets aside also takes up the scatter of a batch that starts at the last moment, so ours adds 4 %.
Theirs estimates the target from the measured rate; ours is set, and a sweep finds the best. Theirs gives frames up
whenever it looks, ours when it dispatches, so that they may still rejoin. All this only helps it.
"""

from dataclasses import dataclass

from duly.core.types import Frame
from duly_sim.baselines.base import Model
from duly_sim.baselines.deadline import DeadlineBaseline, largest_batch
from duly_sim.baselines.profile import Estimate

MEAN_AND_MARGIN = Estimate(runs=100, percentile=None, margin_percent=4)


@dataclass(slots=True)
class _Candidate:
    formed_ns: int
    due_ns: int
    latest_start_ns: int


class Symphony(DeadlineBaseline):
    def __init__(self, target: int = 8, enough: int = 32, estimate: Estimate = MEAN_AND_MARGIN) -> None:
        super().__init__(estimate)
        self._target = target
        self._enough = enough
        self._candidates: dict[str, _Candidate] = {}
        """The candidates of models with frames that have not changed since."""

    def _wait(self, now_ns: int, model: Model, frame: Frame) -> None:
        super()._wait(now_ns, model, frame)
        self._candidates.pop(model.name, None)

    def _decide(self, now_ns: int) -> None:
        self._drop_doomed(now_ns)
        while self._dispatch_due(now_ns):
            pass

    def _dispatch_due(self, now_ns: int) -> bool:
        """Runs the most urgent of the due candidates that a free lane serves; False: there is none."""
        self._wake_ns = None
        chosen = lane = None
        latest_start_ns = 0
        for model in self._models.values():
            free = self._lane_for(model) if model.waiting else None
            if free is None:
                continue
            candidate = self._candidate(now_ns, model)
            if candidate.due_ns > now_ns:
                if self._wake_ns is None or candidate.due_ns < self._wake_ns:
                    self._wake_ns = candidate.due_ns
            elif chosen is None or candidate.latest_start_ns < latest_start_ns:
                chosen, lane, latest_start_ns = model, free, candidate.latest_start_ns
        if chosen is None or lane is None:
            return False
        first, size = self._batch(now_ns, chosen)
        self._expire(chosen, first)
        if size:
            self._dispatch(now_ns, lane, chosen, size)
        del self._candidates[chosen.name]
        return True

    def _candidate(self, now_ns: int, model: Model) -> _Candidate:
        candidate = self._candidates.get(model.name)
        if candidate is None or (candidate.due_ns <= now_ns and candidate.formed_ns < now_ns):
            first, size = self._batch(now_ns, model)
            deadline_ns, plan_ns = model.waiting[min(first, len(model.waiting) - 1)][0], model.profile.plan_ns
            due_ns = now_ns
            if 0 < size < min(self._enough, model.profile.batch_max):
                due_ns = max(now_ns, deadline_ns - plan_ns[size + 1])
            candidate = self._candidates[model.name] = _Candidate(now_ns, due_ns, deadline_ns - plan_ns[size])
        return candidate

    def _batch(self, now_ns: int, model: Model) -> tuple[int, int]:
        profile = model.profile
        return largest_batch(model.waiting, now_ns, profile.plan_ns, profile.batch_max, self._target)
