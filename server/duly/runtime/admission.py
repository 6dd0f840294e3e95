"""Decides whether a stream opens: one at a time, beside the event loop, which goes on with the others' frames.

The formula (`core/admission`) answers first. Where it is too close to call, a rollout (`core/rollout`) decides for
STANDARD streams: CRITICAL ones need a proof, which no rollout is, and BEST_EFFORT ones open in any case. A stream that
the formula lets in and the rollout does not is offered the shortest of a few longer periods whose rollout succeeds.

Judging takes from a millisecond to a second, by how many streams are open. It works on copies, in a thread of its own
that hands the interpreter over every SWITCH_SECONDS.

Whoever holds a turn opens its stream within it, so that the next one is judged with it in place.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from duly.core.admission import ModelPlan, StreamDemand, Verdict, admit, needs_rollout
from duly.core.rollout import ON_TIME_RATIO_MIN, Rollout
from duly.core.scheduler import Scheduler
from duly.core.types import StreamClass, StreamTerms

WAITING_MAX = 64
"""Opens that wait for their turn or have it."""
SWITCH_SECONDS = 0.0005
"""For `sys.setswitchinterval`: how long the event loop may wait for the interpreter. Python's own 5 ms is the whole
budget of some frames."""
ROLLOUT_STEPS = 1000
PERIODS_TRIED_PERCENT = (125, 150, 200, 400)
"""Of the period asked for: what a stream is offered that a rollout refused."""
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

        A stream that states no period can't be judged and has no turn to wait for. Raises Refused or Busy.
        """
        if not terms.period_ns:
            yield Verdict(True, "no expected period was stated: nothing is promised", 0.0, 0)
            return
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
        return await asyncio.get_running_loop().run_in_executor(self._thread, judge, candidate, streams, models, lanes)


def judge(
    candidate: StreamDemand, streams: Sequence[StreamDemand], models: Mapping[str, ModelPlan], lanes: int
) -> Verdict:
    """The formula's verdict on `candidate` beside `streams`, or the rollout's where that decides."""
    verdict = admit(candidate, streams, models, lanes)
    if candidate.stream_class is not StreamClass.STANDARD or not needs_rollout(verdict):
        return verdict
    on_time, verdict.predicted_latency_ns = _roll_out(candidate, streams, models)
    let_in = verdict.accepted
    verdict.accepted = on_time >= ON_TIME_RATIO_MIN
    verdict.reason += f"; run ahead with all open streams, {on_time:.1%} of frames are on time"
    if let_in and not verdict.accepted:
        for percent in PERIODS_TRIED_PERCENT:
            tried = replace(candidate, period_ns=candidate.period_ns * percent // 100)
            if _roll_out(tried, streams, models)[0] >= ON_TIME_RATIO_MIN:
                verdict.counter_period_ns = tried.period_ns
                break
    return verdict


def _roll_out(
    candidate: StreamDemand, streams: Sequence[StreamDemand], models: Mapping[str, ModelPlan]
) -> tuple[float, int]:
    """On-time ratio of the candidate's class and more critical ones; predicted latency of the candidate, ns."""
    rollout = Rollout([*streams, candidate], models)
    while not rollout.advance(ROLLOUT_STEPS):
        pass
    return rollout.on_time_ratio(candidate.stream_class), rollout.predicted_latency_ns(CANDIDATE_ID)
