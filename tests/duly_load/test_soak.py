"""The soak: what is a leak and what is noise, what counts against a server, and a short one with everybody rude."""

import csv
import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from duly_load.cli.main import cli
from duly_load.generator.run import Offer
from duly_load.protocols.address import Address
from duly_load.protocols.connection import AllRefused
from duly_load.results.record import LiveRun
from duly_load.scenario.arrivals import Poisson
from duly_load.scenario.scenario import Scenario, changed, load_scenario
from duly_load.soak import crowd as crowd_module
from duly_load.soak import page
from duly_load.soak import run as run_module
from duly_load.soak.crowd import Crowd, Rudeness
from duly_load.soak.decline import compared, decline
from duly_load.soak.misbehaviour import Aim
from duly_load.soak.phases import Phase, phase_of
from duly_load.soak.record import SAMPLES_MAX, Log, SliceResult, Soak, without_frames, write_samples
from duly_load.soak.run import SoakPlan, SoakProgress, soak
from duly_load.soak.trend import POINTS_MAX, Verdict, trend
from duly_load.soak.verdict import MIB, Holds, Judgement, judge
from duly_load.soak.watch import (
    Sample,
    ServerStatistics,
    Usage,
    Watch,
    Watched,
    lag_between,
    lag_histogram,
    usage_of_tree,
)
from duly_load.targets import opened as targets
from duly_load.targets.opened import OpenTarget

Floats = NDArray[np.float64]

SHORT = """
name = "short"
duration_s = 0.5

[[serve.model]]
name = "m"
dense = { width = 16, layers = 1 }
batch_sizes = [1, 2]

[[stream]]
name = "camera"
count = 2
model = "m"
budget_ms = 2000
arrivals = { kind = "periodic", rate_hz = 20 }
payloads = { shape = [16] }
"""
NULL = OpenTarget("null:", Address("null", ""), None, "")
EVERYBODY = Rudeness(slow_readers=2, vanish_per_minute=60, churn=True)

