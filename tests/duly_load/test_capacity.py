"""Capacity: what the search finds, how sure it is, what the terms offer, and what the command says."""

import csv
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from duly_load.capacity import open_loop, terms
from duly_load.capacity.confidence import Counts, Finding, Rule, estimate
from duly_load.capacity.search import (
    CONFIRMING,
    ERROR_MAX,
    INTERRUPTED,
    INVALID_MAX,
    LOADS_MAX,
    TRIALS_MAX,
    Found,
    Limits,
    NoTrial,
    Probe,
    Trial,
    search,
)
from duly_load.cli import capacity as cli_capacity
from duly_load.cli.main import cli
from duly_load.generator.run import Offer, Sending
from duly_load.protocols.address import parse_address
from duly_load.protocols.connection import AllRefused, TargetError
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun
from duly_load.scenario.parsing import ScenarioError, read_toml
from duly_load.scenario.scenario import Scenario, parse_scenario
from duly_load.scenario.schedule import schedule_of
from duly_load.targets.opened import OpenTarget
from duly_load.targets.peer import PeerError
from tests.duly_load.live_runs import run_of

RULE = Rule(0.99, ERROR_MAX, 4.0)
LIMITS = Limits(1 / 8, 1 / 1024, 1024.0, 0.05)
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


def loaded(tmp_path: Path, text: str = SCENARIO) -> Scenario:
    file = tmp_path / "scenario.toml"
    file.write_text(text, encoding="utf-8")
    return parse_scenario(read_toml(file), "scenario.toml", tmp_path)


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


def test_a_load_that_was_not_confirmed_is_never_held_again() -> None:
    """2 is all on time at first, just below what is asked when it is to be confirmed, and all on time from then on."""
    asked: list[float] = []

    def probe(load: float, seed: int) -> Trial:
        asked.append(load)
        if load != 2 or asked.count(load) not in range(2, 2 + CONFIRMING):
            return sharp(2.0)(load, seed)
        sent = np.full(SECONDS, 400)
        return trial(load, seed, sent, sent - 5)

    found = search(probe, RULE, LIMITS, 0)
    unconfirmed = next(verdict for verdict in found.verdicts if verdict.load == 2)
    assert unconfirmed.finding is Finding.UNDECIDED
    assert asked.count(2) == TRIALS_MAX
    assert found.confirmation is not None
    assert found.confirmation.load < 2


def test_a_load_that_all_its_trials_say_has_failed_stays_failed() -> None:
    asked: list[float] = []

    def probe(load: float, seed: int) -> Trial:
        asked.append(load)
        lucky = load == 2 and asked.count(load) == 1
        return sharp(2.0 if lucky or load < 2 else 1.0)(load, seed)

    found = search(probe, RULE, LIMITS, 0)
    assert next(verdict for verdict in found.verdicts if verdict.load == 2).finding is Finding.FAILED
    assert asked.count(2) == 1 + CONFIRMING
    held, failed = ends(found)
    assert held < failed == 2


def test_a_confirming_trial_that_is_refused_confirms_nothing() -> None:
    asked: list[float] = []

    def probe(load: float, seed: int) -> Trial:
        asked.append(load)
        if load == 8 and asked.count(load) == 3:
            empty = np.zeros(1, np.int64)
            return Trial(load, seed, 0.0, 1, Counts(empty, empty), "full")
        return sharp(8)(load, seed)

    found = search(probe, RULE, Limits(1, 1, 512, 0.05), 0)
    held, failed = ends(found)
    assert held < failed == 8


def test_an_interrupted_search_keeps_its_trials() -> None:
    def probe(load: float, seed: int) -> Trial:
        if load > 1:
            raise KeyboardInterrupt
        return sharp(9.0)(load, seed)

    found = search(probe, RULE, LIMITS, 0)
    assert (found.ended, [each.load for each in found.trials]) == (INTERRUPTED, [1 / 8, 1 / 4, 1 / 2, 1])
    assert found.held is not None
    assert found.held.load == 1


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


def test_a_load_that_is_refused_has_failed() -> None:
    def probe(load: float, seed: int) -> Trial:
        empty = np.zeros(1, np.int64)
        return Trial(load, seed, 0.0, 1, Counts(empty, empty), "full") if load > 3 else sharp(9)(load, seed)

    held, failed = ends(search(probe, RULE, Limits(1, 1, 512, 0.05), 0))
    assert held <= 3 < failed <= held * 1.05


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
        ('[[serve.fault]]\nlane = "cpu:0"\nkind = "die"\nat_s = 2\n', "serve.fault"),
    ],
)
def test_only_steady_loads_have_a_capacity(tmp_path: Path, more: str, place: str) -> None:
    with pytest.raises(ScenarioError, match=f"{place}.*steady"):
        open_loop.steady(loaded(tmp_path, SCENARIO + more), "s", 5.0)


