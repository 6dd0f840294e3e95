"""Decides whether a stream opens: one at a time, beside the event loop, which goes on with the others' frames.

The formula (`core/admission`) answers first. Where it is too close to call, a rollout (`core/rollout`) decides for
STANDARD streams: CRITICAL ones need a proof, which no rollout is, and BEST_EFFORT ones open in any case. Streams that
state no period are judged by the formula alone, which still refuses what can't be served at all or would break a
promise. A stream that is refused is offered only what would be accepted if it came back for it: what the formula finds
is rolled out like any other stream, and where that fails, a few steps further; so are longer periods for a stream that
only the rollout refused.

Judging takes from a millisecond to a second, by how many streams are open. It works on copies, in a thread of its own
that hands the interpreter over every SWITCH_SECONDS.

Whoever holds a turn opens its stream within it, so that the next one is judged with it in place.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from duly.core.admission import ModelPlan, StreamDemand, Verdict, admit, analyse, needs_rollout
from duly.core.rollout import ON_TIME_RATIO_MIN, Rollout
from duly.core.scheduler import Scheduler
from duly.core.types import StreamClass, StreamTerms
from duly.runtime.models import ModelError

WAITING_MAX = 256
"""Opens that wait for their turn or have it."""
SWITCH_SECONDS = 0.0005
"""For `sys.setswitchinterval`: how long the event loop may wait for the interpreter. Python's own 5 ms is the whole
budget of some frames."""
ROLLOUT_STEPS = 1000
OFFERS_TRIED_PERCENT = (100, 125, 150, 200, 400)
"""Of the formula's offer, or of what was asked for where the formula was content with that."""
CANDIDATE_ID = 0
"""The driver's streams have positive numbers."""


class Refused(Exception):
    """The stream would not be served as it asks. `verdict` says why, and what would fit."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class Busy(Exception):
    """Too many streams wait to be opened."""


class Admission:
    def __init__(self, scheduler: Scheduler, clock: Callable[[], int], enforce: bool) -> None:
        """`enforce`: whether a stream that does not fit is refused, or opened and told so."""
        self._scheduler = scheduler
        self._clock = clock
        self._enforce = enforce
        self._waiting = 0
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "admission")

    def close(self) -> None:
        """What is being judged is judged to its end, and nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def turn(self, terms: StreamTerms) -> AsyncIterator[Verdict]:
        """Waits for its turn and judges the stream; it is to be opened before the context ends.

        Raises Refused, Busy, or ModelError MODEL_NOT_READY while no lane serves the model.
        """
        if self._waiting >= WAITING_MAX:
            raise Busy(f"{WAITING_MAX} streams wait to be opened already")
        self._waiting += 1
        try:
            async with self._turn:
                verdict = await self._judge(terms)
                if self._enforce and not verdict.accepted:
                    raise Refused(verdict)
                yield verdict
        finally:
            self._waiting -= 1

    async def _judge(self, terms: StreamTerms) -> Verdict:
        candidate = StreamDemand(
            CANDIDATE_ID,
            terms.model,
            terms.stream_class,
            terms.period_ns,
            terms.budget_ns,
            variant_rank_max=terms.variant_rank_max,
            backlog=terms.backlog,
        )
        streams, models = self._scheduler.demands(self._clock()), self._scheduler.plans()
        lanes = self._scheduler.lane_count()
        if terms.model not in models or not models[terms.model].lanes:
            text = f"model {terms.model!r} is not ready: no lane serves it now; its worker is being replaced"
            raise ModelError("MODEL_NOT_READY", text)
        return await asyncio.get_running_loop().run_in_executor(self._thread, judge, candidate, streams, models, lanes)


def judge(
    candidate: StreamDemand, streams: Sequence[StreamDemand], models: Mapping[str, ModelPlan], lanes: int
) -> Verdict:
    """The formula's verdict on `candidate` beside `streams`, or the rollout's where that decides.

    What a refusal offers is accepted if it is asked for while nothing else has changed.
    """
    verdict = admit(candidate, streams, models, lanes)
    if candidate.stream_class is not StreamClass.STANDARD or not candidate.period_ns:
        return verdict
    offers = (verdict.counter_period_ns, verdict.counter_budget_ns, verdict.counter_rank)
    # Only the rollout refuses it: longer periods are what gives it room.
    period_ns, budget_ns, rank = (candidate.period_ns, 0, -1) if verdict.accepted else offers
    _roll_out(verdict, candidate, streams, models)
    verdict.counter_period_ns, verdict.counter_budget_ns, verdict.counter_rank = 0, 0, -1
    if verdict.accepted:
        return verdict

    def fits(tried: StreamDemand) -> bool:
        answer = analyse(tried, streams, models, lanes)
        _roll_out(answer, tried, streams, models)
        return answer.accepted

    longer_ns = (period_ns * percent // 100 for percent in OFFERS_TRIED_PERCENT)
    larger_ns = (budget_ns * percent // 100 for percent in OFFERS_TRIED_PERCENT)
    ranks = range(rank, len(models[candidate.model].ranks)) if rank >= 0 else ()
    verdict.counter_period_ns = next(
        (ns for ns in longer_ns if ns > candidate.period_ns and fits(replace(candidate, period_ns=ns))), 0
    )
    verdict.counter_budget_ns = next(
        (ns for ns in larger_ns if ns > candidate.budget_ns and fits(replace(candidate, budget_ns=ns))), 0
    )
    verdict.counter_rank = next((rank for rank in ranks if fits(replace(candidate, variant_rank_max=rank))), -1)
    return verdict


def _roll_out(
    verdict: Verdict, candidate: StreamDemand, streams: Sequence[StreamDemand], models: Mapping[str, ModelPlan]
) -> None:
    """Lets a rollout overrule the formula's `verdict` where that is too close to call."""
    if not needs_rollout(verdict):
        return
    rollout = Rollout([*streams, candidate], models)
    while not rollout.advance(ROLLOUT_STEPS):
        pass
    on_time, own = rollout.on_time_ratio(candidate.stream_class), rollout.own_ratio(candidate.stream_id)
    verdict.accepted = min(on_time, own) >= ON_TIME_RATIO_MIN
    verdict.reason += f"; run ahead with all open streams, {on_time:.1%} of frames are on time and {own:.1%} of its own"
    verdict.predicted_latency_ns = rollout.predicted_latency_ns(candidate.stream_id)
