"""Robots whose budgets are their chunk slack, before the real scheduler in virtual time: nothing here depends on speed.

The policy runs on one lane, one observation at a time. A robot ticks every 20 ms, carries out what its buffer has, and
asks for more as `ActionSupply` says.
"""

import heapq
from dataclasses import dataclass, field

import numpy as np
import pytest

from duly.core.events import (
    BatchFinished,
    DispatchBatch,
    FramesArrived,
    LaneUp,
    ModelReady,
    ResolveFrame,
    StreamOpened,
    TimerFired,
)
from duly.core.scheduler import Scheduler
from duly.core.types import BacklogPolicy, Frame, OutcomeStatus, StreamClass, StreamTerms
from duly.streams.planned_delay import PlannedDelay
from duly_client import Chunk
from duly_client.chunks import ActionSupply

MS = 1_000_000
TICK_NS, HORIZON = 20 * MS, 25
"""A chunk lasts half a second."""
DEFAULT_BUDGET_NS = 2_000 * MS
CHUNK = Chunk("actions", 0, TICK_NS, HORIZON)


@dataclass
class Robot:
    stream_id: int
    supply: ActionSupply
    delay: PlannedDelay = field(default_factory=PlannedDelay)
    frame_id: int = 0
    began: bool = False
    dry: list[int] = field(default_factory=list)
    """The ticks at which the buffer had run dry after the first chunk, in ms."""
    missed: list[int] = field(default_factory=list)
    """When observations came to nothing, in ms."""
    budgets: list[tuple[int, int]] = field(default_factory=list)
    """Of each observation its budget and the chunk slack when it was sent, in ns."""