pytestmark = pytest.mark.timeout(240)  # the machine may be slow to start a server and a dozen processes


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("soak") / "short.toml"
    file.write_text(SHORT, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def scenario(short: Path) -> Scenario:
    return load_scenario(short)


# ---- does it grow? ----


def minutes(count: int) -> Floats:
    return np.arange(count, dtype=np.float64) * 60


def noisy(seed: int, count: int, memory: float) -> Floats:
    """Bytes: 300 MiB and a wandering of 1 MiB that remembers `memory` of where it was a minute ago."""
    random = np.random.default_rng(seed)
    values = np.zeros(count)
    for nth in range(1, count):
        values[nth] = memory * values[nth - 1] + random.normal(0, MIB * (1 - memory**2) ** 0.5)
    return 300 * MIB + values


@given(seed=st.integers(0, 10**6), memory=st.floats(0, 0.9), count=st.integers(60, 300))
def test_a_leak_of_a_mib_a_minute_is_found(seed: int, memory: float, count: int) -> None:
    found = trend(minutes(count), noisy(seed, count, memory) + np.arange(count) * MIB, 3 * MIB)
    assert found.verdict is Verdict.GROWS
    assert found.low_per_h is not None
    assert found.high_per_h is not None
    assert found.low_per_h / MIB < 70
    assert found.high_per_h / MIB > 50


def test_noise_without_a_trend_hardly_ever_grows() -> None:
    series = [noisy(seed, 120, memory) for seed in range(100) for memory in (0.0, 0.5, 0.9)]
    verdicts = [trend(minutes(120), values, MIB).verdict for values in series]
    assert verdicts.count(Verdict.GROWS) <= 6  # 2 % of 300
    assert verdicts.count(Verdict.DOES_NOT_GROW) > 200


def test_outliers_are_no_leak() -> None:
    values = np.full(240, 300.0 * MIB)
    values[::7] += 80 * MIB
    found = trend(minutes(240), values, 3 * MIB)
    assert (found.verdict, found.per_h) == (Verdict.DOES_NOT_GROW, 0)


def test_what_shrinks_does_not_grow() -> None:
    found = trend(minutes(120), noisy(1, 120, 0.3) - np.arange(120) * MIB, MIB)
    assert found.verdict is Verdict.DOES_NOT_GROW


def test_minutes_say_nothing_of_hours() -> None:
    at_s = np.arange(300, dtype=np.float64)
    found = trend(at_s, 300 * MIB + at_s * MIB, MIB)
    assert found.verdict is Verdict.TOO_SHORT
    assert found.per_h == pytest.approx(3600 * MIB)


@pytest.mark.parametrize("values", [[], [1.0], [np.nan] * 100])
def test_too_few_points_have_no_slope(values: list[float]) -> None:
    found = trend(minutes(len(values)), np.array(values), 1.0)
    assert (found.verdict, found.per_h) == (Verdict.TOO_SHORT, None)


def test_long_series_are_joined_and_keep_their_slope() -> None:
    count = 5 * POINTS_MAX + 3
    found = trend(minutes(count), np.arange(count, dtype=np.float64), 1.0)
    assert found.verdict is Verdict.GROWS
    assert found.per_h == pytest.approx(60, rel=1e-3)


# ---- the verdict ----


def usage(rss_bytes: float = 300 * MIB, descriptors: int = 30) -> Usage:
    return Usage(int(rss_bytes), None, None, descriptors, 12, 2, 1.0)


def asked(streams: int = 0, frames: int = 0) -> ServerStatistics:
    return ServerStatistics(streams, frames, 0, 1.0)


def slice_of(nth: int, **counts: int) -> SliceResult:
    """A minute in the phase that is due. Idle: without what was not sent."""
    phase, at_s = phase_of(nth), 60.0 * (nth + 1)
    if phase is Phase.IDLE:
        return without_frames(nth, phase, at_s, nth)
    frames, on_time = sum(counts.values()), counts.get("ON_TIME", 0)
    return SliceResult(
        nth, phase, at_s, nth, frames, counts, on_time / frames, on_time / 60, 5.0, 9.0, 0.1, broken=(), problems=()
    )


def hours(
    server: Callable[[int], Usage] = lambda nth: usage(), harness: Callable[[int], Usage] = lambda nth: usage()
) -> Soak:
    """Three, with a slice a minute and a sample in its middle: every third slice is busy, from the first one on."""
    return Soak(
        600.0,
        slices=[slice_of(nth, ON_TIME=100) for nth in range(180)],
        samples=[Sample(60.0 * nth + 30, server(nth), harness(nth), asked(), None) for nth in range(180)],
        before=asked(),
        after=asked(),
    )


def test_a_server_that_stays_as_it_is_holds() -> None:
    judged = judge(hours())
    assert judged.holds is Holds.YES
    assert not judged.notes
    assert {each.trend.verdict for each in judged.growth} == {Verdict.DOES_NOT_GROW}
    json.dumps(judged.to_json())


def test_memory_and_descriptors_that_grow_count_against_it() -> None:
    judged = judge(hours(lambda nth: usage(300 * MIB + nth * MIB, 30 + nth)))
    assert [reason.split(" by ")[0] for reason in judged.against] == ["its RSS grows", "its descriptors grow"]
    assert "60 MiB an hour" in judged.against[0]


def test_what_comes_and_goes_with_the_phases_hides_nothing() -> None:
    """Half an hour with a sample each five seconds, and more descriptors while it is busy."""

    def judged(leak_per_h: float) -> Judgement:
        done, chance = hours(), np.random.default_rng(0)
        done.warm_s, done.slices, done.samples = 180.0, [], []
        at_s = 0.0
        for nth in range(42):
            more = 9 if phase_of(nth) is Phase.BUSY else 0
            for _ in range(1 if phase_of(nth) is Phase.IDLE else 12):
                at_s += 5
                held = 30 + chance.integers(-1, 2) + more + leak_per_h * at_s // 3600
                done.samples.append(Sample(at_s, usage(300 * MIB, int(held)), usage(), asked(), None))
            done.slices.append(replace(slice_of(nth, ON_TIME=100), at_s=at_s))
        return judge(done)

    assert {each.trend.verdict for each in judged(0).growth} == {Verdict.DOES_NOT_GROW}
    assert [reason.split(" by ")[0] for reason in judged(12).against] == ["its descriptors grow"]


def test_what_grows_in_the_warm_up_alone_does_not() -> None:
    assert judge(hours(lambda nth: usage((200 + 10 * min(nth, 10)) * MIB))).holds is Holds.YES


def test_a_harness_that_grows_is_told_and_no_fault_of_the_server() -> None:
    judged = judge(hours(harness=lambda nth: usage((100 + nth) * MIB)))
    assert judged.holds is Holds.YES
    assert "the harness's own RSS grew" in judged.notes[0]


@pytest.mark.parametrize(
    ("slices", "faults", "against", "notes"),
    [
        ({6: {"ON_TIME": 99, "UNANSWERED": 1}}, False, ["1 frames {} were never answered, in 1 slices"], []),
        ({8: {"ON_TIME": 99, "UNANSWERED": 1}}, False, ["1 frames {} were never answered, in 1 slices"], []),
        ({nth: {"FAILED": 100} for nth in range(180)}, False, ["12000 frames {} failed, in 120 slices"], []),
        ({6: {"INVALID": 3}, 8: {"INVALID": 4}}, False, ["7 frames {} were called invalid, in 2 slices"], []),
        ({6: {"UNSENT": 1}}, False, ["1 frames {} could not be sent, in 1 slices"], []),
        # Late and shed frames do not.
        ({6: {"ON_TIME": 9, "LATE": 1, "SHED": 60, "EXPIRED": 20, "SUPERSEDED": 10}}, False, [], []),
        # Nor frames that fail in busy slices, where the scenario breaks workers.
        ({6: {"ON_TIME": 99, "FAILED": 1}}, True, [], ["1 frames {} failed, in 1 slices; the scenario has faults"]),
        (
            {6: {"ON_TIME": 98, "FAILED": 2}, 8: {"ON_TIME": 99, "FAILED": 1}},
            True,
            ["1 frames {} failed, in 1 slices"],
            ["2 frames {} failed, in 1 slices; the scenario has faults"],
        ),
    ],
)
def test_frames_that_go_wrong_count_against_it(
    slices: dict[int, dict[str, int]], faults: bool, against: list[str], notes: list[str]
) -> None:
    done = hours()
    done.faults = faults
    for nth, counts in slices.items():
        done.slices[nth] = slice_of(nth, **counts)
    judged, who = judge(done), "of clients that behave"
    assert judged.against == tuple(each.format(who) for each in against)
    assert [each for each in judged.notes if who in each] == [each.format(who) for each in notes]
    assert judged.holds is (Holds.NO if against else Holds.YES)


def busy(on_time: Sequence[int], frames: int | Sequence[int] = 1000) -> Soak:
    """Three hours of which only busy slices are looked at, with so many frames on time of `frames` a minute."""
    done = hours()
    each = [frames] * len(on_time) if isinstance(frames, int) else frames
    done.slices = [
        slice_of(len(Phase) * nth, ON_TIME=good, LATE=of - good)
        for nth, (good, of) in enumerate(zip(on_time, each, strict=True))
    ]
    return done


def test_busy_slices_that_serve_a_tenth_of_what_they_did_count_against_it() -> None:
    judged = judge(busy([900_000] * 12 + [78_000] * 30, 1_000_000))
    assert judged.holds is Holds.NO
    assert judged.against == (
        "its busy slices no longer do what they did at first: 1,300.0 frames/s on time (7.80%) in the last 10, "
        "15,000.0 (90.00%) in the first 10, medians; invalid slices are left out, but a machine that has become slower "
        "without that would look the same",
    )
    assert judged.to_json()["busy"]["last_per_s"] == 1300


@pytest.mark.parametrize(
    ("on_time", "frames", "holds"),
    [
        ([1000] * 30 + [900] * 30, 2000, Holds.YES),
        ([1000] * 30 + [899] * 30, 2000, Holds.NO),
        ([1000] * 30 + [2000] * 30, 2000, Holds.YES),
        # Overloaded, and as it was.
        ([300] * 60, 1000, Holds.YES),
        ([0] * 60, 1000, Holds.YES),
        # A dip that is over, and slices that are off.
        ([1000] * 15 + [100] * 30 + [1000] * 15, 1000, Holds.YES),
        ([1000] * 56 + [0] * 4, 1000, Holds.YES),
        ([1000] * 54 + [0] * 6, 1000, Holds.NO),
        # Less is offered; overloaded at last and as many on time as before; less is offered and still less done.
        ([1000] * 30 + [500] * 30, [1000] * 30 + [500] * 30, Holds.YES),
        ([1000] * 60, [1000] * 30 + [2000] * 30, Holds.YES),
        ([1000] * 30 + [500] * 30, [1000] * 30 + [900] * 30, Holds.NO),
    ],
)
def test_a_tenth_less_of_goodput_and_of_the_share_on_time_is_too_much(
    on_time: list[int], frames: int | list[int], holds: Holds
) -> None:
    assert judge(busy(on_time, frames)).holds is holds


def test_slices_on_a_machine_that_stood_still_are_no_decline() -> None:
    done = busy([1000] * 30 + [100] * 30)
    done.slices[30:] = [replace(each, problems=("the machine stood still",)) for each in done.slices[30:]]
    judged = judge(done)
    assert judged.holds is Holds.YES
    assert judged.decline is not None
    assert (judged.decline.first_per_s, judged.decline.last_per_s) == (1000 / 60, 1000 / 60)
    assert "30 of 60 slices are invalid and left out" in judged.notes[0]


def test_single_slices_are_not_what_busy_ones_are_held_against() -> None:
    done = hours()
    for nth in range(0, 180, len(Phase)):
        done.slices[nth] = slice_of(nth, ON_TIME=10_000)
    assert judge(done).holds is Holds.YES
    for nth in range(92, 180, len(Phase)):
        done.slices[nth] = slice_of(nth, ON_TIME=1, LATE=99)
    assert judge(done).holds is Holds.YES
    for nth in range(90, 180, len(Phase)):
        done.slices[nth] = slice_of(nth, ON_TIME=1_000, LATE=9_000)
    assert judge(done).holds is Holds.NO


@pytest.mark.parametrize(
    ("on_time", "slices"), [([9, 1, 1, 1, 1, 1, 1], 3), ([9, *[1] * 15], 7), ([9, *[1] * 20], 10), ([9, *[1] * 90], 10)]
)
def test_as_many_at_last_as_at_first_and_none_is_both(on_time: list[int], slices: int) -> None:
    found = decline(busy(on_time).slices)
    assert found is not None
    assert found.slices == slices


def test_of_a_few_busy_slices_nobody_says_whether_they_decline() -> None:
    judged = judge(busy([1000, 1000, 1000, 1000, 10, 10]))
    assert judged.holds is Holds.YES
    assert judged.decline is None
    assert judged.notes[-1] == (
        "too short to say whether busy slices still do what they did at first: 5 valid ones after the first, 6 are "
        "needed"
    )
    assert judge(busy([1000, 1000, 1000, 1000, 10, 10, 10])).holds is Holds.NO


def test_the_first_busy_slice_is_left_out_even_where_it_is_invalid() -> None:
    done = busy([1] * 7)
    done.slices[0] = replace(done.slices[0], problems=("the generator was late",))
    assert [each.nth for each in compared(done.slices)] == [3, 6, 9, 12, 15, 18]
    done.slices[1] = replace(done.slices[1], problems=("the generator was late",))
    assert decline(done.slices) is None


@given(seed=st.integers(0, 10**6), count=st.integers(7, 100), kept=st.floats(0.05, 0.8))
def test_a_decline_is_found_in_noise_and_noise_is_none(seed: int, count: int, kept: float) -> None:
    """Slices scatter by 5 % to either side."""
    noise = np.random.default_rng(seed).uniform(0.95, 1.05, count)
    assert judge(busy([round(50_000 * each) for each in noise], 100_000)).holds is Holds.YES
    half = np.where(np.arange(count) > count // 2, kept, 1.0)
    assert judge(busy([round(50_000 * each) for each in noise * half], 100_000)).holds is Holds.NO


def test_without_a_valid_busy_slice_nobody_can_say() -> None:
    done = hours()
    sent = [each for each in done.slices if each.phase is not Phase.IDLE]
    for each in sent:
        done.slices[each.nth] = replace(each, problems=("the generator was late",))
    judged = judge(done)
    assert judged.holds is Holds.CANNOT_SAY
    assert judged.doubts == ("not one of 60 busy slices is valid",)
    assert judged.to_json()["verdict"] == "cannot say"
    assert judged.notes[0].startswith(
        "120 of 180 slices are invalid and left out of its figures; slice 1, busy: the gen"
    )
    done.slices[8] = slice_of(8, ON_TIME=100)
    assert judge(done).holds is Holds.CANNOT_SAY
    done.slices[6] = slice_of(6, ON_TIME=100)
    assert judge(done).holds is Holds.YES
    assert "left out of its figures" in judge(done).notes[0]


def test_an_idle_slice_has_no_figures_and_is_no_fault() -> None:
    done = hours()
    assert len(done.in_phase(Phase.IDLE)) == 60
    assert not done.invalid
    assert {each.frames for each in done.in_phase(Phase.IDLE)} == {0}
    done.slices = done.slices[1:2]
    assert judge(done).doubts == ("not one of 0 busy slices is valid",)


def test_a_crowd_that_did_not_what_it_should_leaves_doubt_but_excuses_nothing() -> None:
    done = hours()
    done.doubts.append("the churners did nothing at all")
    assert judge(done).holds is Holds.CANNOT_SAY
    done.slices[6] = slice_of(6, UNANSWERED=1)
    assert judge(done).holds is Holds.NO


def test_a_server_that_no_longer_answers_does_not_hold() -> None:
    done = hours()
    done.after = None
    assert judge(done).against == ("it no longer answers",)
    done.ended = "slice 3: it was killed"
    assert judge(done).against == ("it ended: slice 3: it was killed",)
    done.before, done.ended = None, ""  # a server that never says what it holds
    assert judge(done).holds is Holds.YES


def test_a_soak_shorter_than_its_warm_up_says_so() -> None:
    done = hours()
    done.samples = done.samples[:5]
    judged = judge(done)
    assert not judged.growth
    assert any("shorter than its warm-up of 600 s" in note for note in judged.notes)


def test_a_soak_without_a_busy_slice_after_its_warm_up_says_so() -> None:
    done = hours()
    done.slices, done.samples = done.slices[:12], done.samples[:13]
    judged = judge(done)
    assert not judged.growth
    assert any("no sample in a busy slice after the warm-up of 600 s" in note for note in judged.notes)


def test_what_is_left_when_all_are_gone_counts_against_it() -> None:
    done = hours(lambda nth: usage())
    done.before, done.after = asked(streams=1), asked(streams=4, frames=2)
    assert judge(done).against == ("3 streams and 2 frames are left with it though all clients are gone",)


def test_a_server_whose_processes_are_unknown_says_so() -> None:
    done = hours(lambda nth: usage())
    done.samples = [Sample(each.at_s, None, each.harness, None, None) for each in done.samples]
    judged = judge(done)
    assert judged.holds is Holds.YES
    assert any("not to be seen: its processes are not known" in note for note in judged.notes)


# ---- phases ----


def test_slices_take_turns_and_the_first_offers_the_scenario() -> None:
    assert [phase_of(nth) for nth in range(4)] == [Phase.BUSY, Phase.IDLE, Phase.SINGLE, Phase.BUSY]
    assert phase_of(3_000_001) is Phase.IDLE


@pytest.mark.parametrize(("duration_s", "idle_s"), [(0.5, 0.5), (60.0, 5.0)])
def test_an_idle_slice_is_short(scenario: Scenario, duration_s: float, idle_s: float) -> None:
    plan = SoakPlan(scenario.model_copy(update={"duration_s": duration_s}), 0, 3600.0, EVERYBODY)
    assert plan.idle_s == idle_s


class Played:
    """A soak in which nothing is sent and no time passes but what its slices say: `offered` tells what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offered: list[Offer] = []
        self.rested_s: list[float] = []
        self.refused: set[int] = set()
        """Slices that are not let in, by their number."""
        self._at_s = 0.0
        self._runs: dict[str, LiveRun] = {}
        self._really_offer = targets.offer_to
        monkeypatch.setattr(run_module, "offer_to", self._offer)
        monkeypatch.setattr(run_module, "_rest", self._rest)
        monkeypatch.setattr(Watch, "at_s", property(lambda _: self._at_s))

    def soak(self, scenario: Scenario, duration_s: float) -> Soak:
        """Its slices take 4 s, eight times as long as planned, and idle ones 0.5 s."""
        return soak(SoakPlan(scenario, 3, duration_s, Rudeness(0, 0, False)), NULL, Log(None))

    def _offer(self, target: OpenTarget, asked: Offer, progress: object) -> LiveRun:
        self.offered.append(asked)
        self._at_s += 4.0
        if asked.seed - 3 in self.refused:
            raise AllRefused("no room")
        scenario = asked.scenario.model_dump_json()
        if scenario not in self._runs:
            self._runs[scenario] = self._really_offer(target, asked)
        return replace(self._runs[scenario], seed=asked.seed, problems=())

    def _rest(self, rest_s: float, progress: Callable[[], None]) -> None:
        self.rested_s.append(rest_s)
        self._at_s += rest_s


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def test_a_soak_lasts_its_time_however_long_slices_take(scenario: Scenario, played: Played) -> None:
    done = played.soak(scenario, 10.0)
    assert [result.seed for result in done.slices] == [3, 4, 5, 6]
    assert [result.at_s for result in done.slices] == [4, 4.5, 8.5, 12.5]


def test_only_busy_slices_offer_the_whole_scenario_and_its_faults(scenario: Scenario, played: Played) -> None:
    served = scenario.serve.model_dump() | {"fault": [{"lane": "cpu:0", "kind": "die", "at_s": 0.2}]}
    faulty = changed(scenario, "faulty", serve=served)
    done = played.soak(faulty, 14.0)
    assert [result.phase for result in done.slices] == [
        Phase.BUSY,
        Phase.IDLE,
        Phase.SINGLE,
        Phase.BUSY,
        Phase.IDLE,
        Phase.SINGLE,
    ]
    assert [result.frames for result in done.slices] == [20, 0, 10, 20, 0, 10]
    assert [asked.seed for asked in played.offered] == [3, 5, 6, 8]
    assert [len(asked.scenario.serve.fault) for asked in played.offered] == [1, 0, 1, 0]
    assert played.rested_s == [0.5, 0.5]
    assert done.faults


def test_one_stream_that_is_not_let_in_or_sends_nothing_ends_no_soak(scenario: Scenario, played: Played) -> None:
    played.refused = {2}
    done = played.soak(scenario, 10.0)
    assert not done.ended
    assert [result.problems for result in done.slices] == [(), (), ("no room",), ()]
    never = scenario.stream[0].model_copy(update={"arrivals": Poisson(kind="poisson", rate_hz=1e-6)})
    often = scenario.stream[0].model_copy(update={"name": "other"})
    done = played.soak(scenario.model_copy(update={"stream": (never, often)}), 10.0)
    assert [result.problems for result in done.slices][2] == ("its one stream has nothing to send in that time",)
    assert done.slices[3].frames == 20


def test_a_target_that_lets_nobody_in_when_it_is_busy_ends_it(scenario: Scenario, played: Played) -> None:
    played.refused = {3}
    assert played.soak(scenario, 60.0).ended == "slice 4: no room"


# ---- what is left of it ----


def test_what_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    with Log(tmp_path / "soak.jsonl") as log:
        log.verdict({"growth": [{"low_per_h": -math.inf, "high_per_h": math.nan, "per_h": 1.5}]})
    line = json.loads((tmp_path / "soak.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"kind": "verdict", "growth": [{"low_per_h": None, "high_per_h": None, "per_h": 1.5}]}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_told_and_ends_nothing() -> None:
    with Log(Path("/dev/full")) as log:
        for nth in range(3):
            log.begin({"nth": nth})
    assert log.error == "/dev/full lacks lines: No space left on device"


def test_samples_as_csv(tmp_path: Path) -> None:
    done = hours()
    write_samples(tmp_path / "soak.csv", [done.samples[1], Sample(120.0, None, usage(), None, None)])
    with (tmp_path / "soak.csv").open(newline="") as lines:
        seen, unseen = csv.DictReader(lines)
    assert (seen["at_s"], seen["server_rss_bytes"], seen["asked_streams_open"]) == ("90.0", str(300 * MIB), "0")
    assert (unseen["server_rss_bytes"], unseen["asked_streams_open"]) == ("", "")
    assert unseen["harness_descriptors"] == "30"


def test_the_page_tells_phases_apart(tmp_path: Path) -> None:
    done = hours()
    done.slices[6] = slice_of(6, ON_TIME=37, LATE=63)
    done.slices[8] = slice_of(8, ON_TIME=83, LATE=17)
    page.write(tmp_path / "soak.html", "soak", [], done, judge(done))
    text = (tmp_path / "soak.html").read_text("utf-8")
    for row, frames, ratio in (
        ("busy, all that are valid", "6,000", "98.95"),
        ("busy, worst", "100", "37.00"),
        ("single, all that are valid", "6,000", "99.72"),
        ("single, worst", "100", "83.00"),
        ("idle, nothing sent", "0", "-"),
    ):
        cells = text.split(f'title="{row}"')[1].split("</tr>")[0]
        assert f"<td>{frames}</td><td>{ratio}</td>" in cells
    assert "1.7 frames/s on time (100.00%) in the last 10, 1.7 (100.00%) in the first 10" in text


def test_many_samples_are_thinned_and_span_the_whole_soak() -> None:
    done = Soak(0.0)
    count = 5 * SAMPLES_MAX
    for nth in range(count):
        done.add(Sample(float(nth), None, usage(), None, None))
    at_s = [sample.at_s for sample in done.samples]
    assert SAMPLES_MAX / 2 <= len(at_s) <= SAMPLES_MAX
    assert set(np.diff(at_s)) == {float(done.keep_each)}
    assert at_s[0] == 0
    assert at_s[-1] >= count - done.keep_each


# ---- what is watched ----


def test_usage_of_this_process_and_of_none() -> None:
    found = usage_of_tree(psutil.Process().pid)
    assert found is not None
    assert found.rss_bytes > 10 * MIB
    assert found.threads >= 1
    assert found.descriptors is not None
    assert usage_of_tree(2**31 - 2) is None


METRICS = """# HELP duly_event_loop_lag_seconds How late the event loop was for its timers.
# TYPE duly_event_loop_lag_seconds histogram
duly_event_loop_lag_seconds_bucket{le="0.001"} %d
duly_event_loop_lag_seconds_bucket{le="0.01"} %d
duly_event_loop_lag_seconds_bucket{le="+Inf"} %d
duly_event_loop_lag_seconds_count %d
duly_event_loop_lag_seconds_sum %f
"""


def test_loop_lag_is_of_what_came_since() -> None:
    first = lag_histogram(METRICS % (900, 1000, 1000, 1000, 1.0))
    second = lag_histogram(METRICS % (950, 1100, 1100, 1100, 1.5))
    found = lag_between(first, second)
    assert found is not None
    assert found.mean_ms == pytest.approx(5.0)
    assert found.p99_ms == pytest.approx(10.0)
    assert lag_between(second, second) is None
    assert lag_between(second, first) is None


def test_loop_lag_without_buckets_or_beyond_the_last() -> None:
    assert lag_between({"count": 1, "sum": 1.0}, {"count": 2, "sum": 2.0}) is None
    assert lag_between({"count": 1, "sum": 1.0}, {"count": 2, "sum": 2.0, "+Inf": 2}) is None
    beyond = lag_between({"count": 1, "sum": 1.0}, {"count": 3, "sum": 9.0, "0.5": 0, "+Inf": 2})
    assert beyond is not None
    assert beyond.p99_ms == 500


def test_a_sample_that_fails_is_told_and_others_follow() -> None:
    came, enough = [], threading.Event()

    def tell(sample: Sample) -> None:
        came.append(sample)
        if len(came) == 1:
            raise ValueError("not this one")
        enough.set()

    with Watch(Watched(None, None, None), 0.01, tell) as watch:
        assert enough.wait(60)
    assert watch.notes() == ["1 samples failed, the first with ValueError: not this one"]


def test_samples_that_stopped_early_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(Watched(None, None, None), 5.0, lambda _: None)
    assert not watch.notes()
    monkeypatch.setattr(Watch, "at_s", 3600.0)
    assert watch.notes() == ["samples stopped at 0 s of 3,600"]


def test_samples_stay_few_however_long_it_takes(scenario: Scenario) -> None:
    for duration_s in (1.0, 600.0, 3600.0, 86_400.0, 14 * 86_400.0):
        plan = SoakPlan(scenario, 0, duration_s, EVERYBODY)
        assert duration_s / plan.sample_period_s <= SAMPLES_MAX


# ---- for real ----


@pytest.fixture(params=["floor", "duly"])
def target(request: pytest.FixtureRequest, scenario: Scenario, tmp_path: Path) -> Iterator[OpenTarget]:
    with targets.opened([request.param], scenario, tmp_path, lambda _: None) as (found,):
        yield found


@pytest.mark.thorough
def test_a_short_soak_with_everybody_rude(target: OpenTarget, scenario: Scenario, tmp_path: Path) -> None:
    def enough(at: SoakProgress) -> None:
        told.add(at.phase)
        if at.slice == 4:
            raise KeyboardInterrupt

    told: set[Phase] = set()
    plan = SoakPlan(scenario, 3, 3600.0, EVERYBODY)
    before = _grandchildren()
    with Log(tmp_path / "soak.jsonl") as log:
        done = soak(plan, target, log, enough)
        log.verdict(judge(done).to_json())
    seeds = [result.seed for result in done.slices]
    assert seeds == [3, 4, 5, 6]
    assert told == set(Phase)
    assert [result.phase for result in done.slices] == [Phase.BUSY, Phase.IDLE, Phase.SINGLE, Phase.BUSY]
    assert [result.frames for result in done.slices] == [20, 0, 10, 20]
    for result in done.slices:
        assert result.frames == sum(result.counts.values())
        assert result.unanswered == 0
    assert not done.ended
    assert all(sample.server is not None for sample in done.samples)
    assert done.crowd["slow readers"]["sent"] > 0
    assert set(done.crowd) == {"slow readers", "churners", "vanishing clients"}
    assert not judge(done).against
    assert not done.doubts
    lines = [json.loads(line) for line in (tmp_path / "soak.jsonl").read_text().splitlines()]
    slices = [line for line in lines if line["kind"] == "slice"]
    assert [(line["seed"], line["phase"]) for line in slices] == [(3, "busy"), (4, "idle"), (5, "single"), (6, "busy")]
    assert slices[1]["on_time_ratio"] is None
    assert sum(line["kind"] == "sample" for line in lines) == len(done.samples)
    assert _grandchildren() <= before


def _grandchildren() -> set[int]:
    """Process ids. The crowd is forked from a child of this process, which stays and holds nothing."""
    own = psutil.Process()
    return {each.pid for each in own.children(recursive=True)} - {each.pid for each in own.children()}


def test_the_crowd_acts_and_leaves_nobody_behind(scenario: Scenario, tmp_path: Path) -> None:
    with ExitStack() as stack:
        (target,) = stack.enter_context(targets.opened(["floor"], scenario, tmp_path, lambda _: None))
        crowd = Crowd(Aim(target.address, scenario.stream, 1), Rudeness(1, 60, True))
        with crowd:
            while not _all_acted(crowd):
                threading.Event().wait(0.02)
            pids = crowd.pids()
            assert len(pids) >= 2
        assert not crowd.pids()
        assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        assert all("fell" not in counts for counts in crowd.tallies().values())


def falls(aim: Aim, *_: object) -> None:
    """A client that ends at once."""


def test_clients_that_fall_are_told_and_not_started_again_and_again(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd_module, "churn", falls)
    monkeypatch.setattr(crowd_module, "RESTART_S_MAX", 3600.0)
    crowd = Crowd(Aim(Address("null", ""), scenario.stream, 1), Rudeness(0, 0, True))
    with crowd:
        while crowd.tallies()["churners"].get("fell", 0) < 2:
            threading.Event().wait(0.02)
        assert not crowd.wait_until_begun(0)
    assert crowd.doubts() == ["the churners ended by themselves 2 times", "the churners did nothing at all"]


def test_a_crowd_that_can_not_start_says_why(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def start(*_: object) -> None:
        tried.set()
        raise OSError("no more processes")

    monkeypatch.setattr(Crowd, "_start", start)
    with Crowd(Aim(Address("null", ""), scenario.stream, 1), Rudeness(0, 0, True)) as crowd:
        assert tried.wait(60)
    assert crowd.doubts() == [
        "who misbehaves could not be looked after: OSError: no more processes",
        "the churners did nothing at all",
    ]


def _all_acted(crowd: Crowd) -> bool:
    found = crowd.tallies()
    return bool(
        found["vanishing clients"].get("killed")
        and found["slow readers"].get("answered")
        and found["churners"].keys() >= {"opened", "silent"}
    )


def test_a_target_that_dies_ends_it(scenario: Scenario, tmp_path: Path) -> None:
    with targets.opened(["floor"], scenario, tmp_path, lambda _: None) as (target,):
        server = target.server
        assert server is not None

        def kill(*_: object) -> None:
            psutil.Process(server.pid).send_signal(signal.SIGKILL)

        done = soak(SoakPlan(scenario, 0, 30.0, Rudeness(0, 0, False)), target, Log(None), kill)
    assert done.ended
    judged = judge(done)
    assert judged.holds is Holds.NO
    assert any(reason.startswith("it ended: ") for reason in judged.against)


def test_ctrl_c_ends_it_with_what_there_is(scenario: Scenario) -> None:
    def interrupt(at: SoakProgress) -> None:
        if at.last is not None:
            raise KeyboardInterrupt

    done = soak(SoakPlan(scenario, 0, 3600.0, Rudeness(0, 0, False)), NULL, Log(None), interrupt)
    assert done.interrupted
    assert len(done.slices) == 1
    assert not judge(done).against


# ---- the command ----


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["soak", *map(str, args)])


@pytest.mark.parametrize(
    ("problems", "verdict", "exit_code"), [([], "holds", 0), (["the machine stood still"], "cannot say", 1)]
)
def test_the_command_writes_page_log_and_samples(
    problems: list[str],
    verdict: str,
    exit_code: int,
    short: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("duly_load.generator.run.problems", lambda *_: list(problems))
    result = run(short, "--target", "null:", "--minutes", "0.001", "--out", tmp_path)
    assert result.exit_code == exit_code, result.output
    assert f"verdict: {verdict}" in result.output
    assert "slice 1, busy" in result.output
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "soak.jsonl").read_text().splitlines()]
    assert (kinds[0], kinds[-1], kinds.count("slice")) == ("begin", "verdict", 1)
    assert len((tmp_path / "soak.csv").read_text().splitlines()) == 1 + kinds.count("sample")
    written = (tmp_path / "soak.html").read_text("utf-8")
    assert all(text in written for text in ("Memory", "Descriptors", "Threads", "1 busy of 0.5 s, 0 idle", verdict))
    assert ("Latency" in written, "invalid, left out" in written) == (not problems, bool(problems))
