"""The report on live runs: what it draws agrees with the runs, and nothing it is given breaks it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duly_load.compare.page import Detail, write_comparison
from duly_load.compare.rounds import RoundResult, Turn, figures_of, rows
from duly_load.report import live_batches
from duly_load.report.live import write_runs
from duly_load.report.live_tables import STREAMS_MAX, LiveEntry
from duly_load.results.machine import look
from duly_load.results.measure import measure
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import Ending, LiveRun
from tests.duly_load.live_runs import MS, S, load, refused, run_of, served_in_order

HEADINGS = {
    "Latency",
    "Outcomes over time",
    "Latency and the harness's own lag over time",
    "Fairness",
    "Age of information",
    "Lanes",
}


class Page(HTMLParser):
    """The texts of a page, its figures by heading, and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.figures: dict[str, dict[str, Any]] = {}
        self._heading = ""
        self._next = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._next = "figure" if tag == "script" and dict(attrs).get("type") == "application/json" else tag

    def handle_data(self, data: str) -> None:
        if not data.strip():
            return
        if self._next == "h2":
            self._heading = data.strip()
        if self._next == "figure":
            self.figures[self._heading] = json.loads(data)
        elif self._next not in ("script", "style"):
            self.texts.append(data.strip())
        self._next = ""

    def says(self, words: str) -> bool:
        return any(words in text for text in self.texts)


def entry(name: str, run: LiveRun) -> LiveEntry:
    return name, run, measure(run)


def written(folder: Path, *entries: LiveEntry, title: str = "a run") -> Page:
    write_runs(folder / "report.html", title, list(entries), look().facts())
    return Page((folder / "report.html").read_text("utf-8"))


def drawn(page: Page, heading: str) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in page.figures[heading]["data"]}


def test_numbers_are_those_of_the_results(tmp_path: Path) -> None:
    _, _, results = made = entry("duly", served_in_order(load(), service_ms=12, batch_max=1))
    page = written(tmp_path, made)
    assert results.latency_ms is not None
    assert results.reason_ms is not None
    assert results.lag_ms is not None
    for number in (
        f"{results.on_time_ratio:.2%}",
        f"{results.goodput_per_s:,.1f}",
        f"{results.counts['EXPIRED']:,}",
        f"{results.latency_ms.p99_99:,.2f}",
        f"{results.reason_ms.p50:,.2f}",
        f"{results.lag_ms.p99:,.3f}",
        f"{results.worst_on_time_ratio:.2%}",
    ):
        assert number in page.texts
    assert {"duly://robot:8001", "cameras <b>&amp;", look().cpu} <= {text.split(",")[0] for text in page.texts}
    assert set(page.figures) == HEADINGS


def test_outcomes_drawn_are_all_that_were_intended(tmp_path: Path) -> None:
    run = served_in_order(load(), service_ms=12, batch_max=1)
    run.record.outcome[-20:] = FrameOutcome.UNSENT
    _, _, results = made = entry("duly", run)
    traces = drawn(written(tmp_path, made), "Outcomes over time")
    for outcome in (FrameOutcome.ON_TIME, FrameOutcome.EXPIRED, FrameOutcome.UNSENT):
        trace = traces[outcome.name.lower().replace("_", " ")]
        count = results.counts[outcome.name]
        assert sum(np.multiply(trace["y"], trace["width"])) == pytest.approx(count, rel=1e-3)
        assert count > 0


def test_latency_over_time_lies_above_the_lag(tmp_path: Path) -> None:
    run = served_in_order(load(duration_s=10), service_ms=5)
    run.record.lag_ns[:] = 0
    peak = (run.schedule.frames.arrival_ns > 5 * S) & (run.schedule.frames.arrival_ns < 6 * S)
    run.record.lag_ns[peak] = 7 * MS
    panels = written(tmp_path, entry("duly", run)).figures["Latency and the harness's own lag over time"]["data"]
    assert [trace["yaxis"] for trace in panels] == ["y", "y2"]
    at_s, lag_ms = np.array(panels[1]["x"]), np.array(panels[1]["y"])
    assert lag_ms[(at_s > 5.2) & (at_s < 5.8)] == pytest.approx(7)
    assert lag_ms[at_s < 4.8] == pytest.approx(0.001)