class Factory:
    """Robots, and the scheduler with one lane."""

    def __init__(self, robots: int, policy_ns: int, *, fixed_budget_ns: int = 0, refill: float = 0.5) -> None:
        self.policy_ns = policy_ns
        self.fixed_budget_ns = fixed_budget_ns
        self.now_ns = 0
        self.scheduler = Scheduler()
        self.model = "policy/1"
        self.seq = 0
        self.coming: list[tuple[int, int, str, object]] = []
        self.received: dict[tuple[int, int], int] = {}
        self.step(LaneUp("cpu:0"))
        self.load("policy/1")
        self.robots: dict[int, Robot] = {}
        for stream_id in range(1, robots + 1):
            terms = StreamTerms(
                stream_class=StreamClass.STANDARD,
                backlog=BacklogPolicy.LATEST,
                backlog_frames=1,
                budget_ns=DEFAULT_BUDGET_NS,
                frames_in_flight_max=16,
                gap=None,
                model=self.model,
            )
            self.step(StreamOpened(stream_id, terms))
            supply = ActionSupply(
                HORIZON * TICK_NS, TICK_NS, policy_ns, refill=refill, reserve_ns=5 * MS, blend_steps=0
            )
            self.robots[stream_id] = Robot(stream_id, supply)
            self.at(stream_id * MS, "tick", stream_id)

    def load(self, model: str) -> None:
        self.step(ModelReady(model, "cpu:0", "default", {1: (self.policy_ns,) * 30}, any_size=False))

    def at(self, at_ns: int, kind: str, what: object) -> None:
        self.seq += 1
        heapq.heappush(self.coming, (at_ns, self.seq, kind, what))

    def run(self, until_ns: int) -> None:
        while self.coming and self.coming[0][0] <= until_ns:
            wake_ns = self.scheduler.next_wake_ns()
            if wake_ns is not None and wake_ns < self.coming[0][0]:
                self.now_ns = max(wake_ns, self.now_ns)
                self.step(TimerFired())
                continue
            self.now_ns, _, kind, what = heapq.heappop(self.coming)
            if kind == "tick":
                assert isinstance(what, int)
                self.tick(self.robots[what])
                self.at(self.now_ns + TICK_NS, kind, what)
            else:
                assert isinstance(what, BatchFinished)
                self.step(what)

    def tick(self, robot: Robot) -> None:
        supply, now_ns = robot.supply, self.now_ns
        if supply.buffer.action(now_ns) is None and robot.began:
            robot.dry.append(now_ns // MS)
        if supply.wants_observation(now_ns):
            robot.frame_id += 1
            self.seq += 1
            slack_ns = supply.buffer.slack_ns(now_ns)
            budget_ns = self.fixed_budget_ns or supply.budget_ns(now_ns) or DEFAULT_BUDGET_NS
            robot.budgets.append((budget_ns, slack_ns))
            supply.asked(robot.frame_id, now_ns, supply.delay_ns)
            frame = Frame(self.seq, robot.stream_id, robot.frame_id, self.model, now_ns + budget_ns, False, False)
            self.received[robot.stream_id, frame.frame_id] = now_ns
            self.step(FramesArrived([frame]))

    def step(self, event: object) -> None:
        for action in self.scheduler.step(self.now_ns, event):  # type: ignore[arg-type]
            if isinstance(action, DispatchBatch):
                self.at(self.now_ns + self.policy_ns, "finished", BatchFinished(action.batch_id))
            elif isinstance(action, ResolveFrame):
                self.resolve(action)

    def resolve(self, action: ResolveFrame) -> None:
        robot = self.robots[action.frame.stream_id]
        took_ns = self.now_ns - self.received.pop((robot.stream_id, action.frame.frame_id))
        robot.delay.answered(action.frame.model, action.status, took_ns)
        delay_ns = robot.delay.ns(self.model, self.scheduler.planned_one_ns(self.model, 0))
        given = action.status in (OutcomeStatus.ON_TIME, OutcomeStatus.LATE)
        if action.status is not OutcomeStatus.ON_TIME:
            robot.missed.append(self.now_ns // MS)
        actions = np.zeros((HORIZON, 1)) if given else None
        robot.supply.answered(action.frame.frame_id, delay_ns, CHUNK if given else None, actions, self.now_ns)
        robot.began |= given


def test_no_buffer_runs_dry_where_every_deadline_is_kept() -> None:
    factory = Factory(robots=3, policy_ns=60 * MS)  # some 72 % of the lane
    factory.run(60_000 * MS)
    for robot in factory.robots.values():
        assert robot.frame_id > 100
        assert robot.missed == []
        assert robot.dry == []
        asked_dry, *asked = robot.budgets
        assert asked_dry == (250 * MS, 0), "who has nothing wants actions that are not half over"
        assert all(budget_ns == slack_ns - 5 * MS for budget_ns, slack_ns in asked), "chunk slack is the deadline"
        assert robot.supply.delay_ns <= 3 * 60 * MS, "the others are waited for, and no one else"


@pytest.mark.parametrize("robots", [7, 9, 14])
def test_a_buffer_runs_dry_only_after_a_deadline_was_missed_and_fills_again(robots: int) -> None:
    factory = Factory(robots, policy_ns=60 * MS)
    factory.run(60_000 * MS)
    for robot in factory.robots.values():
        assert all(any(0 <= dry_ms - missed_ms <= 600 for missed_ms in robot.missed) for dry_ms in robot.dry)
        assert robot.dry, "more is asked than there is"
        assert robot.frame_id > 20, "everybody is served again and again"


def test_robots_run_dry_less_with_chunk_slack_than_first_come_first_served() -> None:
    dry = {}
    for name, fixed_budget_ns in (("slack", 0), ("fifo", 60_000 * MS)):
        factory = Factory(robots=9, policy_ns=60 * MS, fixed_budget_ns=fixed_budget_ns)
        factory.run(60_000 * MS)
        dry[name] = sum(len(robot.dry) for robot in factory.robots.values())
    assert 0 < 2 * dry["slack"] < dry["fifo"], "at 1.2 times what the policy can do"


def test_the_planned_delay_follows_the_load() -> None:
    factory = Factory(robots=1, policy_ns=60 * MS)
    factory.run(5_000 * MS)
    alone_ns = factory.robots[1].supply.delay_ns
    crowded = Factory(robots=6, policy_ns=60 * MS)
    crowded.run(5_000 * MS)
    assert 60 * MS <= alone_ns < 70 * MS
    assert max(robot.supply.delay_ns for robot in crowded.robots.values()) > 2 * alone_ns


def test_a_slower_version_is_told_and_asked_earlier() -> None:
    factory = Factory(robots=1, policy_ns=40 * MS, refill=0.25)
    robot = factory.robots[1]
    factory.run(5_000 * MS)
    before = len(robot.budgets)
    late_ns = max(slack_ns for _, slack_ns in robot.budgets[1:])
    factory.policy_ns = 160 * MS
    factory.load("policy/2")
    factory.model = "policy/2"
    factory.run(10_000 * MS)
    assert len(robot.dry) < 8, "nobody has said that it would come"
    assert all(dry_ms < 5_500 for dry_ms in robot.dry)
    assert 160 * MS <= robot.supply.delay_ns < 170 * MS
    early_ns = min(slack_ns for _, slack_ns in robot.budgets[before + 2 :])
    assert late_ns < 150 * MS, "with a quarter of a chunk left"
    assert early_ns > 200 * MS, "with half of it, as two delays are longer"


def test_the_delay_of_another_version_is_forgotten() -> None:
    delay = PlannedDelay()
    assert delay.ns("policy/1", 5) == 5
    delay.answered("policy/1", OutcomeStatus.ON_TIME, 90)
    delay.answered("policy/1", OutcomeStatus.LATE, 70)
    delay.answered("policy/1", OutcomeStatus.INVALID, 400)
    assert delay.ns("policy/1", 50) == 90
    assert delay.ns("policy/2", 50) == 50, "another version serves"
    delay.answered("policy/2", OutcomeStatus.EXPIRED, 60)
    assert delay.ns("policy/2", 50) == 60
    for _ in range(10):
        delay.answered("policy/2", OutcomeStatus.ON_TIME, 51)
    assert delay.ns("policy/2", 50) == 51
