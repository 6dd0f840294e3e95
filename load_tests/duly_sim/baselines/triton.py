"""Triton's dynamic batcher: FIFO per model, dispatch by size or by age (NVIDIA Triton Inference Server).

Theory of operation. Each model has a queue in order of arrival. When one of its instances is free, the batcher takes
the largest preferred size that the queue fills; where none is filled it waits until the oldest has been queued for
`delay_ns`, then takes all there are, up to `batch_max`. Deadlines are unknown to it. A request's timeout is looked at
only while a batch forms, and leaves out how long the batch will run:

- NONE: nothing is ever rejected.
- DEADLINE: timeout = budget with REJECT, as the documentation suggests for deadlines; it rejects what is already late.
- LATEST_START: timeout = budget less the time of a full batch, what a careful user would set by hand.

Source: `GetDynamicBatch` of `src/dynamic_batch_scheduler.cc` and `PolicyQueue::ApplyPolicy` of `src/scheduler_utils.cc`
in triton-inference-server/core.

Where ours differs: a lane runs one batch at a time, which is Triton under its rate limiter with one resource a GPU; of
the models that are ready the one with the oldest frame goes first (its rate limiter takes the one that ran least often,
which starves busy models). The preferred size is `batch_max` where none is named. The full batch of LATEST_START is
measured, not guessed. All this only helps it.
"""

from enum import Enum

from duly.core.types import OutcomeStatus
from duly_sim.baselines.base import Baseline, Model, Waiting
from duly_sim.baselines.profile import MEAN


class Timeout(Enum):
    NONE = "none"
    DEADLINE = "deadline"
    LATEST_START = "latest_start"


class Triton(Baseline):
    by_deadline = False

    def __init__(
        self,
        delay_ns: int = 0,
        batch_max: int = 32,
        timeout: Timeout = Timeout.NONE,
        preferred: tuple[int, ...] = (),
    ) -> None:
        """`delay_ns`: max_queue_delay; `preferred`: sizes, rising, none above `batch_max`.

        Raises ValueError where they are not.
        """
        if any(not 1 <= size <= batch_max for size in preferred) or list(preferred) != sorted(set(preferred)):
            raise ValueError(f"preferred sizes should rise within 1 and {batch_max}, got {preferred}")
        super().__init__(MEAN)
        self._delay_ns = delay_ns
        self._batch_max = batch_max
        self._timeout = timeout
        self._preferred = preferred

    def _decide(self, now_ns: int) -> None:
        while self._dispatch_oldest(now_ns):
            pass

    def _dispatch_oldest(self, now_ns: int) -> bool:
        """Runs a batch of the model with the oldest frame of those that are ready; False: none is."""
        self._wake_ns = None
        for model in sorted(filter(_has_waiting, self._models.values()), key=_oldest):
            lane = self._lane_for(model)
            if lane is None:
                continue
            if self._timeout is not Timeout.NONE:
                self._reject(now_ns, model)
            if not model.waiting:
                continue
            size = self._size(now_ns, model)
            if size:
                self._dispatch(now_ns, lane, model, size)
                return True
            due_ns = model.waiting[0][0] + self._delay_ns
            if self._wake_ns is None or due_ns < self._wake_ns:
                self._wake_ns = due_ns
        return False

    def _size(self, now_ns: int, model: Model) -> int:
        """The size of the batch that starts now; 0: it waits for more."""
        batch_max = min(self._batch_max, model.profile.batch_max)
        pending = min(len(model.waiting), batch_max)
        overdue = self._delay_ns > 0 and now_ns - model.waiting[0][0] >= self._delay_ns
        preferred = self._preferred or (batch_max,)
        if not overdue:
            filled = max((size for size in preferred if size <= pending), default=0)
            if filled:
                return filled
        return pending if overdue or self._delay_ns == 0 or pending >= preferred[-1] else 0

    def _reject(self, now_ns: int, model: Model) -> None:
        """Rejects what has timed out of as much of the queue as a full batch needs."""
        batch_max = min(self._batch_max, model.profile.batch_max)
        limit_ns = now_ns
        if self._timeout is Timeout.LATEST_START:
            limit_ns += model.profile.plan_ns[batch_max]
        kept: list[Waiting] = []
        looked_at = 0
        for entry in model.waiting:
            if len(kept) == batch_max:
                break
            looked_at += 1
            if entry[2].deadline_ns < limit_ns:
                self._answer(entry[2], OutcomeStatus.EXPIRED, "it waited for longer than its timeout")
            else:
                kept.append(entry)
        model.waiting[:looked_at] = kept


def _has_waiting(model: Model) -> bool:
    return bool(model.waiting)


def _oldest(model: Model) -> Waiting:
    return model.waiting[0]