def test_bins_without_results_are_gaps(tmp_path: Path) -> None:
    run = served_in_order(load(duration_s=10), service_ms=5)
    silent = (run.schedule.frames.arrival_ns > 4 * S) & (run.schedule.frames.arrival_ns < 6 * S)
    run.record.outcome[silent] = FrameOutcome.UNANSWERED
    latency = written(tmp_path, entry("duly", run)).figures["Latency and the harness's own lag over time"]["data"][0]
    assert latency["y"][len(latency["y"]) // 9 * 4] is None
    assert None not in latency["y"][:3]


def test_invalid_runs_say_so_first_and_why(tmp_path: Path) -> None:
    good = entry("good", served_in_order(load()))
    bad = entry("bad", replace(served_in_order(load()), problems=("the generator's own lag was 3 ms at p99",)))
    page = written(tmp_path, bad)
    assert page.says("INVALID")
    assert "the generator's own lag was 3 ms at p99" in page.texts
    page = written(tmp_path, good, bad)
    assert page.says("INVALID: 1 of 2 runs")
    assert "bad: the generator's own lag was 3 ms at p99" in page.texts
    page = written(tmp_path, good)
    assert "Valid" in page.texts
    assert not page.says("INVALID")


def test_streams_that_ended_alike_are_told_together(tmp_path: Path) -> None:
    run = refused(load(streams=500, rate_hz=1))
    run = replace(run, endings=(*run.endings, Ending(2 * S, "camera-7", False, "connection reset")))
    page = written(tmp_path, entry("duly", run))
    assert page.says("500 streams, camera-0 first, were not let in at 0.000 s: the lanes are full")
    assert page.says("stream camera-7 was broken off at 2.000 s: connection reset")


@pytest.mark.parametrize("outcome", FrameOutcome)
def test_any_single_outcome(tmp_path: Path, outcome: FrameOutcome) -> None:
    page = written(tmp_path, entry("duly", run_of(load(), outcome=outcome)))
    has_results = outcome in (FrameOutcome.ON_TIME, FrameOutcome.LATE)
    assert ("Latency" in page.figures) == has_results
    assert page.says("There is no result in duly.") != has_results
    assert "Lanes" not in page.figures
    assert page.says("No target tells when its batches ran")


def test_a_run_that_has_nothing_beside_one_that_has(tmp_path: Path) -> None:
    scenario = load()
    page = written(tmp_path, entry("duly", served_in_order(scenario)), entry("other", refused(scenario)))
    assert list(drawn(page, "Latency")) == ["duly"]
    assert page.says("There is no result in other.")
    assert page.says("No frame was sent in other.")
    assert page.says("other does not tell.")
    assert list(drawn(page, "Age of information")) == ["duly", "other"]


def test_no_frames_at_all(tmp_path: Path) -> None:
    stream = {"name": "camera", "model": "net", "budget_ms": 40, "from_s": 3.9}
    stream |= {"arrivals": {"kind": "periodic", "rate_hz": 1, "phase": 50}}
    page = written(tmp_path, entry("duly", run_of(load(stream=[stream]), outcome=FrameOutcome.ON_TIME)))
    assert page.says("No frame was to be sent.")
    assert page.says("There is no stream that should have sent anything in duly.")
    assert set(page.figures) == {"Age of information"}


def test_five_hundred_streams_with_long_names(tmp_path: Path) -> None:
    stream = {"name": "<i>" + "vibration " * 19, "count": 500, "model": "net", "budget_ms": 40}
    stream |= {"arrivals": {"kind": "poisson", "rate_hz": 3}}
    page = written(tmp_path, entry("x" * 300, served_in_order(load(stream=[stream]))), title="<b>bold</b>")
    assert not {"i", "b"} & set(page.tags)
    assert page.says(f"{500 - STREAMS_MAX} more streams fared at least as well")
    assert max(len(str(name)) for name in drawn(page, "Latency")) < 60
    assert (tmp_path / "report.html").stat().st_size < 6_000_000


def test_a_colour_for_every_outcome_in_both_schemes(tmp_path: Path) -> None:
    light, dark = (files("duly_load.report") / "page.css").read_text("utf-8").split("prefers-color-scheme: dark", 1)
    for outcome in FrameOutcome:
        name = f"--{outcome.name.lower().replace('_', '-')}:"
        assert name in light
        assert name in dark
    for name in set(re.findall(r"var\((--[a-z0-9-]+)\)", light)):
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_names_must_differ_and_be_there(tmp_path: Path) -> None:
    made = entry("duly", served_in_order(load()))
    for entries in ([], [made, made]):
        with pytest.raises(ValueError, match="at least one run, each with a name of its own"):
            write_runs(tmp_path / "report.html", "none", entries, [])


# ---- batches ----


def batches(run: LiveRun) -> list[live_batches.Batch]:
    return live_batches.batches_of(run, 0, 60 * S)


def test_batches_are_put_together_again() -> None:
    run = served_in_order(load(streams=8), service_ms=15, batch_max=4)
    found = batches(run)
    ran = run.record.batch_size > 0
    assert sum(batch.frames for batch in found) == int(ran.sum())
    assert all(batch.frames == batch.size for batch in found)
    assert len(found) == pytest.approx(float((1 / run.record.batch_size[ran]).sum()))
    assert {batch.row for batch in found} == {0}
    for before, after in pairwise(found):
        assert before.end_ns <= after.start_ns


def test_batches_side_by_side_lie_in_rows() -> None:
    run = run_of(load(streams=1), outcome=FrameOutcome.ON_TIME)
    record = run.record
    record.batch_size[:4] = 1
    record.dispatched_ns[:4] = [S, S + 1 * MS, S + 11 * MS, S + 30 * MS]
    record.occupied_ns[:4] = 10 * MS
    found = batches(run)
    assert [batch.row for batch in found] == [0, 1, 0, 0]
    # Its answers were still being sent when the next began.
    record.dispatched_ns[:4] = [S, S + 9 * MS, S + 18 * MS, S + 30 * MS]
    found = batches(run)
    assert [batch.row for batch in found] == [0, 0, 0, 0]
    assert found[0].end_ns == S + 9 * MS


def test_lanes_are_drawn_round_the_first_miss(tmp_path: Path) -> None:
    run = served_in_order(load(streams=8), service_ms=15, batch_max=2, drop=False)
    _, _, results = made = entry("duly", run)
    assert results.counts["LATE"]
    page = written(tmp_path, made)
    assert page.says("round the first frame that duly missed")
    traces = drawn(page, "Lanes")
    assert len(traces["model net"]["x"]) > 3
    assert len(traces["batch with late frames"]["x"]) >= 1


def test_targets_that_tell_and_miss_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, entry("duly", served_in_order(load(streams=2, rate_hz=10), service_ms=1)))
    assert page.says("where most frames arrive, none was missed")
    assert "model net" in drawn(page, "Lanes")


