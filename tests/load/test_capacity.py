"""Capacity: what the search finds, how sure it is, what the terms offer, and what the command says."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from duly_load.capacity import open_loop, terms
from duly_load.capacity.confidence import (
    Counts,
    Finding,
    Rule,
    estimate,
    latencies_min,
    percentile_ns,
)
from duly_load.capacity.multistream import SAMPLES, Queries, ask
from duly_load.capacity.search import (
    CONFIRMING,
    ERROR_MAX,
    INVALID_MAX,
    LOADS_MAX,
    TRIALS_MAX,
    Found,
    Limits,
    NoTrial,
    Probe,
    Trial,
    geometric,
    search,
    whole,
)
from duly_load.cli import cli
from duly_load.generator.address import parse_address
from duly_load.generator.record import LiveRun, Record
from duly_load.generator.run import Offer
from duly_load.load_scenario import LoadScenario, parse_load_scenario
from duly_load.outcomes import FrameOutcome
from duly_load.parsing import ScenarioError, read_toml
from duly_load.schedule import schedule

RULE = Rule(0.99, ERROR_MAX, 4.0)
LIMITS = Limits(1 / 8, 1 / 1024, 1024.0, geometric(0.05))
SECONDS = 20
RATE = 300
"""Frames per second at load 1."""

SCENARIO = """
name = "two cameras"
duration_s = 10

[[stream]]
name = "camera"
count = 2
model = "m"
budget_ms = 50
arrivals = { kind = "periodic", rate_hz = 100 }
payloads = { shape = [4], distinct = 2 }

