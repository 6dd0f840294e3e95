"""`duly-load compare`: the plan, ratios within rounds, what is said of runs that were spoiled, and what is written."""

import csv
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from duly_load.cli.main import cli
from duly_load.compare import run as comparison_run
from duly_load.compare import tables as comparison_tables
from duly_load.compare.rounds import FIGURES, OUTCOMES, RoundResult, Spread, Turn, figures_of, plan, ratio, rows, spread
from duly_load.compare.run import Targets, run_turn
from duly_load.generator.run import Offer
from duly_load.protocols.address import Address
from duly_load.protocols.connection import TargetError
from duly_load.results.measure import measure
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import LiveRun
from duly_load.scenario.scenario import Scenario, load_scenario
from duly_load.targets.opened import OpenTarget
from duly_load.targets.peer import PeerError
from tests.duly_load.live_runs import run_of

SMALL = """
name = "small"
duration_s = 0.5
warm_s = 0.1

[[serve.model]]
name = "m"
dense = { width = 4 }

[[stream]]
name = "sensor"
count = 2
model = "m"
budget_ms = 200
payloads = { shape = [4] }
arrivals = { kind = "periodic", rate_hz = 40 }
"""

BLANK = dict.fromkeys(FIGURES)


def held(nth: int, target: int, *spoiled: str, load: float = 1.0, **figures: float) -> RoundResult:
    return RoundResult(Turn(nth, load, target, nth), BLANK | figures if figures else None, spoiled)


# ---- the plan ----


def test_targets_take_turns_at_each_load_and_each_has_each_place_once() -> None:
    assert [(turn.load, turn.target) for turn in plan([0.5, 2.0], targets=3, rounds=1, seed=7)] == [
        (load, nth) for load in (0.5, 2.0) for nth in range(3)
    ]
    turns = plan([1.0], targets=4, rounds=4, seed=0)
    places = Counter((nth % 4, turn.target) for nth, turn in enumerate(turns))
    assert len(places) == len(turns)


def test_each_round_has_a_seed_and_each_target_once_at_each_load() -> None:
    turns = plan([0.5, 1.0, 3.0], targets=4, rounds=6, seed=40)
    assert {(turn.round, turn.seed) for turn in turns} == {(nth, 40 + nth) for nth in range(6)}
    assert len({(turn.round, turn.load, turn.target) for turn in turns}) == len(turns) == 6 * 3 * 4
    assert plan([0.5, 1.0, 3.0], 4, 2, seed=40) == turns[: 2 * 3 * 4]


# ---- figures and ratios ----


def test_ratios_are_made_within_rounds() -> None:
    # The machine is half as fast in round 1: means would say 1.4, the rounds say 2.
    found = rows(
        [
            held(0, 0, goodput_per_s=100),
            held(0, 1, goodput_per_s=200),
            held(1, 0, goodput_per_s=50),
            held(1, 1, goodput_per_s=100),
            held(2, 1, goodput_per_s=300),
            held(2, 0, goodput_per_s=100),
        ]
    )
    assert [row.target for row in found] == [0, 1]
    assert found[1].ratios["goodput_per_s"] == Spread(2, 2, 3, 3)
    assert found[1].figures["goodput_per_s"] == Spread(100, 200, 300, 3)
    assert set(found[0].ratios.values()) == {None}


def test_rows_come_by_load_and_then_by_target() -> None:
    turns = plan([0.5, 2.0], targets=3, rounds=2, seed=0)
    found = rows([RoundResult(turn, BLANK | {"p50_ms": turn.load}) for turn in turns])
    assert [(row.load, row.target) for row in found] == [(load, nth) for load in (0.5, 2.0) for nth in range(3)]
    assert all(row.figures["p50_ms"] == Spread(row.load, row.load, row.load, 2) for row in found)


def test_an_invalid_run_is_no_figure_and_makes_no_pair() -> None:
    found = rows(
        [
            held(0, 0, goodput_per_s=100),
            held(0, 1, "lag", "lag again"),
            held(1, 0, "stalled"),
            held(1, 1, goodput_per_s=100),
            held(2, 0, goodput_per_s=100),
            held(2, 1, "lag", goodput_per_s=150),
        ]
    )
    assert (found[0].valid, found[1].valid) == (2, 2)
    assert found[0].spoiled == ("stalled",)
    assert found[1].spoiled == ("lag", "lag again", "lag")
    assert (found[0].pairs, found[1].pairs) == (0, 1)
    assert (found[0].held, found[1].held) == (3, 3)
    assert found[1].ratios["goodput_per_s"] == Spread(1.5, 1.5, 1.5, 1)
    assert found[1].figures["goodput_per_s"] == Spread(100, 125, 150, 2)