def test_frames_count_by_second_of_capture_after_the_warm_up(tmp_path: Path) -> None:
    scenario = open_loop.steady(loaded(tmp_path, SCENARIO.partition('\n\n[[stream]]\nname = "radar"')[0]), "s", 2.5)
    planned = schedule_of(scenario, 7)
    late = planned.captures_ns >= 2_000_000_000
    outcome = np.where(late, FrameOutcome.UNANSWERED, FrameOutcome.ON_TIME).astype(np.int8)
    counts = open_loop.counted(scenario, planned, outcome)
    assert counts.sent.tolist() == [200, 200, 100]
    assert counts.on_time.tolist() == [200, 0, 0]


def test_frames_that_the_target_cancels_are_sent_and_not_on_time(tmp_path: Path) -> None:
    scenario = open_loop.steady(loaded(tmp_path), "s", 2.0)
    planned = schedule_of(scenario, 7)
    outcome = np.full(len(planned.frames), FrameOutcome.CANCELLED, np.int8)
    assert open_loop.counted(scenario, planned, outcome).sent.sum() == np.sum(planned.frames.arrival_ns >= 1e9)
    assert open_loop.counted(scenario, planned, outcome).ratio == 0


def test_a_load_is_told_as_what_was_scheduled(tmp_path: Path) -> None:
    """The radar is away for a third of the time."""
    text = SCENARIO.replace('"on_off", rate_hz = 50, on_s = 1, off_s = 3', '"periodic", rate_hz = 50')
    scenario = open_loop.steady(loaded(tmp_path, text), "s", 30.0)
    told = open_loop.offered(scenario, "s", lambda at_load, seed: run_of(at_load, seed, FrameOutcome.ON_TIME))(1.0, 3)
    assert told.frames_per_s == told.counts.sent.sum() / 30
    assert 225 < told.frames_per_s < 240 < scenario.frames_per_s


def test_a_load_of_which_no_stream_is_let_in_has_failed(tmp_path: Path) -> None:
    def refuse(at_load: Scenario, seed: int) -> LiveRun:
        if at_load.frames_per_s > 800:
            raise AllRefused("full")
        return run_of(at_load, seed, FrameOutcome.ON_TIME)

    scenario = open_loop.steady(loaded(tmp_path), "s", 20.0)
    found = search(open_loop.offered(scenario, "s", refuse), RULE, LIMITS, 0)
    held, failed = ends(found)
    assert held * scenario.frames_per_s <= 800 < failed * scenario.frames_per_s
    refused = [each for each in found.trials if each.refused]
    assert all(each.refused == "full" and each.counts.sent.sum() and not each.counts.ratio for each in refused)


def test_a_target_is_opened_for_the_greatest_load(tmp_path: Path) -> None:
    def streams(text: str, *of: str) -> list[int]:
        asked = terms.Request(loaded(tmp_path, text), "s", 0.99, 0, 20.0, 0.05, Sending())
        return [sensor.count for sensor in terms.greatest(asked, of).stream]

    assert streams(SCENARIO, "server", "streams") == [2048, 1024]
    assert streams(SCENARIO.replace("count = 2", "count = 200"), "streams") == [65_536, 1024]
    assert streams(SCENARIO, "server") == [2, 1]
    assert streams(SCENARIO.replace("duration_s", 'scale = "rates"\nduration_s'), "streams") == [2, 1]


# ---- the command ----


def capacity_of(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["capacity", *map(str, args)])


def answers_up_to(frames_per_s: float, asked: Offer) -> LiveRun:
    """All on time up to that rate, none beyond."""
    held = asked.scenario.frames_per_s <= frames_per_s
    return run_of(asked.scenario, asked.seed, FrameOutcome.ON_TIME if held else FrameOutcome.SHED)


def raising(at: str, error: BaseException) -> Callable[..., LiveRun]:
    """As `answers_up_to`, but a target of that name raises in place of its eighth run."""
    runs = 0

    def offer_to(target: OpenTarget, asked: Offer, progress: object) -> LiveRun:
        nonlocal runs
        runs += target.name == at
        if runs == 8 and target.name == at:
            raise error
        return answers_up_to(1234.0, asked)

    return offer_to


