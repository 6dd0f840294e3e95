"""Reports on runs, live and simulated: what tables and pictures hold agrees with the runs, and a page stands alone."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duly.core.types import StreamClass
from duly_load.compare.page import Detail, write_comparison
from duly_load.compare.rounds import RoundResult, Turn, figures_of, rows
from duly_load.report.figures import POLICY_COLOURS, SERIES, policy_series
from duly_load.report.lanes import BATCHES_MAX, TICKS_MAX, lane_panel
from duly_load.report.live import batches_of, view_of
from duly_load.report.page import Table
from duly_load.report.pictures import pictures
from duly_load.report.runs import write_runs
from duly_load.report.series import (
    BINS_MAX,
    POINTS_MAX,
    TAIL,
    age_tail,
    bin_edges,
    busiest_ns,
    lower_tail,
    ranked,
    rates_by_status,
    upper_tail,
)
from duly_load.report.tables import STREAMS_MAX, tables
from duly_load.report.view import RunView
from duly_load.results.ages import ages_between
from duly_load.results.measure import measure
from duly_load.results.outcomes import FrameOutcome
from duly_load.results.record import Ending, LiveRun
from duly_load.scenario.scenario import parse_scenario
from duly_load.scenario.schedule import Session
from duly_sim.baselines import POLICIES
from duly_sim.report import view as sim_view
from duly_sim.report.curves import write_curves
from duly_sim.simulator import results as sim_results
from duly_sim.simulator.world import build
from tests.duly_load.live_runs import MS, S, load, refused, run_of, served_in_order

LAG = "Latency and the harness's own lag over time"


def simulated(rate_hz: float = 50, service_ms: float = 4, **more: object) -> RunView:
    """Three periodic cameras, 2 s, in order of arrival on one lane that takes `service_ms` a frame."""
    variants = [{"linear": {"first_ms": service_ms, "next_ms": 1}}]
    stream = {"name": "camera", "count": 3, "model": "net", "budget_ms": 20}
    stream |= {"arrivals": {"kind": "periodic", "rate_hz": rate_hz}}
    simulate: dict[str, object] = {"lane": [{"name": "gpu"}]}
    simulate |= {"model": [{"name": "net", "batch_max": 1, "variants": variants}]} | more
    content = {"name": "cameras <b>&amp;", "duration_s": 2, "stream": [stream], "simulate": simulate}
    world = build(parse_scenario(content, "test", Path()), seed=1)
    run = world.run(POLICIES["fifo"]())
    return sim_view.view_of("fifo", world, run, sim_results.measure(world, run))


def live(run: LiveRun, name: str = "duly") -> RunView:
    return view_of(name, run, measure(run))


def cells(table: Table, row: str) -> dict[str, float | None]:
    return dict(zip((column.title for column in table.columns), dict(table.rows)[row], strict=True))


def table_of(heading: str, *views: RunView) -> Table:
    return next(table for table in tables(views) if table.heading == heading)


def about(heading: str, *views: RunView) -> str:
    return next(picture.about for picture in pictures(views) if picture.heading == heading)


def figure(heading: str, *views: RunView) -> dict[str, Any]:
    return next(picture.figure for picture in pictures(views) if picture.heading == heading) or {"data": []}


def drawn(heading: str, *views: RunView) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in figure(heading, *views)["data"]}


# ---- tables ----


def test_numbers_are_those_of_the_results() -> None:
    run = served_in_order(load(), service_ms=12, batch_max=1)
    results, view = measure(run), live(run)
    assert results.latency_ms
    assert results.reason_ms
    assert results.lag_ms
    outcomes, latency = (cells(table_of(heading, view), "duly") for heading in ("Outcomes", "Latency"))
    assert (outcomes["on time"], outcomes["goodput/s"]) == (results.on_time_ratio, results.goodput_per_s)
    assert (outcomes["expired"], outcomes["frames"]) == (results.counts["EXPIRED"], results.frames)
    assert (outcomes["worst stream"], outcomes["fairness"]) == (results.worst_on_time_ratio, results.fairness)
    assert outcomes["offered/s"] == pytest.approx(results.offered_per_s)
    assert (latency["p99.99 ms"], latency["max ms"]) == (results.latency_ms.p99_99, results.latency_ms.max)
    assert cells(table_of("The reason why not", view), "duly")["p50 ms"] == results.reason_ms.p50
    assert cells(table_of("The harness itself", view), "duly")["lag p99 ms"] == results.lag_ms.p99


def test_a_simulated_run_has_the_same_tables_and_what_its_lanes_did() -> None:
    view = simulated(rate_hz=90)
    assert [table.heading for table in tables([view])] == ["Outcomes", "Latency", "Streams", "Lane time"]
    outcomes = cells(table_of("Outcomes", view), "fifo")
    assert outcomes["late"] == view.results.counts["LATE"] > 0
    wasted = cells(table_of("Lane time", view), "fifo")["wasted"]
    assert wasted is not None
    assert 0 < wasted < 1


def test_streams_come_worst_first_and_not_all_of_many() -> None:
    run = served_in_order(load(streams=500, rate_hz=3))
    table = table_of("Streams", live(run))
    ratios = [row[1] for _, row in table.rows]
    assert len(ratios) == STREAMS_MAX
    assert ratios == sorted(ratios)
    assert f"{500 - STREAMS_MAX} more streams fared at least as well" in table.about
    both = table_of("Streams", live(run), live(run, "again"))
    assert [column.title for column in both.columns] == ["duly", "again"]


def test_no_latency_is_the_best_where_targets_answer_unlike_shares() -> None:
    quick, slow = (run_of(load(), outcome=FrameOutcome.ON_TIME) for _ in range(2))
    quick.record.latency_ns[:] = 5 * MS
    assert table_of("Latency", live(quick), live(slow, "slow")).columns[0].best == -1
    quick.record.outcome[10:] = FrameOutcome.FAILED
    assert table_of("Latency", live(quick), live(slow, "slow")).columns[0].best == 0


# ---- pictures ----


@pytest.mark.parametrize("view", [live(served_in_order(load(), service_ms=12, batch_max=1)), simulated(rate_hz=90)])
def test_outcomes_drawn_are_all_that_were_intended(view: RunView) -> None:
    counts = {name: count for name, count in view.results.counts.items() if count}
    assert len(counts) > 1
    traces = drawn("Outcomes over time", view)
    assert len(traces) == len(counts)
    for name, count in counts.items():
        trace = traces[name.lower().replace("_", " ")]
        assert sum(np.multiply(trace["y"], trace["width"])) == pytest.approx(count, rel=1e-3)


def test_latency_over_time_lies_above_the_lag_and_has_gaps() -> None:
    run = served_in_order(load(duration_s=10), service_ms=5)
    arrival_ns = run.schedule.frames.arrival_ns
    run.record.lag_ns[:] = 0
    run.record.lag_ns[(arrival_ns > 5 * S) & (arrival_ns < 6 * S)] = 7 * MS
    run.record.outcome[(arrival_ns > 4 * S) & (arrival_ns < 6 * S)] = FrameOutcome.UNANSWERED
    latency, lag = figure(LAG, live(run))["data"]
    assert (latency["yaxis"], lag["yaxis"]) == ("y", "y2")
    at_s, lag_ms = np.array(lag["x"]), np.array(lag["y"])
    assert lag_ms[(at_s > 5.2) & (at_s < 5.8)] == pytest.approx(7)
    assert lag_ms[at_s < 4.8] == pytest.approx(0.001)
    assert latency["y"][len(latency["y"]) // 9 * 4] is None
    assert None not in latency["y"][:3]
    assert list(drawn("Latency over time", simulated())) == ["fifo"]


@pytest.mark.parametrize("outcome", FrameOutcome)
def test_any_single_outcome(outcome: FrameOutcome) -> None:
    view = live(run_of(load(), outcome=outcome))
    has_results = outcome in (FrameOutcome.ON_TIME, FrameOutcome.LATE)
    assert bool(drawn("Latency", view)) == bool(drawn("Slack", view)) == has_results
    assert ("There is no result in duly." in about("Latency", view)) != has_results
    assert "No target tells when its batches ran" in about("Lanes", view)


def test_a_run_that_has_nothing_beside_one_that_has() -> None:
    views = live(served_in_order(load())), live(refused(load()), "other")
    assert list(drawn("Latency", *views)) == ["duly"]
    assert "There is no result in other." in about("Latency", *views)
    assert "No frame was sent in other." in about(LAG, *views)
    assert "other does not tell." in about("Lanes", *views)
    assert list(drawn("Age of information", *views)) == ["duly", "other"]


def test_no_frames_at_all() -> None:
    stream = {"name": "camera", "model": "net", "budget_ms": 40, "from_s": 3.9}
    stream |= {"arrivals": {"kind": "periodic", "rate_hz": 1, "phase": 50}}
    view = live(run_of(load(stream=[stream]), outcome=FrameOutcome.ON_TIME))
    assert about("Outcomes over time", view) == "No frame was to be sent."
    assert [picture.heading for picture in pictures([view]) if picture.figure] == ["Age of information"]
    assert table_of("Streams", view).about == "No stream should have sent anything."


# ---- lanes ----


def test_batches_are_put_together_again() -> None:
    run = served_in_order(load(streams=8), service_ms=15, batch_max=4)
    found = batches_of(run, 0, 60 * S)
    ran = run.record.batch_size > 0
    assert sum(batch.frames for batch in found) == int(ran.sum())
    assert all(batch.frames == batch.size for batch in found)
    assert len(found) == pytest.approx(float((1 / run.record.batch_size[ran]).sum()))
    assert {batch.lane for batch in found} == {0}
    for before, after in pairwise(found):
        assert before.end_ns <= after.start_ns


def test_batches_side_by_side_lie_in_rows() -> None:
    run = run_of(load(streams=1), outcome=FrameOutcome.ON_TIME)
    record = run.record
    record.batch_size[:4] = 1
    record.dispatched_ns[:4] = [S, S + 1 * MS, S + 11 * MS, S + 30 * MS]
    record.occupied_ns[:4] = 10 * MS
    assert [batch.lane for batch in batches_of(run, 0, 60 * S)] == [0, 1, 0, 0]
    # Its answers were still being sent when the next began.
    record.dispatched_ns[:4] = [S, S + 9 * MS, S + 18 * MS, S + 30 * MS]
    found = batches_of(run, 0, 60 * S)
    assert [batch.lane for batch in found] == [0, 0, 0, 0]
    assert found[0].end_ns == S + 9 * MS


def test_lanes_are_drawn_round_the_first_miss() -> None:
    view = live(served_in_order(load(streams=8), service_ms=15, batch_max=2, drop=False))
    assert "round the first miss of duly" in about("Lanes", view)
    traces = drawn("Lanes", view)
    assert len(traces["model net"]["x"]) > 3
    assert len(traces["batch with late frames"]["x"]) >= 1
    view = simulated(rate_hz=90)
    ring, bars = (drawn("Lanes", view)[name] for name in ("batch with late frames", "model net"))
    assert ring["base"][0] + ring["x"][0] == pytest.approx(60, abs=0.01)
    assert bars["text"] == ["1"] * len(bars["x"])
    assert bars["x"] == pytest.approx([4] * len(bars["x"]), abs=0.01)
    calm = live(served_in_order(load(streams=2, rate_hz=10), service_ms=1))
    assert "where most frames arrive, since none was missed" in about("Lanes", calm)
    assert "model net" in drawn("Lanes", calm)


def test_short_batches_are_shown_for_less_time() -> None:
    view = simulated(rate_hz=900, service_ms=0.4)
    assert 10 < len(drawn("Lanes", view)["model net"]["x"]) <= BATCHES_MAX + 1
    assert figure("Lanes", view)["layout"]["xaxis"]["range"][1] < 200


def test_frames_given_up_at_one_time_are_one_tick() -> None:
    view = live(run_of(load(streams=50, rate_hz=200), outcome=FrameOutcome.EXPIRED))
    at_ms = lane_panel(view, [], 2 * S, 200 * MS).missed_ms[FrameOutcome.EXPIRED]
    assert TICKS_MAX / 2 < len(at_ms) == len(set(at_ms)) <= TICKS_MAX
    assert at_ms.max() < 200


def test_a_lost_batch_ends_when_its_frames_are_given_up() -> None:
    lost = drawn("Lanes", simulated(rate_hz=80, fault=[{"lane": "gpu", "kind": "die", "at_s": 1.0, "back_s": 1.5}]))
    assert lost["lost batch"]["base"][0] + lost["lost batch"]["x"][0] == pytest.approx(60, abs=0.01)


# ---- the page ----


class Page(HTMLParser):
    """Start tags with their attributes, and texts."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip() and self.tags[-1][0] not in ("script", "style"):
            self.texts.append(data.strip())


