"""Decides whether a stream opens. Streams are judged one at a time, beside the event loop, which goes on with the
frames of other streams.

The decision is made by `core/admission/decide`. It takes from a millisecond to a second, depending on how many streams
are open. It works on copies, in a thread of its own that hands the interpreter over every SWITCH_SECONDS.

A stream is opened within its own turn, so that the next one is judged with it in place.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from duly.core.admission.decide import judge
from duly.core.admission.swap import BrokenPromise, broken_promises
from duly.core.scheduler import Scheduler
from duly.core.types import ModelPlan, StreamDemand, StreamTerms, Verdict
from duly.runtime.catalogue import ModelError
from duly.runtime.fair_turns import FairTurns, TooManyWait

WAITING_MAX = 256
"""How many streams may wait for their turn. Where more come, one of the connection that has most is refused."""
CROWD = 8
"""While so many wait, the thread rests after each stream for as long as it worked, as it takes the interpreter from the
frames of other streams."""
SWITCH_SECONDS = 0.0005
"""The value for `sys.setswitchinterval`, which is how long the event loop may wait for the interpreter. Python's own
5 ms is the whole budget of some frames."""
CANDIDATE_ID = 0
"""The id of the stream that is judged; the driver's streams have positive ids."""


class Refused(Exception):
    """The stream would not be served as it asks. `verdict` says why, and what would fit."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class Busy(Exception):
    """Too many streams wait to be opened."""


@dataclass(frozen=True, slots=True)
class SwapVerdict:
    """What another active version would mean for the streams that are open."""

    broken: list[BrokenPromise]
    """The promises that it would break, the most critical first; empty: none."""
    streams: int
    """How many streams are open."""
    before_ns: int
    """Planned time of one frame with the version that is active, and with the new one; 0: no lane serves it."""
    after_ns: int


class Admission:
    def __init__(self, scheduler: Callable[[], Scheduler], clock: Callable[[], int], enforce: bool) -> None:
        """`scheduler()` gives the one that schedules now. `enforce`: whether a stream that does not fit is refused;
        otherwise it opens with a warning.
        """
        self._scheduler = scheduler
        self._clock = clock
        self.enforces = enforce
        self._turns = FairTurns(WAITING_MAX)
        self._thread = ThreadPoolExecutor(1, "admission")

    def close(self) -> None:
        """Lets the thread finish the stream that it judges now; it judges no others."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def turn(
        self, terms: StreamTerms, connection: str = "", group: Callable[[], tuple[StreamTerms, int]] | None = None
    ) -> AsyncIterator[Verdict]:
        """Waits for the stream's turn and judges it. The caller opens the stream before the context ends. Turns are
        shared between principals, and between the connections of each. `group`: for a member of a fusion group, asked
        in its turn: the terms of the group with it, and the id of the group's stream, which is judged in its place.

        Raises Refused, Busy, or ModelError MODEL_NOT_READY while no lane serves the model.
        """
        try:
            async with self._turns.turn(terms.principal, connection):
                began_ns = self._clock()
                verdict = await (self._judge(terms, 0) if group is None else self._judge(*group()))
                if self._turns.waiting >= CROWD:
                    await asyncio.sleep((self._clock() - began_ns) / 1e9)
                if self.enforces and not verdict.accepted:
                    raise Refused(verdict)
                yield verdict
        except TooManyWait:
            raise Busy(f"{WAITING_MAX} streams wait to be opened already") from None

    @contextlib.asynccontextmanager
    async def swap(self, name: str, active: str, new: str) -> AsyncIterator["SwapVerdict"]:
        """Waits for a turn and judges what open streams would get with `new` as the active version of the model `name`
        in place of `active`. The caller activates it before the context ends.
        """
        async with self._turns.turn("", "", whoever_waits=True):
            scheduler = self._scheduler()
            before, models = scheduler.demands(self._clock()), scheduler.plans()
            after = [_follows(demand, name, new) for demand in before]
            broken: list[BrokenPromise] = []
            if after != before:
                work = partial(broken_promises, before, after, models, scheduler.lane_count())
                broken = await asyncio.get_running_loop().run_in_executor(self._thread, work)
            yield SwapVerdict(broken, len(before), _one_ns(models, active), _one_ns(models, new))

    async def _judge(self, terms: StreamTerms, replaced: int) -> Verdict:
        """Judges a stream with these terms, without the one with the id `replaced`; 0: none."""
        candidate = StreamDemand(
            CANDIDATE_ID,
            terms.model,
            terms.stream_class,
            terms.period_ns,
            terms.budget_ns,
            variant_rank_max=terms.variant_rank_max,
            backlog=terms.backlog,
        )
        scheduler = self._scheduler()
        streams, models = scheduler.demands(self._clock()), scheduler.plans()
        if replaced:
            streams = [stream for stream in streams if stream.stream_id != replaced]
        lanes = scheduler.lane_count()
        if terms.model not in models or not models[terms.model].lanes:
            text = f"model {terms.model!r} is not ready: no lane serves it now; its worker is being replaced"
            raise ModelError("MODEL_NOT_READY", text)
        return await asyncio.get_running_loop().run_in_executor(self._thread, judge, candidate, streams, models, lanes)


def _follows(demand: StreamDemand, name: str, new: str) -> StreamDemand:
    """Returns the stream as it will be when the version `new` of the model `name` is active."""
    return demand if demand.pinned or demand.model.partition("/")[0] != name else replace(demand, model=new)


def _one_ns(models: Mapping[str, ModelPlan], model: str) -> int:
    return models[model].ranks[0][0] if model in models else 0