def test_a_target_without_a_valid_run_has_a_row_without_figures() -> None:
    (row,) = rows([held(0, 0, "stalled")])
    assert row.valid == 0
    assert set(row.figures.values()) == {None}


def test_an_interrupted_round_has_ratios_of_the_pairs_that_are_there() -> None:
    found = rows([held(0, 0, p99_ms=10), held(0, 1, p99_ms=5), held(1, 1, p99_ms=7)])
    assert found[1].ratios["p99_ms"] == Spread(0.5, 0.5, 0.5, 1)
    assert found[1].figures["p99_ms"] == Spread(5, 6, 7, 2)


@pytest.mark.parametrize(
    ("value", "by", "expected"),
    [(3.0, 2.0, 1.5), (0.0, 2.0, 0.0), (2.0, 0.0, math.inf), (0.0, 0.0, None), (None, 2.0, None), (2.0, None, None)],
)
def test_ratio(value: float | None, by: float | None, expected: float | None) -> None:
    assert ratio(value, by) == expected


def test_spread_is_of_what_is_there() -> None:
    assert spread([3.0, None, 1.0, 9.0]) == Spread(1.0, 3.0, 9.0, 3)
    assert spread([None]) is None


# ---- turns that are spoiled ----


def on_time(scenario: Scenario, *problems: str) -> LiveRun:
    """Every frame on time after 100 ms, half of its budget."""
    return run_of(scenario, outcome=FrameOutcome.ON_TIME, problems=problems)


def test_figures_are_those_of_the_run(small: Path) -> None:
    figures = figures_of(measure(on_time(load_scenario(small))))
    assert list(figures) == [*FIGURES, *OUTCOMES]
    assert figures["on_time_ratio"] == figures["worst_stream_ratio"] == 1
    assert figures["p50_ms"] == pytest.approx(100, rel=1e-3)
    assert figures["offered_per_s"] == figures["goodput_per_s"] == pytest.approx(80, rel=0.1)
    assert figures["cpu_us_per_frame"] is None
    assert {figures[name] for name in OUTCOMES} == {0}


def test_what_became_of_frames_is_shares_of_all(small: Path) -> None:
    run = on_time(load_scenario(small))
    run.record.outcome[:] = FrameOutcome.FAILED
    figures = figures_of(measure(run))
    assert figures["failed_ratio"] == 1
    assert sum(figures[name] or 0 for name in OUTCOMES) == 1


def test_an_invalid_run_is_made_again_and_told(small: Path) -> None:
    good = on_time(load_scenario(small))
    runs, told = iter([replace(good, problems=("lag", "stalled")), good]), list[str]()
    kept, run = run_turn(Turn(0, 2.0, 1, 5), "triton", lambda: next(runs), 2, told.append)
    assert run is good
    assert kept.results == measure(good)
    assert kept.round_result == RoundResult(Turn(0, 2.0, 1, 5), figures_of(measure(good)), ("lag; stalled",))
    assert told == ["round 1, load 2: triton runs again, the run was invalid: lag; stalled"]


def test_a_run_that_stays_invalid_is_no_figure(small: Path) -> None:
    bad = on_time(load_scenario(small), "lag")
    times, told = [], list[str]()

    def run() -> LiveRun:
        times.append(1)
        return bad

    kept, valid = run_turn(Turn(0, 1.0, 0, 0), "duly", run, 2, told.append)
    assert len(times) == 3
    assert kept.round_result.figures is None
    assert kept.round_result.spoiled == ("lag",) * 3
    assert kept.results == measure(bad)
    assert valid is None
    assert "has no figure" in told[-1]


@pytest.mark.parametrize("error", [TargetError("is gone"), PeerError("is gone")])
def test_a_target_that_fails_spoils_its_run(small: Path, error: Exception) -> None:
    def run() -> LiveRun:
        raise error

    kept, _ = run_turn(Turn(0, 1.0, 0, 0), "duly", run, 0, lambda _: None)
    assert (kept.round_result.figures, kept.round_result.spoiled, kept.results) == (None, ("is gone",), None)


def test_a_server_that_died_is_started_again(small: Path, tmp_path: Path) -> None:
    told: list[str] = []
    folder = tmp_path / "servers"
    folder.mkdir()
    scenario = load_scenario(small)
    with Targets(["floor", "null:"], scenario, folder, told.append) as targets:
        assert list(targets.versions) == ["floor", "null:"]
        (server,) = floors()
        server.kill()
        server.wait(10)
        assert targets.run("floor", lambda it: Offer(scenario, 1, it.name, it.address)).schedule.frames
        assert any(line.startswith("floor is started again: ") for line in told)
        assert len(floors()) == 1
    assert not floors()