[[stream]]
name = "radar"
model = "m"
budget_ms = 20
backlog = "KEEP_LAST:2"
arrivals = { kind = "on_off", rate_hz = 50, on_s = 1, off_s = 3 }
churn = { lifetime_s = 2, gap_s = 1 }
payloads = { shape = [4], distinct = 2 }
"""


def loaded(tmp_path: Path, text: str = SCENARIO) -> LoadScenario:
    file = tmp_path / "scenario.toml"
    file.write_text(text, encoding="utf-8")
    return parse_load_scenario(read_toml(file), "scenario.toml", tmp_path)


def trial(load: float, seed: int, sent: np.ndarray, on_time: np.ndarray) -> Trial:
    return Trial(load, seed, load * RATE, 1, Counts(sent, on_time))


def sharp(capacity: float) -> Probe:
    """All on time up to the capacity, half of it beyond."""

    def probe(load: float, seed: int) -> Trial:
        sent = np.full(SECONDS, 400)
        return trial(load, seed, sent, sent if load <= capacity else sent // 2)

    return probe


def noisy(capacity: float, steepness: float, unrest: float, cluster: int) -> Probe:
    """The share that is late grows as a power of the load and is 1 % at the capacity. It changes from second to second,
    seconds that follow one another are alike, and frames are late in clusters.
    """

    def probe(load: float, seed: int) -> Trial:
        rng = np.random.default_rng(seed)
        steps = rng.standard_normal(SECONDS + 1)
        unlike, state = np.empty(SECONDS), steps[0]
        for second in range(SECONDS):
            state = 0.5 * state + 0.75**0.5 * steps[second + 1]
            unlike[second] = np.exp(unrest * state - unrest**2 / 2)
        sent = rng.poisson(load * RATE, SECONDS)
        late_share = np.minimum(1.0, min(1.0, 0.01 * (load / capacity) ** steepness) * unlike)
        late = np.minimum(sent, cluster * rng.poisson(sent * late_share / cluster))
        return trial(load, seed, sent, sent - late)

    return probe


def ends(found: Found) -> tuple[float, float]:
    assert found.held is not None
    assert found.failed is not None
    return found.held.load, found.failed.load


# ---- confidence ----


@pytest.mark.parametrize(("ratio", "frames"), [(0.9, 44), (0.99, 459), (0.999, 4603)])
def test_as_many_frames_as_mlperf_show_that_a_ratio_is_held(ratio: float, frames: int) -> None:
    rule = Rule(ratio, 0.01, 1.0)
    assert rule.frames_min == frames
    for sent, finding in ((frames, Finding.HELD), (frames - 1, Finding.UNDECIDED)):
        assert estimate([Counts(np.array([sent]), np.array([sent]))], rule).finding(rule) is finding


@pytest.mark.parametrize(("queries", "percentile", "left_out"), [(2048, 0.9, 172 - 1), (2145, 0.9, 181 - 1)])
def test_percentiles_leave_out_as_many_as_loadgen(queries: int, percentile: float, left_out: int) -> None:
    # Published LoadGen logs: "Would discard 172 highest latency queries" of 2048, 181 of 2145.
    assert percentile_ns(range(queries), percentile) == queries - 1 - left_out - 1


@pytest.mark.parametrize(("percentile", "least"), [(0.9, 64), (0.99, 662)])
def test_too_few_latencies_have_no_percentile(percentile: float, least: int) -> None:
    assert latencies_min(percentile) == least
    assert percentile_ns(range(least - 1), percentile) is None
    assert percentile_ns(range(least), percentile) == least - 1


def test_bounds_are_as_often_wrong_as_they_say_at_most() -> None:
    rng = np.random.default_rng(5)
    rule = Rule(0.99, 0.05, 1.0)
    too_high = too_low = 0
    for _ in range(400):
        sent = np.full(30, 100)
        late = np.minimum(sent, 10 * rng.poisson(100 * 0.02 / 10, 30))  # in clusters of ten: as 300 frames, not 3000
        known = estimate([Counts(sent, sent - late)], rule)
        too_high += known.low > 0.98
        too_low += known.high < 0.98
    assert too_high <= 20
    assert too_low <= 20


def test_frames_that_are_late_together_say_less() -> None:
    sent = np.full(20, 100)
    spread, together = np.full(20, 2), np.zeros(20, np.int64)
    together[[3, 12]] = 20
    scattered, clustered = (estimate([Counts(sent, sent - late)], RULE) for late in (spread, together))
    assert scattered.ratio == clustered.ratio == 0.98
    assert clustered.effective < scattered.effective / 4
    assert clustered.low < scattered.low < 0.98 < scattered.high < clustered.high


def test_nothing_sent_says_nothing() -> None:
    known = estimate([Counts(np.zeros(5, np.int64), np.zeros(5, np.int64))], RULE)
    assert (known.low, known.high, known.finding(RULE)) == (0.0, 1.0, Finding.UNDECIDED)


# ---- search ----


@pytest.mark.parametrize("capacity", [0.003, 0.1, 0.124, 1.0, 7.7, 800.0])
def test_a_sharp_capacity_is_enclosed_to_the_precision(capacity: float) -> None:
    found = search(sharp(capacity), RULE, LIMITS, 0)
    held, failed = ends(found)
    assert held <= capacity < failed
    assert failed <= held * 1.05
    assert found.confirmation is not None
    assert not found.ended
    assert [each.load for each in found.trials[-CONFIRMING:]] == [held] * CONFIRMING


def test_each_trial_has_its_own_seed_and_a_search_repeats() -> None:
    first, again, other = (search(noisy(2.0, 8, 0.5, 4), RULE, LIMITS, seed) for seed in (1, 1, 2))
    seeds = [each.seed for each in first.trials]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [each.seed for each in again.trials]
    assert ends(first) == ends(again)
    assert not set(seeds) & {each.seed for each in other.trials}


@pytest.mark.parametrize(("steepness", "unrest", "cluster"), [(30, 0.5, 8), (8, 0.5, 1), (6, 1.0, 8)])
def test_a_noisy_capacity_is_enclosed_as_often_as_stated(steepness: float, unrest: float, cluster: int) -> None:
    missed = 0
    for seed in range(40):
        capacity = float(np.exp(np.random.default_rng([17, seed]).uniform(np.log(0.3), np.log(8.0))))
        held, failed = ends(search(noisy(capacity, steepness, unrest, cluster), RULE, LIMITS, seed))
        missed += not held <= capacity <= failed
        assert failed < 4 * held
    assert missed <= 2  # 95 %


def test_one_verdict_pools_a_bounded_number_of_trials() -> None:
    found = search(noisy(2.0, 4, 1.0, 8), RULE, LIMITS, 3)
    loads = {each.load for each in found.trials}
    assert len(loads) <= LOADS_MAX
    assert all(sum(each.load == load for each in found.trials) <= TRIALS_MAX + CONFIRMING for load in loads)
    assert any(verdict.finding is Finding.UNDECIDED for verdict in found.verdicts)


def test_a_load_that_is_not_confirmed_is_not_the_capacity() -> None:
    """2 is held when it is asked first, and never again."""
    asked: list[float] = []

    def probe(load: float, seed: int) -> Trial:
        asked.append(load)
        lucky = load == 2 and asked.count(load) == 1
        return sharp(2.0 if lucky else 1.0)(load, seed)

    found = search(probe, RULE, LIMITS, 0)
    assert found.held is not None
    assert found.held.load <= 1.0
    assert found.confirmation is not None
    assert found.confirmation.load == found.held.load


def test_invalid_trials_are_repeated_and_do_not_count() -> None:
    trials = 0

    def probe(load: float, seed: int) -> Trial:
        nonlocal trials
        trials += 1
        good = sharp(1.0)(load, seed)
        if trials % 2:
            return good
        nothing = Counts(good.counts.sent, np.zeros_like(good.counts.sent))
        return Trial(load, seed, good.frames_per_s, 1, nothing, problems=("the machine stood still",))

    told: list[bool] = []
    found = search(probe, RULE, LIMITS, 0, lambda each, verdict: told.append(verdict is None))
    held, failed = ends(found)
    assert held <= 1.0 < failed
    assert told == [bool(each.problems) for each in found.trials]
    assert any(told)


def test_what_can_not_be_offered_validly_has_no_figure_but_a_lower_bound() -> None:
    def probe(load: float, seed: int) -> Trial:
        good = sharp(1e9)(load, seed)
        late = ("the generator was late",) if load > 4 else ()
        return Trial(load, seed, good.frames_per_s, 1, good.counts, problems=late)

    found = search(probe, RULE, LIMITS, 0)
    assert "the generator was late" in found.ended
    assert sum(each.load > 4 for each in found.trials) == INVALID_MAX
    assert found.confirmation is None
    assert found.held is not None
    assert found.held.load == 4


def test_a_target_that_goes_ends_the_search_and_keeps_the_trials() -> None:
    def probe(load: float, seed: int) -> Trial:
        if load > 1:
            raise NoTrial("connection refused")
        return sharp(9.0)(load, seed)

    found = search(probe, RULE, LIMITS, 0)
    assert (found.ended, [each.load for each in found.trials]) == ("connection refused", [1 / 8, 1 / 4, 1 / 2, 1])


def test_no_figure_where_nothing_holds_nothing_fails_or_frames_are_too_few() -> None:
    def few(load: float, seed: int) -> Trial:
        if load > 1:
            return sharp(1.0)(load, seed)
        sent = np.full(2, 3)
        return trial(load, seed, sent, sent)

    assert "not even a load of" in search(sharp(0.0), RULE, LIMITS, 0).ended
    assert "no load failed" in search(sharp(1e9), RULE, LIMITS, 0).ended
    assert re.search(r"30 are too few to tell, \d+ are needed", search(few, RULE, LIMITS, 0).ended)


@pytest.mark.parametrize("capacity", [1, 5, 8, 100])
def test_whole_loads_are_found_exactly(capacity: int) -> None:
    found = search(sharp(capacity), RULE, Limits(1, 1, 512, whole), 0)
    assert ends(found) == (capacity, capacity + 1)


def test_a_load_that_is_refused_has_failed() -> None:
    def probe(load: float, seed: int) -> Trial:
        empty = np.zeros(1, np.int64)
        return Trial(load, seed, 0.0, 1, Counts(empty, empty), "full") if load > 3 else sharp(9)(load, seed)

    assert ends(search(probe, RULE, Limits(1, 1, 512, whole), 0)) == (3, 4)


# ---- terms ----


def test_server_terms_are_poisson_at_the_same_mean_rates(tmp_path: Path) -> None:
    scenario = open_loop.server_terms(open_loop.steady(loaded(tmp_path), "s", 40.0), "s")
    assert [sensor.arrivals.kind for sensor in scenario.stream] == ["poisson", "poisson"]
    assert [sensor.arrivals.frames_expected(1.0) for sensor in scenario.stream] == [100.0, 12.5]
    assert [sensor.backlog for sensor in scenario.stream] == ["ALL", "ALL"]
    assert [sensor.budget_ms for sensor in scenario.stream] == [50, 20]
    assert scenario.frames_per_s == 212.5
    assert scenario.stream[1].churn is None
    assert scenario.duration_s == 40 + open_loop.WARM_S_MIN


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("[[load_step]]\nat_s = 3\nfactor = 2\n", "load_step"),
        ('[[fault]]\nlane = "cpu:0"\nkind = "die"\nat_s = 2\n', "fault"),
    ],
)
def test_only_steady_loads_have_a_capacity(tmp_path: Path, more: str, place: str) -> None:
    with pytest.raises(ScenarioError, match=f"{place}.*steady"):
        open_loop.steady(loaded(tmp_path, SCENARIO + more), "s", 5.0)


def test_frames_count_by_second_of_capture_after_the_warm_up(tmp_path: Path) -> None:
    scenario = open_loop.steady(loaded(tmp_path, SCENARIO.partition('\n\n[[stream]]\nname = "radar"')[0]), "s", 2.5)
    planned = schedule(scenario.stream, round(scenario.duration_s * 1e9), (), 7)
    record = Record.empty(len(planned.frames))
    record.outcome[:] = FrameOutcome.ON_TIME
    late = planned.captures_ns >= 2_000_000_000
    record.outcome[late] = FrameOutcome.UNANSWERED
    live = LiveRun(scenario, 7, "t", planned, record, (), 0, 1, 0.0)
    counts = open_loop.counted(live)
    assert counts.sent.tolist() == [200, 200, 100]
    assert counts.on_time.tolist() == [200, 0, 0]


def test_a_query_is_on_time_when_all_of_it_is() -> None:
    second = 1_000_000_000
    queries = Queries(8, [0, 10, second, second + 9], [5, 30, 6, 7], [True, True, False, True])
    counts = queries.trial(3, 20).counts
    assert (counts.sent.tolist(), counts.on_time.tolist()) == ([2, 2], [1, 1])


def test_a_percentile_of_queries_without_results_is_none() -> None:
    latency_ns = [1_000] * 1000
    assert Queries(8, range(1000), latency_ns, [True] * 1000).percentile_ns(0.99) == 1_000
    assert Queries(8, range(1000), latency_ns, [True] * 900 + [False] * 100).percentile_ns(0.99) is None


def test_queries_of_the_null_target_are_whole_and_one_after_the_other(tmp_path: Path) -> None:
    sensor = loaded(tmp_path).stream[0]
    queries = ask(parse_address("null:"), sensor, SAMPLES, 1, 0.01, latencies_min(0.99))
    assert len(queries.sent_ns) >= 662
    assert all(queries.whole)
    ended = np.array(queries.sent_ns[:-1]) + queries.latency_ns[:-1]
    assert np.all(ended <= queries.sent_ns[1:])


# ---- the command ----


def capacity_of(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["capacity", *map(str, args)])


@pytest.mark.parametrize(
    ("change", "args", "says"),
    [
        (lambda text: text + "[[load_step]]\nat_s = 3\nfactor = 2\n", ["--target", "null:"], "steady"),
        (lambda text: text.replace("budget_ms", "budget"), ["--target", "null:"], "unknown key"),
        (lambda text: text, ["--target", "nul"], "should be"),
        (lambda text: text, ["--target", "null:", "--terms", "streams,offline"], "'offline' is none"),
        (lambda text: text, ["--target", "null:", "--ratio", "1"], "0.999"),
        (lambda text: text, [], "--target"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, change: Callable[[str], str], args: list[str], says: str) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(change(SCENARIO), encoding="utf-8")
    result = capacity_of(file, *args)
    assert result.exit_code == 2, result.output
    assert says in result.output


def test_a_target_that_is_down_has_no_figure(tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO, encoding="utf-8")
    result = capacity_of(file, "--target", f"unix:{tmp_path}/nobody.sock", "--seconds", "1", "--terms", "streams")
    assert result.exit_code == 1, result.output
    assert "no figure" in result.output


def answers_up_to(frames_per_s: float, asked: Offer) -> LiveRun:
    """All on time up to that rate, none beyond."""
    planned = schedule(asked.scenario.stream, round(asked.scenario.duration_s * 1e9), (), asked.seed)
    record = Record.empty(len(planned.frames))
    held = asked.scenario.frames_per_s <= frames_per_s
    record.outcome[:] = FrameOutcome.ON_TIME if held else FrameOutcome.SHED
    return LiveRun(asked.scenario, asked.seed, asked.target, planned, record, (), 0, 1, 0.0)


def test_the_command_tells_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("plotly", reason="the report draws with plotly")
    monkeypatch.setattr(terms, "offer_to", lambda target, asked, progress: answers_up_to(1234.0, asked))
    monkeypatch.setattr(
        terms,
        "ask",
        lambda address, sensor, samples, *_: Queries(
            samples, range(0, 20_000_000_000, 10_000_000), [samples * 1_000_000] * 2000, [True] * 2000
        ),
    )
    file, out = tmp_path / "scenario.toml", tmp_path / "out"
    # Budget 50 ms, 1 ms a sample: queries of 50 are held.
    file.write_text(SCENARIO.replace("budget_ms = 20", "budget_ms = 50"), encoding="utf-8")
    options = ["--terms", "streams,server,multistream", "--seconds", "10", "--precision", "0.1", "--out", str(out)]
    result = capacity_of(file, "--target", "null:", *options)
    assert result.exit_code == 0, result.output
    told = json.loads((out / "capacity.json").read_text("utf-8"))
    assert [each["term"] for each in told["capacities"]] == ["streams", "server", "multistream"]
    for each in told["capacities"][:2]:
        assert each["held"]["frames_per_s"] <= 1234.0 < each["failed"]["frames_per_s"]
        assert each["failed"]["frames_per_s"] <= each["held"]["frames_per_s"] * 1.1
        assert each["confirmation"]["ratio"] == 1.0
        assert len(each["trials"]) >= CONFIRMING
    of_queries = told["capacities"][2]
    assert (of_queries["held"]["load"], of_queries["failed"]["load"]) == (50, 51)
    assert of_queries["query"]["latency_ns"] == SAMPLES * 1_000_000
    rows = [line.split()[:3] for line in result.output.splitlines() if line.startswith(" null:")]
    assert [row[1] for row in rows] == ["streams", "server", "multistream"]
    page = (out / "report.html").read_text("utf-8")
    assert all(f"Capacity, {term}" in page for term in ("streams", "server", "multistream"))