def written(folder: Path, *views: RunView) -> Page:
    write_runs(folder / "report.html", "</title><img src=x>", views, [("Version", "9.9")])
    return Page(folder / "report.html")


def test_a_page_loads_nothing_and_escapes_names(tmp_path: Path) -> None:
    name = "</script><b>bold</b> & 'quoted'" + "x" * 300
    page = written(tmp_path, live(served_in_order(load(streams=500, rate_hz=3)), name), simulated())
    assert (tmp_path / "report.html").stat().st_size < 6_000_000
    (policy,) = (of["content"] for _, of in page.tags if of.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
    assert not [tag for tag, of in page.tags if {"src", "href", "srcset", "data"} & set(of)]
    assert not {"link", "iframe", "object", "embed", "base", "b", "img"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import", (files("duly_load.report") / "page.css").read_text("utf-8"))
    assert {"</title><img src=x>", "cameras <b>&amp;", "9.9", "duly://robot:8001"} <= set(page.texts)


def test_invalid_runs_say_so_first_and_why(tmp_path: Path) -> None:
    good = served_in_order(load())
    bad = live(replace(good, problems=("the generator was late",)), "bad")
    assert {"INVALID: what this run shows is not the target's doing alone", "the generator was late"} <= set(
        written(tmp_path, bad).texts
    )
    texts = written(tmp_path, live(good), bad).texts
    assert "INVALID: 1 of 2 runs; what they show is not the target's doing alone" in texts
    assert "bad: the generator was late" in texts
    assert "Valid" in written(tmp_path, live(good)).texts
    assert not [text for text in written(tmp_path, simulated()).texts if "valid" in text.lower()]


def test_streams_that_ended_alike_are_told_together() -> None:
    run = refused(load(streams=500, rate_hz=1))
    run = replace(run, endings=(*run.endings, Ending(2 * S, "camera-7", False, "connection reset")))
    assert live(run).notes == (
        "500 streams, camera-0 first, were not let in at 0.000 s: the lanes are full; a period of 80 ms would fit",
        "stream camera-7 was broken off at 2.000 s: connection reset",
    )


def test_a_colour_for_every_name_in_both_schemes() -> None:
    light, dark = (files("duly_load.report") / "page.css").read_text("utf-8").split("prefers-color-scheme: dark", 1)
    faulty = simulated(rate_hz=90, fault=[{"lane": "gpu", "kind": "die", "at_s": 1.0, "back_s": 1.5}])
    used = set(re.findall(r"'(--[a-z0-9-]+)'", str(pictures([faulty]))))
    used |= {f"--{outcome.name.lower().replace('_', '-')}" for outcome in FrameOutcome}
    used |= {f"--series-{nth}" for nth in range(SERIES)} | set(re.findall(r"var\((--[a-z0-9-]+)\)", light))
    assert not [name for name in used if f"{name}:" not in light or f"{name}:" not in dark]


def test_policies_keep_their_colours() -> None:
    assert policy_series(["nexus", "duly"]) == {"nexus": POLICY_COLOURS.index("nexus"), "duly": 0}
    assert len(set(policy_series(["mine", "duly", "yours"]).values())) == 3
    assert set(policy_series([f"p{nth}" for nth in range(30)]).values()) <= set(range(1, SERIES))


def test_a_page_needs_runs_whose_names_differ(tmp_path: Path) -> None:
    for views in ([], [simulated(), simulated()]):
        with pytest.raises(ValueError, match="at least one run, each with a name of its own"):
            write_runs(tmp_path / "report.html", "none", views)
    with pytest.raises(ValueError, match="at least one point"):
        write_curves(tmp_path / "curves.html", "none", [("duly", [])], "load")


def test_goodput_against_load(tmp_path: Path) -> None:
    duly = [(200.0, 300.5, 310.25, 320.0), (100.0, 99.0, 100.0, 100.0)]
    write_curves(tmp_path / "curves.html", "load", [("duly", duly), ("fifo", [(100.0, 9.0, 9.5, 10.0)])], "load")
    assert {"310.2", "100.0", "9.5", "-", "200"} <= set(Page(tmp_path / "curves.html").texts)


# ---- a comparison ----


def turns(*loads: float) -> list[RoundResult]:
    found = []
    for factor in loads:
        scenario = load(streams=round(4 * factor), rate_hz=30, duration_s=3)
        for target, drop in enumerate((True, False)):
            run = served_in_order(scenario, 1, service_ms=8, drop=drop, batch_max=1)
            found.append(RoundResult(Turn(0, factor, target, 1), figures_of(measure(run))))
    return found


def compared(folder: Path, of: list[RoundResult], *details: Detail) -> set[str]:
    write_comparison(folder / "compare.html", "duly beside Triton", ["duly", "triton"], rows(of), details, [])
    return set(Page(folder / "compare.html").texts)


def test_a_comparison_has_medians_ratios_and_runs_in_detail(tmp_path: Path) -> None:
    of = turns(0.5, 2)
    row = next(row for row in rows(of) if (row.load, row.target) == (2, 1))
    by, ratio = row.ratios["on_time_ratio"], row.figures["on_time_ratio"]
    assert by
    assert ratio
    texts = compared(tmp_path, of, Detail(2, [live(served_in_order(load()))]))
    assert {f"{by.median:,.3g}", "on time, triton / duly, at 2x", f"{ratio.median:.2%}"} <= texts
    assert "All 4 turns have a valid run" in texts
    assert {"On-time ratio against load", "Latency, at 2x", "The harness itself, at 2x"} <= texts


def test_invalid_runs_are_left_out_of_a_comparison_and_told(tmp_path: Path) -> None:
    first, second, *others = turns(1, 2)
    spoiled = [RoundResult(each.turn, None, ("it stood still", "it stood still again")) for each in others]
    texts = compared(tmp_path, [first, second, *spoiled])
    assert "INVALID: 2 of 4 turns have no valid run; these are left out; 2 invalid runs were repeated" in texts
    assert "duly at 2x: it stood still again" in texts
    texts = compared(tmp_path, [replace(first, spoiled=("it stood still",)), second])
    assert {"All 2 turns have a valid run; 1 invalid run was repeated", "duly at 1x: it stood still"} <= texts
    assert "INVALID: no turn has a valid run; 1 invalid run was repeated" in compared(tmp_path, spoiled[:1])
    with pytest.raises(ValueError, match="at least one row"):
        compared(tmp_path, [])


# ---- series ----


def test_tails_are_exact() -> None:
    values = np.random.default_rng(0).exponential(10, 50_000)
    at, share = upper_tail(values)
    assert len(at) <= POINTS_MAX
    assert (at[0], share[0]) == (values.min(), 1)
    assert share[-1] == pytest.approx(TAIL)
    for value, part in zip(at.tolist(), share.tolist(), strict=True):
        assert np.mean(values >= value) == pytest.approx(part)
    for value, part in zip(*lower_tail(values), strict=True):
        assert np.mean(values <= value) == pytest.approx(part)
    at, share = upper_tail(np.array([3.0, 1.0, 2.0]))
    assert at.tolist() == [1, 2, 3]
    assert share == pytest.approx([1, 2 / 3, 1 / 3])
    assert [len(each) for each in upper_tail(np.empty(0))] == [0, 0]


@pytest.mark.parametrize(
    ("span_ns", "frames", "width_ns"),
    [(60 * S, 10**6, S // 2), (10 * S, 10**6, S // 10), (10 * S, 50, 2 * S), (7 * S, 1, 7 * S), (3 * S, 0, 3 * S)],
)
def test_bins_are_round_and_bounded_and_count_every_frame_once(span_ns: int, frames: int, width_ns: int) -> None:
    edges_ns = bin_edges(S, S + span_ns, frames)
    assert (edges_ns[0], edges_ns[-1]) == (S, S + span_ns)
    assert len(edges_ns) - 1 <= BINS_MAX
    assert edges_ns[1] - edges_ns[0] == width_ns
    rng = np.random.default_rng(3)
    status = rng.integers(1, 6, 500).astype(np.int8)
    for outcome, of in rates_by_status(rng.integers(S, S + span_ns, 500), status, edges_ns).items():
        assert np.sum(of * np.diff(edges_ns) / S) == pytest.approx(np.sum(status == outcome))


def test_ranked_keeps_the_worst_and_the_best() -> None:
    ratios = np.random.default_rng(1).random(5000)
    share, ratio = ranked(ratios)
    assert len(ratio) <= POINTS_MAX
    assert (ratio[0], ratio[-1]) == (ratios.min(), ratios.max())
    assert (share[0], share[-1]) == (1 / 5000, 1)
    assert [len(each) for each in ranked(np.empty(0))] == [0, 0]


def test_age_agrees_with_looking_at_every_instant() -> None:
    rng = np.random.default_rng(5)
    open_ns = {1: (0, 1000), 2: (100, 700), 3: (250, 2000)}  # the third stream never gets a result
    sessions = [Session(nth, "", 0, StreamClass.STANDARD, "net", 20, *times) for nth, times in open_ns.items()]
    stream_id = rng.integers(1, 3, 60).astype(np.int32)
    sampled_ns = rng.integers(100, 690, 60)
    resolved_ns = sampled_ns + rng.integers(1, 200, 60)
    ages = []
    for number, (opened_ns, closed_ns) in open_ns.items():
        for now_ns in range(max(150, opened_ns), min(900, closed_ns)):
            held = sampled_ns[(stream_id == number) & (resolved_ns <= now_ns)]
            ages.append(now_ns + 0.5 - (held.max() if len(held) else opened_ns))
    at_ns, share = age_tail(ages_between(sessions, stream_id, sampled_ns, resolved_ns, 150, 900))
    assert at_ns.max() == pytest.approx(900 - 250, rel=0.002)
    for age_ns, part in zip(at_ns.tolist(), share.tolist(), strict=True):
        assert np.mean(np.array(ages) >= age_ns) == pytest.approx(part, abs=0.005)


def test_busiest_window() -> None:
    arrival_ns = np.array([100, 1500, 2100, 2200, 2300, 9000])
    assert busiest_ns(arrival_ns, 0, 10_000, 1000) == 2000
    assert busiest_ns(np.empty(0, np.int64), 500, 10_000, 1000) == 500
