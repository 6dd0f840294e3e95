"""Streams are told to slow down where it helps, are served no less for following, and hear soon that there is room.

Whole runs of the scheduler in the simulator, where transport costs nothing: what is judged is the advice itself.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from duly.core.advice import AGAIN_NS, PERIOD_NS_MAX, REVERSAL_NS
from duly.core.events import Advice, AdviseStream
from duly.core.scheduler import Scheduler
from duly.core.types import OutcomeStatus
from duly_load.scenario.scenario import Scenario
from duly_sim.simulator.engine import Run
from duly_sim.simulator.world import World, build

SINGLES = {"name": "single", "batch_max": 4, "variants": [{"linear": {"first_ms": 9, "next_ms": 9}}]}
"""Some 110 frames a second, whatever the batch."""
BATCHES = {"name": "batch", "batch_max": 16, "variants": [{"linear": {"first_ms": 8, "next_ms": 2}}]}
"""Some 420 frames a second in full batches."""


def cameras(count: int, **more: Any) -> dict[str, Any]:
    """They follow advice, unless `more` says otherwise."""
    arrivals = {"kind": "periodic", "rate_hz": more.pop("rate_hz", 30), "drift_ppm": 50}
    plain = {"name": "camera", "model": "single", "budget_ms": 100, "backlog": "ALL", "advice": "follow"}
    return plain | {"count": count, "arrivals": arrivals} | more


@dataclass(frozen=True)
class Seen:
    """A run, and questions about it."""

    world: World
    run: Run

    def frames(self, name: str = "", from_s: float = 0.0, to_s: float = 1e9) -> np.ndarray[Any, Any]:
        """Which frames came then, of the streams whose name begins so."""
        ids = [each.stream_id for each in self.world.sessions if each.name.startswith(name)]
        at_s = self.run.frames.arrival_ns / 1e9
        return np.isin(self.run.frames.stream_id, ids) & (from_s <= at_s) & (at_s < to_s)

    def on_time(self, name: str = "", from_s: float = 0.0, to_s: float = 1e9) -> float:
        """The share of those frames."""
        return float((self.run.status[self.frames(name, from_s, to_s)] == OutcomeStatus.ON_TIME).mean())

    def rate(self, name: str = "", from_s: float = 0.0, to_s: float = 0.0) -> float:
        """Frames on time for each second, to the end where `to_s` is 0."""
        to_s = to_s or self.world.scenario.duration_s
        return self.on_time(name, from_s, to_s) * self.frames(name, from_s, to_s).sum() / (to_s - from_s)

    def told(self, name: str = "") -> dict[str, list[tuple[int, AdviseStream]]]:
        """By stream, each piece of advice and when it was given."""
        of = {each.stream_id: each.name for each in self.world.sessions if each.name.startswith(name)}
        told: dict[str, list[tuple[int, AdviseStream]]] = {}
        for at_ns, action in self.run.advice:
            if action.stream_id in of:
                told.setdefault(of[action.stream_id], []).append((at_ns, action))
        return told

    def slowed(self) -> set[str]:
        """The first words of the names of streams that were told to slow down."""
        return {name.split("-")[0] for name in self.told()}


def see(*streams: dict[str, Any], duration_s: float = 40, seed: int = 1, **more: Any) -> Seen:
    simulate = {"noise": {"cv": 0.03}, "lane": [{"name": "cpu:0"}], "model": [SINGLES, BATCHES]}
    simulate |= {key: more.pop(key) for key in ("lane", "fault") if key in more}
    plain = {"name": "advice", "duration_s": duration_s, "stream": list(streams), "simulate": simulate}
    scenario = Scenario.model_validate(plain | more)
    world = build(scenario, seed)
    return Seen(world, world.run(Scheduler()))


@pytest.mark.parametrize("cameras_open", [2, 3, 4])
def test_nobody_is_told_anything_while_the_lane_can_do_it(cameras_open: int) -> None:
    """Four cameras are a tenth more than it can do, which is let be."""
    assert see(cameras(cameras_open)).run.advice == []


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("load", [1.5, 2, 3])
def test_followers_get_as_much_for_fewer_frames(load: float, seed: int) -> None:
    followed = see(cameras(round(4 * load)), seed=seed)
    ignored = see(cameras(round(4 * load), advice="ignore"), seed=seed)
    assert followed.rate(from_s=5) >= 0.98 * ignored.rate(from_s=5)
    received = np.isin(followed.run.status, [OutcomeStatus.ON_TIME, OutcomeStatus.SHED, OutcomeStatus.EXPIRED])
    assert received[followed.frames(from_s=5)].sum() / 35 <= 1.35 * followed.rate(from_s=5)
    worst = min(followed.on_time(each.name, 5) for each in followed.world.sessions)
    assert worst >= 0.7 * followed.on_time(from_s=5), "nobody starves"


@pytest.mark.parametrize("backlog", ["LATEST", "ALL"])
def test_it_holds_where_batches_pay(backlog: str) -> None:
    followed = see(cameras(30, model="batch", backlog=backlog))
    ignored = see(cameras(30, model="batch", backlog=backlog, advice="ignore"))
    assert followed.rate(from_s=5) >= 0.97 * ignored.rate(from_s=5)
    assert len(followed.told()) == 30


@pytest.mark.parametrize("follows", ["follow", "ignore"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_advice_is_seldom_and_never_goes_to_and_fro(follows: str, seed: int) -> None:
    """Poisson sensors with less and more to gain from batches, on one lane, at three times what it can do."""
    poisson = {"kind": "poisson", "rate_hz": 30}
    seen = see(
        cameras(6, advice=follows, arrivals=poisson),
        cameras(20, name="other", model="batch", advice=follows, arrivals=poisson),
        duration_s=60,
        seed=seed,
    )
    for told in seen.told().values():
        assert len(told) <= 8
        for (before_ns, before), (now_ns, now) in pairwise(told):
            assert now_ns - before_ns >= (AGAIN_NS if now.advice is before.advice else REVERSAL_NS)
            assert 0 <= now.period_ns <= PERIOD_NS_MAX


def test_what_is_decided_does_not_depend_on_who_is_told() -> None:
    told, untold = see(cameras(8, advice="ignore")), see(cameras(8, advice=None))
    assert told.run.advice
    assert not untold.run.advice
    assert (told.run.status == untold.run.status).all()
    assert told.run.batches == untold.run.batches


def test_when_streams_leave_the_others_send_all_again() -> None:
    seen = see(cameras(2, name="stays"), cameras(10, name="goes", from_s=5, to_s=20))
    assert seen.on_time("stays", 8, 20) < 0.6
    assert seen.on_time("stays", 23, 40) == 1.0
    assert [action.advice for _, action in seen.told("stays-0")["stays-0"]] == [Advice.SLOW_DOWN, Advice.SPEED_UP]


def test_when_sensors_send_less_they_may_send_all_again() -> None:
    """They state the most that they send, as what comes faster than stated is demoted and no matter of advice."""
    steps = [{"at_s": 0, "factor": 1 / 3}, {"at_s": 5, "factor": 1}, {"at_s": 20, "factor": 1 / 6}]
    seen = see(cameras(4, rate_hz=90), load_step=steps)
    assert seen.on_time(from_s=23) >= 0.999
    assert {(told[-1][1].advice, told[-1][1].period_ns) for told in seen.told().values()} == {(Advice.SPEED_UP, 0)}


def test_when_a_lane_is_back_streams_hear_of_it() -> None:
    fault = [{"lane": "b", "kind": "die", "at_s": 5, "back_s": 20}]
    seen = see(cameras(6), lane=[{"name": "a"}, {"name": "b"}], fault=fault)
    assert seen.rate(from_s=8, to_s=20) >= 105
    assert seen.on_time(from_s=25) >= 0.99


def test_critical_streams_are_not_slowed_down_while_others_are_served() -> None:
    brake = cameras(3, name="brake", **{"class": "CRITICAL"})
    seen = see(brake, cameras(3, name="track"), cameras(3, name="archive", **{"class": "BEST_EFFORT"}))
    assert seen.slowed() == {"track", "archive"}
    assert seen.on_time("brake") >= 0.99


def test_critical_streams_alone_are_told_the_truth() -> None:
    assert see(cameras(6, name="brake", **{"class": "CRITICAL"})).slowed() == {"brake"}


def test_who_follows_is_served_about_as_much_as_who_does_not() -> None:
    seen = see(cameras(6, name="follower"), cameras(6, name="other", advice="ignore"), duration_s=60)
    assert seen.on_time("follower", 5) >= 0.75 * seen.on_time("other", 5)


def test_principals_share_and_floors_are_kept() -> None:
    seen = see(
        cameras(2, name="north", principal="north"),
        cameras(8, name="south", principal="south"),
        cameras(1, name="floor", principal="south", floor=[3, 4]),
    )
    assert seen.rate("north", 5) == pytest.approx(seen.rate("south", 5) + seen.rate("floor", 5), rel=0.4)
    assert seen.on_time("floor", 5) >= 0.6
    assert seen.on_time("south", 5) <= 0.3


def test_fast_and_slow_sensors_keep_the_same_part() -> None:
    fast, slow = cameras(1, name="fast", rate_hz=60), cameras(6, name="slow", rate_hz=3)
    seen = see(fast, cameras(12, name="usual", rate_hz=15), slow)
    parts = [seen.on_time(name, 5) for name in ("fast", "usual", "slow")]
    assert max(parts) <= 2 * min(parts)


def test_nobody_is_silenced() -> None:
    """What cannot be served at all is still tried now and then."""
    seen = see(cameras(5, name="track"), cameras(3, name="archive", advice="follow", **{"class": "BEST_EFFORT"}))
    kept_back = seen.run.status[seen.frames("archive", 10)] == OutcomeStatus.SUPERSEDED
    assert 0.9 <= kept_back.mean() < 1.0
