"""The same run with a shadow: for each result of a model, a copy of its frame is run in spare time, on a twin of the
model that takes as long, as a version does that is tried (`docs/trials.md`).

The policy is wrapped, so that the engine knows nothing of it: to the engine a run of a copy is one that warms the lane.
The twins draw the noise of their times elsewhere, so that the others take as long as without them.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from random import Random

from duly.core.events import (
    Action,
    DispatchBatch,
    Event,
    FramesArrived,
    ModelReady,
    ResolveFrame,
    StreamOpened,
    WarmLane,
)
from duly.core.fates import RESULTS
from duly.core.types import BacklogPolicy, Frame, StreamClass, StreamTerms
from duly_sim.simulator.engine import Policy, Service
from duly_sim.simulator.world import World, build

TWIN = "@shadow"
STREAM_IDS = 1 << 40
"""The streams of the copies have the ids from here on, and the copies their numbers."""
WAIT_NS = 1_000_000_000
"""A copy is given up after so long."""


@dataclass(slots=True)
class Shadowing:
    """A policy with a shadow. It counts what became of the copies."""

    policy: Policy
    models: Collection[str]
    share: float
    random: Random
    ran: int = 0
    dropped: int = 0
    _streams: dict[str, int] | None = None
    _seq: int = STREAM_IDS

    def step(self, now_ns: int, event: Event) -> list[Action]:
        actions = self._kept(self.policy.step(now_ns, event))
        if isinstance(event, ModelReady) and event.model in self.models:
            self.policy.step(now_ns, replace(event, model=event.model + TWIN))
        if self._streams is None:
            self._streams = {}
        copies: list[Frame] = []
        for action in actions:
            served = isinstance(action, ResolveFrame) and action.status in RESULTS and action.frame.model in self.models
            if isinstance(action, ResolveFrame) and served and self.random.random() < self.share:
                copies.append(self._copy(now_ns, action.frame.model, self._streams))
        for copy in copies:
            actions += self._kept(self.policy.step(now_ns, FramesArrived([copy])))
        return actions

    def next_wake_ns(self) -> int | None:
        return self.policy.next_wake_ns()

    def _copy(self, now_ns: int, model: str, streams: dict[str, int]) -> Frame:
        twin = model + TWIN
        if twin not in streams:
            stream_id = streams[twin] = STREAM_IDS + len(streams)
            terms = StreamTerms(StreamClass.BEST_EFFORT, BacklogPolicy.LATEST, 1, WAIT_NS, 64, model=twin, spare=True)
            self.policy.step(now_ns, StreamOpened(stream_id, terms))
        self._seq += 1
        return Frame(self._seq, streams[twin], self._seq, twin, now_ns + WAIT_NS)

    def _kept(self, actions: list[Action]) -> list[Action]:
        kept: list[Action] = []
        for action in actions:
            if isinstance(action, ResolveFrame) and action.frame.seq > STREAM_IDS:
                ran = action.status in RESULTS
                self.ran, self.dropped = self.ran + ran, self.dropped + (not ran)
            elif isinstance(action, DispatchBatch) and action.frames[0].seq > STREAM_IDS:
                kept.append(WarmLane(action.batch_id, action.lane, action.model, action.variant))
            else:
                kept.append(action)
        return kept


class _WithTwins:
    """The times of a world, and those of the twins."""

    def __init__(self, service: Service, twins: Service) -> None:
        self._service = service
        self._twins = twins

    def duration_ns(self, now_ns: int, lane: str, model: str, variant: str, batch_size: int) -> int | None:
        if model.endswith(TWIN):
            return self._twins.duration_ns(now_ns, lane, model.removesuffix(TWIN), variant, batch_size)
        return self._service.duration_ns(now_ns, lane, model, variant, batch_size)


def shadowed(world: World, policy: Policy, share: float = 1.0) -> tuple[World, Shadowing]:
    """Returns the world and the policy with a shadow of all models, on that share of their results. `world` is not to
    be run besides.
    """
    twins = build(world.scenario, world.seed + 1_000_003).service
    models = frozenset(world.model_of.values())
    shadowing = Shadowing(policy, models, share, Random(world.seed))
    return replace(world, service=_WithTwins(world.service, twins)), shadowing