def test_no_latency_is_the_best_where_targets_answer_unlike_shares(tmp_path: Path) -> None:
    scenario = load()
    quick, slow = run_of(scenario, outcome=FrameOutcome.ON_TIME), run_of(scenario, outcome=FrameOutcome.ON_TIME)
    quick.record.latency_ns[:] = 5 * MS
    of = [entry("quick", quick), entry("slow", slow)]
    assert '<td class="best">5.00</td>' in text_of(tmp_path, of)
    quick.record.outcome[10:] = FrameOutcome.FAILED
    of[0] = entry("quick", quick)
    assert '<td class="best">5.00</td>' not in text_of(tmp_path, of)


def text_of(folder: Path, of: list[LiveEntry]) -> str:
    write_runs(folder / "report.html", "two", of, [])
    return (folder / "report.html").read_text("utf-8")


# ---- comparison ----

NAMES = ["duly", "triton"]


def turns(*loads: float, rounds: int = 3) -> list[RoundResult]:
    found = []
    for factor in loads:
        for seed in range(rounds):
            scenario = load(streams=round(4 * factor), rate_hz=30, duration_s=3)
            for target, drop in enumerate((True, False)):
                run = served_in_order(scenario, seed, service_ms=8, drop=drop, batch_max=1)
                found.append(RoundResult(Turn(seed, factor, target, seed), figures_of(measure(run))))
    return found