def test_a_server_that_goes_on_after_its_turn_is_stopped(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settle(target: OpenTarget, scenario: Scenario, seed: int) -> None:
        if target.name == "floor":
            raise TargetError("it is busy")

    told: list[str] = []
    scenario = load_scenario(small)
    monkeypatch.setattr(comparison_run, "offer_to", lambda *_: on_time(scenario))
    with Targets(["floor", "null:"], scenario, tmp_path, told.append) as targets:

        def run(name: str) -> None:
            targets.run(name, lambda it: Offer(scenario, 1, it.name, it.address))

        run("floor")
        with monkeypatch.context() as busy:
            busy.setattr(comparison_run, "settle", settle)
            run("null:")
            assert told[-1] == "floor is stopped, since it goes on with what came before: it is busy"
            assert not floors()
        run("floor")
        assert len(floors()) == 1


def test_an_address_that_is_down_after_its_turn_is_told(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settle(target: OpenTarget, scenario: Scenario, seed: int) -> None:
        if target.name == "null:?":
            raise TargetError("connection refused")

    told: list[str] = []
    scenario = load_scenario(small)
    monkeypatch.setattr(comparison_run, "offer_to", lambda *_: on_time(scenario))
    with Targets(["null:?", "null:"], scenario, tmp_path, told.append) as targets:

        def run(name: str) -> None:
            targets.run(name, lambda it: Offer(scenario, 1, it.name, it.address))

        run("null:?")
        monkeypatch.setattr(comparison_run, "settle", settle)
        run("null:")
    assert told[-1] == "null:? does not answer as it does when idle: connection refused"


def floors() -> list[psutil.Process]:
    """Servers of this test that run."""
    return [
        each
        for each in psutil.Process().children(recursive=True)
        if each.status() != psutil.STATUS_ZOMBIE and "duly_load.targets.null_echo" in each.cmdline()
    ]


# ---- the table ----


def printed(*tables: object) -> str:
    text = StringIO()
    Console(width=comparison_tables.COLUMNS, file=text).print(*tables)
    return text.getvalue()


def test_tables_fit_100_columns_and_cut_nothing() -> None:
    names = ["duly", "triton-timeouts", "kserve+unix:/run/somewhere/else/of/all/places/server.sock?calls=unary"]
    figures = {"offered_per_s": 123_456.0, "goodput_per_s": 123_456.7, "on_time_ratio": 1.0}
    figures |= {"p50_ms": 12_345.6, "p99_ms": 45_678.9, "worst_stream_ratio": 1.0, "cpu_us_per_frame": 123_456.0}
    figures |= dict.fromkeys(OUTCOMES, 1.0)
    found = rows([RoundResult(turn, figures) for turn in plan([0.25, 1.5], 3, 2, 0)])
    text = printed(comparison_tables.outcomes("t", names, found), comparison_tables.ratios(names, found))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert text.count("100.0..100.0") == 6
    assert text.count("123456.7") == 6


def test_each_target_is_told_with_what_its_frames_became() -> None:
    third = held(0, 2, on_time_ratio=0.1, failed_ratio=0.7, shed_ratio=0.2, expired_ratio=0.0001)
    found = rows([held(0, 0, on_time_ratio=0.5, late_ratio=0.5), held(0, 1, "lag", "lag"), third])
    text = printed(comparison_tables.outcomes("t", ["duly", "triton", "floor"], found)).splitlines()
    lines = {line.split()[0]: line.split() for line in text if line.strip()}
    assert next(line.split() for line in text if "duly" in line)[2:5] == ["1/1", "-", "50.0"]
    assert lines["triton"][:4] == ["triton", "0/2", "-", "invalid"]
    told = {name: lines[name][1] for name in ("late", "failed", "shed")}
    assert told == {"late": "50.0", "failed": "70.0", "shed": "20.0"}
    assert "expired" not in lines


# ---- the command ----


def compare(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["compare", *map(str, args)])


def test_floor_against_nothing(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the report draws with plotly")
    out = tmp_path / "out"
    args = ["--target", "floor", "--target", "null:", "--load", "0.5", "--rounds", "2"]
    result = compare(small, *args, "--seed", "7", "--out", out)
    told = json.loads((out / "results.json").read_text(encoding="utf-8"))
    turns = [(run["round"], run["load"], run["target"], run["seed"]) for run in told["runs"]]
    orders = {0: ["floor", "null:"], 1: ["null:", "floor"]}
    assert turns == [(nth, 0.5, name, 7 + nth) for nth in orders for name in orders[nth]]
    assert told["complete"] is True
    assert told["frames_per_s"] == {"0.5": 40}
    # On a machine that is busy a run may be invalid, which is no failure of the comparison.
    valid = Counter(run["target"] for run in told["runs"] if run["valid"])
    assert {row["target"]: row["rounds_valid"] for row in told["rows"]} == {
        name: valid[name] for name in ("floor", "null:")
    }
    in_round = Counter(run["round"] for run in told["runs"] if run["valid"])
    assert {row["target"]: row["pairs"] for row in told["rows"]} == {
        "floor": 0,
        "null:": sum(count == 2 for count in in_round.values()),
    }
    assert result.exit_code == int(2 not in in_round.values()), result.output
    assert [target["machine"] for target in told["targets"]] == ["the same", "the same"]
    with (out / "comparison.csv").open(encoding="utf-8", newline="") as lines:
        table = list(csv.DictReader(lines))
    assert [(row["load"], row["target"]) for row in table] == [("0.5", "floor"), ("0.5", "null:")]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "floor" in page
    assert "small, seed 7, 2 rounds" in page
    assert not floors()


def test_ctrl_c_stops_the_servers_and_writes_what_there_is(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("plotly", reason="the report draws with plotly")
    good = on_time(load_scenario(small))
    seen: list[int] = []

    def run(targets: Targets, *_: object) -> LiveRun:
        seen.append(len(floors()))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return good

    monkeypatch.setattr(Targets, "run", run)
    out = tmp_path / "out"
    result = compare(small, "--target", "floor", "--target", "null:", "--out", out)
    assert result.exit_code == 130
    assert "2 of 6 turns" in result.stderr
    assert "INCOMPLETE" in result.stdout
    told = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert (told["complete"], len(told["runs"])) == (False, 2)
    assert "INCOMPLETE" in (out / "report.html").read_text(encoding="utf-8")
    assert seen == [1, 1, 1]
    assert not floors()


def test_capacity_and_seconds(small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offered = []

    def run(_: Targets, name: str, ask: Callable[[OpenTarget], Offer], __: object) -> LiveRun:
        asked = ask(OpenTarget(name, Address("null", ""), None, ""))
        offered.append((asked.target, asked.scenario.frames_per_s, asked.scenario.duration_s, asked.sending.processes))
        return on_time(asked.scenario)

    monkeypatch.setattr(Targets, "run", run)
    args = ["--target", "null:", "--target", "floor", "--rounds", "1"]
    result = compare(small, *args, "--capacity", "100", "--seconds", "0.3", "--load", "2", "--processes", "3")
    assert result.exit_code == 0, result.output
    assert offered == [("null:", 200, 0.3, 3), ("floor", 200, 0.3, 3)]


def answer(monkeypatch: pytest.MonkeyPatch, spoils: Callable[[str, Offer], bool]) -> None:
    """Nothing is started; runs that `spoils` chooses are invalid."""

    def run(_: Targets, name: str, ask: Callable[[OpenTarget], Offer], __: object) -> LiveRun:
        asked = ask(OpenTarget(name, Address("null", ""), None, ""))
        ran = on_time(asked.scenario, *(["lag"] if spoils(name, asked) else []))
        return replace(ran, seed=asked.seed, target=name)

    monkeypatch.setattr(Targets, "__enter__", lambda targets: targets)
    monkeypatch.setattr(Targets, "versions", {"null:": "", "floor": ""})
    monkeypatch.setattr(Targets, "run", run)


def test_a_target_without_a_pair_is_no_success(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["--target", "null:", "--target", "floor", "--rounds", "2", "--repeats", "0"]
    # Each has a valid run, in another round than the other.
    answer(monkeypatch, lambda name, asked: (name == "floor") == (asked.seed == 0))
    result = compare(small, *args)
    assert result.exit_code == 1
    assert "load 1: floor has no round with a valid run of null: too" in result.stdout
    answer(monkeypatch, lambda name, asked: (name, asked.seed) == ("floor", 0))
    assert compare(small, *args).exit_code == 0


def test_the_page_shows_the_own_load_and_the_overload_in_detail(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("plotly", reason="the report draws with plotly")
    answer(monkeypatch, lambda name, asked: (name, asked.seed) == ("floor", 1))
    loads = [part for load in ("0.5", "0.8", "2", "3") for part in ("--load", load)]
    out = tmp_path / "out"
    args = ["--target", "null:", "--target", "floor", "--rounds", "2", "--repeats", "0", *loads]
    assert compare(small, *args, "--out", out).exit_code == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    for heading in ("Latency", "Outcomes over time", "Fairness", "Age of information", "Lanes", "Streams"):
        assert page.count(f">{heading}, at 0.8x</h2>") == page.count(f">{heading}, at 3x</h2>") > 0
        assert f">{heading}, at 0.5x</h2>" not in page
        assert f">{heading}, at 2x</h2>" not in page
    # The last valid run of each.
    assert "<dt>In detail at 3x</dt><dd>null:, seed 1, floor, seed 0</dd>" in page
    assert "4 of 16 turns" in page