@pytest.mark.parametrize(
    ("error", "why", "others_found"),
    [(TargetError("broke off"), "broke off", True), (KeyboardInterrupt(), INTERRUPTED, False)],
)
def test_what_was_found_is_kept_when_a_target_fails_or_ctrl_c_is_pressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, why: str, others_found: bool
) -> None:
    pytest.importorskip("plotly", reason="the report draws with plotly")
    second, third = f"unix:{tmp_path}/2", f"unix:{tmp_path}/3"
    monkeypatch.setattr(terms, "settle", lambda *_: None)
    monkeypatch.setattr(terms, "offer_to", raising(second, error))
    file, out = tmp_path / "scenario.toml", tmp_path / "out"
    file.write_text(SCENARIO, encoding="utf-8")
    options = ["--seconds", "10", "--precision", "0.1", "--out", str(out)]
    result = capacity_of(file, "--target", "null:", "--target", second, "--target", third, *options)
    assert result.exit_code == 1, result.output
    told = json.loads((out / "capacity.json").read_text("utf-8"))["capacities"]
    assert [each["target"] for each in told] == ["null:", second, third]
    assert [each["valid"] for each in told] == [True, False, others_found]
    assert told[0]["held"]
    assert (told[1]["ended"], len(told[1]["trials"])) == (why, 7)
    assert told[1]["held"]
    assert told[2]["ended"] == ("" if others_found else INTERRUPTED)
    page = (out / "report.html").read_text("utf-8")
    assert f"INVALID: {1 if others_found else 2} of 3 searches ended without a figure" in page
    assert "/2 (at least)" in page
    with (out / "capacity.csv").open(encoding="utf-8", newline="") as lines:
        trials = list(csv.DictReader(lines))
    assert len(trials) == sum(len(each["trials"]) for each in told)
    first = trials[0]
    assert (first["target"], first["term"], first["trial"], first["load"]) == ("null:", "streams", "1", "0.125")
    assert (int(first["sent"]), first["problems"]) == (told[0]["trials"][0]["sent"], "")


def test_a_peer_that_does_not_start_leaves_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(names: list[str], *_: object) -> AbstractContextManager[list[OpenTarget]]:
        if names != ["null:"]:
            raise PeerError("it did not start")
        return nullcontext([OpenTarget("null:", parse_address("null:"), None, "")])

    monkeypatch.setattr(cli_capacity, "opened", opened)
    monkeypatch.setattr(terms, "offer_to", lambda target, asked, progress: answers_up_to(1234.0, asked))
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO, encoding="utf-8")
    named = ["--target", "null:", "--target", f"unix:{tmp_path}/2"]
    result = capacity_of(file, *named, "--seconds", "10", "--precision", "0.1")
    assert result.exit_code == 1, result.output
    assert "unix:" in result.output
    assert "no figure: it did not start" in result.output
    assert result.output.count("no figure: ") == 1


def test_options_of_sending_reach_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Offer] = []

    def offer_to(target: OpenTarget, offer: Offer, progress: object) -> LiveRun:
        asked.append(offer)
        raise TargetError("enough")

    monkeypatch.setattr(terms, "settle", lambda *_: None)
    monkeypatch.setattr(terms, "offer_to", offer_to)
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO, encoding="utf-8")
    capacity_of(file, "--target", "null:", "--processes", "3", "--lag-share", "0.2", "--answers-wait", "4")
    assert [offer.sending for offer in asked] == [Sending(3, 4.0, 0.2)]


def test_the_command_tells_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("plotly", reason="the report draws with plotly")
    monkeypatch.setattr(terms, "offer_to", lambda target, asked, progress: answers_up_to(1234.0, asked))
    file, out = tmp_path / "scenario.toml", tmp_path / "out"
    file.write_text(SCENARIO, encoding="utf-8")
    options = ["--terms", "streams,server", "--seconds", "10", "--precision", "0.1", "--out", str(out)]
    result = capacity_of(file, "--target", "null:", *options)
    assert result.exit_code == 0, result.output
    told = json.loads((out / "capacity.json").read_text("utf-8"))
    assert [each["term"] for each in told["capacities"]] == ["streams", "server"]
    for each in told["capacities"]:
        assert each["held"]["load"] <= 1234.0 / 212.5 < each["failed"]["load"] <= each["held"]["load"] * 1.1
        offered = [trial["frames_per_s"] for trial in each["trials"] if trial["load"] == each["held"]["load"]]
        assert each["held"]["frames_per_s"] == pytest.approx(sum(offered) / len(offered))
        assert each["confirmation"]["ratio"] == 1.0
        assert len(each["trials"]) >= CONFIRMING
    assert "All searches ended with a figure: 2" in (out / "report.html").read_text("utf-8")
    page = (out / "report.html").read_text("utf-8")
    assert all(f"Capacity, {term}" in text for term in ("streams", "server") for text in (page, result.output))