def compared(folder: Path, of: list[RoundResult], *details: Detail) -> Page:
    facts = [("Scenario", "overload")]
    write_comparison(folder / "compare.html", "duly beside Triton", NAMES, rows(of), details, facts)
    return Page((folder / "compare.html").read_text("utf-8"))


def test_comparison_draws_medians_and_spreads(tmp_path: Path) -> None:
    of = turns(0.5, 1, 2)
    found = {(row.load, row.target): row for row in rows(of)}
    page = compared(tmp_path, of)
    by = found[2, 1].ratios["on_time_ratio"]
    assert by is not None
    assert {f"{by.least:,.3g}", f"{by.median:,.3g}", "on time, triton / duly, at 2x"} <= set(page.texts)
    assert "All 18 turns have a valid run" in page.texts
    assert set(page.figures) == {"On-time ratio against load", "Goodput against load", "p99 latency against load"}
    traces = page.figures["On-time ratio against load"]["data"]
    band, line = next(trace for trace in traces if "name" not in trace), drawn_named(traces, "duly")
    assert line["x"] == [0.5, 1, 2]
    at_two = found[2, 0].figures["on_time_ratio"]
    assert at_two is not None
    assert line["y"][2] == pytest.approx(at_two.median, rel=1e-5)
    assert [band["y"][2], band["y"][3]] == pytest.approx([at_two.greatest, at_two.least], rel=1e-5)
    assert f"{at_two.median:.2%}" in page.texts


def drawn_named(traces: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(trace for trace in traces if trace.get("name") == name)


def test_invalid_runs_are_left_out_of_a_comparison(tmp_path: Path) -> None:
    of = turns(1, 2, rounds=1)
    spoiled = [RoundResult(each.turn, None, ("it stood still", "it stood still again")) for each in of[2:]]
    page = compared(tmp_path, [*of[:2], *spoiled])
    assert page.says("INVALID: 2 of 4 turns have no valid run; these are left out; 2 invalid runs were repeated")
    assert "duly at 2x: it stood still again" in page.texts
    assert drawn_named(page.figures["Goodput against load"]["data"], "duly")["x"] == [1]


def test_an_invalid_run_that_was_repeated_is_told(tmp_path: Path) -> None:
    (first, *others) = turns(1, rounds=1)
    page = compared(tmp_path, [replace(first, spoiled=("it stood still",)), *others])
    assert page.says("All 2 turns have a valid run; 1 invalid run was repeated")
    assert "duly at 1x: it stood still" in page.texts


def test_a_comparison_shows_runs_in_detail(tmp_path: Path) -> None:
    def detail(factor: float) -> Detail:
        scenario = load(streams=round(100 * factor), rate_hz=25, duration_s=10)
        runs = [(f"target {nth}", served_in_order(scenario, nth, service_ms=8)) for nth in range(4)]
        return Detail(factor, [entry(name, run) for name, run in runs])

    page = compared(tmp_path, turns(1, rounds=1), detail(1), detail(2))
    assert {f"{heading}, at {factor}x" for heading in HEADINGS for factor in (1, 2)} <= set(page.figures)
    assert next(iter(page.figures)) == "On-time ratio against load"
    assert set(drawn(page, "Latency, at 2x")) == {f"target {nth}" for nth in range(4)}
    assert (tmp_path / "compare.html").stat().st_size < 15_000_000


def test_comparison_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        compared(tmp_path, [])
    turn = Turn(0, 1, 0, 0)
    page = compared(tmp_path, [RoundResult(turn, figures_of(measure(refused(load()))))])
    assert set(page.figures) == {"On-time ratio against load", "Goodput against load"}
    assert page.says("Nothing is known of duly.")
    page = compared(tmp_path, [RoundResult(turn, None, ("late",))])
    assert page.figures == {}
    assert page.says("INVALID: no turn has a valid run")
