"""The soak: what is a leak and what is noise, what counts against a server, and a short one with everybody rude."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from duly_load import targets
from duly_load.cli import cli
from duly_load.generator.address import Address
from duly_load.load_scenario import LoadScenario, load_load_scenario
from duly_load.soak.crowd import Crowd, Rudeness
from duly_load.soak.misbehaviour import Aim
from duly_load.soak.record import Log, SliceResult, Soak
from duly_load.soak.run import SAMPLES_MAX, SoakPlan, soak
from duly_load.soak.trend import POINTS_MAX, Verdict, trend
from duly_load.soak.verdict import MIB, judge
from duly_load.soak.watch import Asked, Sample, Usage, lag_between, lag_histogram, usage_of_tree
from duly_load.targets import OpenTarget

Floats = NDArray[np.float64]

SHORT = """
name = "short"
duration_s = 0.5

[[model]]
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
EVERYBODY = Rudeness(slow_readers=2, vanish_per_minute=60, churn=True)

pytestmark = pytest.mark.timeout(240)  # the machine may be slow to start a server and a dozen processes


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("soak") / "short.toml"
    file.write_text(SHORT, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def scenario(short: Path) -> LoadScenario:
    return load_load_scenario(short)


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


def asked(streams: int = 0, frames: int = 0) -> Asked:
    return Asked(streams, frames, 0, 1.0)


def slice_of(nth: int, **counts: int) -> SliceResult:
    return SliceResult(nth, 60.0 * (nth + 1), nth, sum(counts.values()), counts, 1.0, 5.0, 9.0, 0.1, (), ())


def hours(server: Callable[[int], Usage], harness: Callable[[int], Usage] = lambda nth: usage()) -> Soak:
    """Three, with a sample and a slice a minute."""
    return Soak(
        600.0,
        slices=[slice_of(nth, ON_TIME=100) for nth in range(180)],
        samples=[Sample(60.0 * nth, server(nth), harness(nth), asked(), None) for nth in range(180)],
        before=asked(),
        after=asked(),
    )


def test_a_server_that_stays_as_it_is_holds() -> None:
    judged = judge(hours(lambda nth: usage()))
    assert judged.holds
    assert not judged.notes
    assert {each.trend.verdict for each in judged.growth} == {Verdict.DOES_NOT_GROW}
    json.dumps(judged.to_json())


def test_memory_and_descriptors_that_grow_count_against_it() -> None:
    judged = judge(hours(lambda nth: usage(300 * MIB + nth * MIB, 30 + nth)))
    assert [reason.split(" by ")[0] for reason in judged.against] == ["its RSS grows", "its descriptors grow"]
    assert "60 MiB an hour" in judged.against[0]


def test_what_grows_in_the_warm_up_alone_does_not() -> None:
    assert judge(hours(lambda nth: usage((200 + 10 * min(nth, 10)) * MIB))).holds


def test_a_harness_that_grows_is_told_and_no_fault_of_the_server() -> None:
    judged = judge(hours(lambda nth: usage(), lambda nth: usage((100 + nth) * MIB)))
    assert judged.holds
    assert "the harness's own RSS grew" in judged.notes[0]


def test_frames_without_an_answer_count_against_it() -> None:
    done = hours(lambda nth: usage())
    done.slices[7] = slice_of(7, ON_TIME=99, UNANSWERED=1)
    assert judge(done).against == ("1 frames of clients that behave were never answered, in 1 slices",)


def test_late_and_shed_frames_do_not() -> None:
    done = hours(lambda nth: usage())
    done.slices[7] = slice_of(7, ON_TIME=9, LATE=1, SHED=90)
    assert judge(done).holds


def test_what_is_left_when_all_are_gone_counts_against_it() -> None:
    done = hours(lambda nth: usage())
    done.before, done.after = asked(streams=1), asked(streams=4, frames=2)
    assert judge(done).against == ("3 streams and 2 frames are left with it though all clients are gone",)


def test_a_server_whose_processes_are_unknown_says_so() -> None:
    done = hours(lambda nth: usage())
    done.samples = [Sample(each.at_s, None, each.harness, None, None) for each in done.samples]
    judged = judge(done)
    assert judged.holds
    assert any("not to be seen" in note for note in judged.notes)


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


def test_samples_stay_few_however_long_it_takes(scenario: LoadScenario) -> None:
    for duration_s in (1.0, 600.0, 3600.0, 86_400.0, 14 * 86_400.0):
        plan = SoakPlan(scenario, 0, duration_s, EVERYBODY)
        assert duration_s / plan.sample_period_s <= SAMPLES_MAX
        assert plan.slices * scenario.duration_s >= duration_s


# ---- for real ----


@pytest.fixture(params=["floor", "duly"])
def target(request: pytest.FixtureRequest, scenario: LoadScenario, tmp_path: Path) -> Iterator[OpenTarget]:
    with targets.opened([request.param], scenario, tmp_path, lambda _: None) as (found,):
        yield found


def test_a_short_soak_with_everybody_rude(target: OpenTarget, scenario: LoadScenario, tmp_path: Path) -> None:
    plan = SoakPlan(scenario, 3, 1.0, EVERYBODY)
    before = _grandchildren()
    with Log(tmp_path / "soak.jsonl") as log:
        done = soak(plan, target, log)
        log.verdict(judge(done).to_json())
    assert [result.seed for result in done.slices] == [3, 4]
    for result in done.slices:
        assert result.frames == sum(result.counts.values()) == 20
        assert result.unanswered == 0
    assert not done.ended
    assert all(sample.server is not None for sample in done.samples)
    assert done.crowd["slow readers"]["sent"] > 0
    assert set(done.crowd) == {"slow readers", "churners", "vanishing clients"}
    assert judge(done).holds, judge(done).against
    lines = [json.loads(line) for line in (tmp_path / "soak.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines if line["kind"] == "slice"] == [3, 4]
    assert sum(line["kind"] == "sample" for line in lines) == len(done.samples)
    assert _grandchildren() <= before


def _grandchildren() -> set[int]:
    """Process ids. The crowd is forked from a child of this process, which stays and holds nothing."""
    own = psutil.Process()
    return {each.pid for each in own.children(recursive=True)} - {each.pid for each in own.children()}


def test_the_crowd_acts_and_leaves_nobody_behind(scenario: LoadScenario, tmp_path: Path) -> None:
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


def _all_acted(crowd: Crowd) -> bool:
    found = crowd.tallies()
    return bool(
        found["vanishing clients"].get("killed")
        and found["slow readers"].get("answered")
        and found["churners"].keys() >= {"opened", "silent"}
    )


def test_a_target_that_dies_ends_it(scenario: LoadScenario, tmp_path: Path) -> None:
    with targets.opened(["floor"], scenario, tmp_path, lambda _: None) as (target,):
        server = target.server
        assert server is not None

        def kill(*_: object) -> None:
            psutil.Process(server.pid).send_signal(signal.SIGKILL)

        done = soak(SoakPlan(scenario, 0, 30.0, Rudeness(0, 0, False)), target, Log(None), kill)
    assert done.ended
    judged = judge(done)
    assert not judged.holds
    assert any(reason.startswith("it ended: ") for reason in judged.against)


def test_ctrl_c_ends_it_with_what_there_is(scenario: LoadScenario) -> None:
    target = OpenTarget("null:", Address("null", ""), None, "")

    def interrupt(at: object) -> None:
        if getattr(at, "last", None) is not None:
            raise KeyboardInterrupt

    done = soak(SoakPlan(scenario, 0, 3600.0, Rudeness(0, 0, False)), target, Log(None), interrupt)
    assert done.interrupted
    assert len(done.slices) == 1
    assert judge(done).holds


# ---- the command ----


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["soak", *map(str, args)])


def test_the_command_writes_page_and_log(short: Path, tmp_path: Path) -> None:
    result = run(short, "--target", "null:", "--minutes", "0.02", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "verdict: holds" in result.output
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "soak.jsonl").read_text().splitlines()]
    assert (kinds[0], kinds[-1], kinds.count("slice")) == ("begin", "verdict", 3)
    page = (tmp_path / "soak.html").read_text("utf-8")
    assert all(heading in page for heading in ("Memory", "Descriptors", "Threads", "On time", "Does it grow?"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--target", "null:", "--hours", "1", "--minutes", "1"], "give one of the two"),
        (["--target", "null:", "--slow-readers", "1"], "speak duly's own protocol"),
        (["--target", "null:", "--vanish-per-minute", "1"], "nothing to vanish from"),
        (["--target", "null:", "--metrics", "nowhere"], "HOST:PORT"),
        (["--target", "tritium"], "tritium"),
    ],
)
def test_what_the_user_typed_wrong(short: Path, options: list[str], told: str) -> None:
    result = run(short, *options)
    assert result.exit_code == 2, result.output
    assert told in result.output


def test_nobody_there(short: Path, tmp_path: Path) -> None:
    result = run(short, "--target", f"unix:{tmp_path}/nobody.sock")
    assert result.exit_code == 1
    assert "nobody.sock" in result.output
