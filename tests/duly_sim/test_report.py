"""The report: what it draws agrees with the run, and the page stands alone."""

import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from duly.core.events import Action, BatchFinished, DispatchBatch, Event, FramesArrived, LaneDown, LaneUp, ResolveFrame
from duly.core.types import Frame, OutcomeStatus, StreamClass
from duly_load.report.figures import POLICY_COLOURS, SERIES, policy_series
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
from duly_load.report.window import BATCHES_MAX, TICKS_MAX
from duly_load.results.outcomes import FrameOutcome
from duly_load.scenario.scenario import Scenario, parse_scenario
from duly_load.scenario.schedule import Frames, Session
from duly_sim.report import page
from duly_sim.report.tables import Entry
from duly_sim.simulator.engine import Batches, Run
from duly_sim.simulator.results import ages_of, measure
from duly_sim.simulator.world import build

MS = 1_000_000
S = 1_000_000_000


class Refusing:
    """Runs nothing: every frame is resolved with one status when it comes."""

    def __init__(self, status: OutcomeStatus) -> None:
        self._status = status

    def next_wake_ns(self) -> int | None:
        return None

    def step(self, now_ns: int, event: Event) -> list[Action]:
        if not isinstance(event, FramesArrived):
            return []
        return [ResolveFrame(frame, self._status, "") for frame in event.frames]


class OneByOne:
    """Batches of one in order of arrival, on one lane."""

    def __init__(self) -> None:
        self._lane = ""
        self._waiting: list[Frame] = []
        self._running: dict[int, Frame] = {}
        self._dispatched = 0

    def next_wake_ns(self) -> int | None:
        return None

    def step(self, now_ns: int, event: Event) -> list[Action]:
        actions: list[Action] = []
        match event:
            case LaneUp(lane):
                self._lane = lane
            case FramesArrived(frames):
                self._waiting += frames
            case BatchFinished(batch_id):
                frame = self._running.pop(batch_id)
                status = OutcomeStatus.ON_TIME if now_ns <= frame.deadline_ns else OutcomeStatus.LATE
                actions.append(ResolveFrame(frame, status, "", batch_id, 1))
            case LaneDown():
                self._lane = ""
                for batch_id, frame in self._running.items():
                    actions.append(ResolveFrame(frame, OutcomeStatus.FAILED, "", batch_id, 1))
                self._running.clear()
                actions += [ResolveFrame(frame, OutcomeStatus.SHED, "") for frame in self._waiting]
                self._waiting.clear()
        if self._lane and self._waiting and not self._running:
            self._dispatched += 1
            frame = self._waiting.pop(0)
            self._running[self._dispatched] = frame
            actions.append(DispatchBatch(self._dispatched, self._lane, frame.model, "default", [frame], 4 * MS))
        return actions


def scenario(rate_hz: float = 50, budget_ms: float = 20, duration_s: float = 2, **more: object) -> Scenario:
    content: dict[str, object] = {
        "name": "cameras <b>&amp;",
        "duration_s": duration_s,
        "stream": [
            {
                "name": "camera",
                "count": 3,
                "model": "net",
                "budget_ms": budget_ms,
                "arrivals": {"kind": "periodic", "rate_hz": rate_hz},
            }
        ],
    }
    simulate: dict[str, object] = {
        "lane": [{"name": "gpu"}],
        "model": [{"name": "net", "batch_max": 1, "variants": [{"linear": {"first_ms": 4, "next_ms": 1}}]}],
    }
    simulate |= {key: more.pop(key) for key in ("model", "fault") if key in more}
    return parse_scenario(content | {"simulate": simulate} | more, "test", Path())


def entry(name: str, policy: Refusing | OneByOne, of: Scenario) -> Entry:
    world = build(of, seed=1)
    run = world.run(policy)
    return name, world, run, measure(world, run)


class Page(HTMLParser):
    """Start tags with their attributes, the text of cells and headings, the figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.figures: list[dict[str, object]] = []
        self._in: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            if data.strip():
                self.figures.append(json.loads(data))
                self.tags.append(("", {}))
        elif data.strip():
            self.texts.append(data.strip())


def written(path: Path, entries: list[Entry], title: str = "a run") -> Page:
    page.write(path / "report.html", title, entries)
    return Page((path / "report.html").read_text("utf-8"))


def test_page_loads_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, [entry("duly", OneByOne(), scenario())])
    assert (tmp_path / "report.html").stat().st_size < 6_000_000
    assert [
        attributes["content"]
        for _, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ] == ["default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"]
    assert not [tag for tag, attributes in page.tags if {"src", "href", "srcset", "data"} & set(attributes)]
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    style = (files("duly_load.report") / "page.css").read_text("utf-8")
    assert not re.search(r"url\(|@import", style)


def test_table_has_the_numbers_of_the_results(tmp_path: Path) -> None:
    good = entry("good", OneByOne(), scenario())
    bad = entry("bad", OneByOne(), scenario(rate_hz=90))
    page = written(tmp_path, [good, bad])
    for _, _, _, results in (good, bad):
        assert results.latency_ms is not None
        for number in (
            f"{results.on_time_ratio:.2%}",
            f"{results.goodput_per_s:,.1f}",
            f"{results.counts['LATE']:,}",
            f"{results.latency_ms.p50:,.2f}",
            f"{results.latency_ms.p99:,.2f}",
            f"{results.worst_on_time_ratio:.2%}",
            f"{results.wasted:.2%}",
            f"{results.utilisation_mean:.1%}",
        ):
            assert number in page.texts
    assert good[3].on_time_ratio > bad[3].on_time_ratio


def test_outcomes_drawn_are_those_of_the_run(tmp_path: Path) -> None:
    of = scenario(rate_hz=90, budget_ms=80, warm_s=0.5)
    _, _, run, results = made = entry("one by one", OneByOne(), of)
    assert results.counts["LATE"]
    assert results.counts["ON_TIME"]
    figure = written(tmp_path, [made]).figures[0]
    drawn = {trace["name"]: sum(np.multiply(trace["y"], trace["width"])) for trace in figure["data"]}
    arrived_ns = run.frames.arrival_ns
    for outcome, name in ((OutcomeStatus.ON_TIME, "on time"), (OutcomeStatus.LATE, "late")):
        count = int(np.sum((run.status == outcome) & (arrived_ns >= S // 2)))
        assert drawn[name] == pytest.approx(count, rel=1e-4)


def test_lanes_are_drawn_round_the_first_miss(tmp_path: Path) -> None:
    made = entry("one by one", OneByOne(), scenario(rate_hz=90))
    lanes = written(tmp_path, [made]).figures[-1]
    rings = [trace for trace in lanes["data"] if trace["name"] == "batch with late frames"]
    assert len(rings) == 1
    assert rings[0]["base"][0] + rings[0]["x"][0] == pytest.approx(60, abs=0.01)
    bars = [trace for trace in lanes["data"] if trace["name"] == "model net"]
    assert bars[0]["text"] == ["1"] * len(bars[0]["x"])
    assert all(took_ms == pytest.approx(4, abs=0.01) for took_ms in bars[0]["x"])


def test_short_batches_are_shown_for_less_time(tmp_path: Path) -> None:
    model = {"name": "net", "batch_max": 1, "variants": [{"linear": {"first_ms": 0.4, "next_ms": 1}}]}
    made = entry("one by one", OneByOne(), scenario(rate_hz=900, model=[model]))
    figure = written(tmp_path, [made]).figures[-1]
    bars = next(trace for trace in figure["data"] if trace["name"] == "model net")
    assert 10 < len(bars["x"]) <= BATCHES_MAX + 1
    window_ms = figure["layout"]["xaxis"]["range"][1]
    assert window_ms < 200
    ring = next(trace for trace in figure["data"] if trace["name"] == "batch with late frames")
    assert ring["base"][0] + ring["x"][0] == pytest.approx(0.3 * window_ms, abs=0.01)


def test_frames_given_up_at_one_time_are_one_tick(tmp_path: Path) -> None:
    made = entry("none", Refusing(OutcomeStatus.EXPIRED), scenario(rate_hz=100_000, duration_s=0.3))
    ticks = next(trace for trace in written(tmp_path, [made]).figures[-1]["data"] if trace["name"] == "expired")
    assert len(ticks["x"]) == len(set(ticks["x"])) == TICKS_MAX


def test_lost_batch_ends_when_its_frames_are_given_up(tmp_path: Path) -> None:
    of = scenario(rate_hz=80, fault=[{"lane": "gpu", "kind": "die", "at_s": 1.0, "back_s": 1.5}])
    _, _, run, _ = made = entry("one by one", OneByOne(), of)
    assert -1 in run.batches.ended_ns
    lanes = written(tmp_path, [made]).figures[-1]
    lost = next(trace for trace in lanes["data"] if trace["name"] == "lost batch")
    assert lost["base"][0] + lost["x"][0] == pytest.approx(60, abs=0.01)


def test_names_are_escaped(tmp_path: Path) -> None:
    name = "</script><b>bold</b> & 'quoted'"
    text = "</title><img src=x>"
    made = entry(name, OneByOne(), scenario())
    page = written(tmp_path, [made, entry("other", Refusing(OutcomeStatus.SHED), scenario())], text)
    tags = {tag for tag, _ in page.tags}
    assert not {"b", "img"} & tags
    assert text in page.texts
    assert name in page.texts
    assert "cameras <b>&amp;" in page.texts
    assert len(page.figures) == 6
    names = {str(trace["name"]) for trace in page.figures[1]["data"]}
    assert names == {"&lt;/script&gt;&lt;b&gt;bold&lt;/b&gt; &amp; &#x27;quoted&#x27;", "other"}


@pytest.mark.parametrize("status", [OutcomeStatus.EXPIRED, OutcomeStatus.SUPERSEDED, OutcomeStatus.CANCELLED])
def test_run_without_batches(tmp_path: Path, status: OutcomeStatus) -> None:
    made = entry("nothing", Refusing(status), scenario())
    assert not made[2].batches.size
    page = written(tmp_path, [made])
    assert len(page.figures) == 6
    assert f"{made[3].frames:,}" in page.texts
    assert "-" in page.texts


@pytest.mark.parametrize("policy", [OneByOne(), Refusing(OutcomeStatus.SHED)])
def test_single_frame(tmp_path: Path, policy: OneByOne | Refusing) -> None:
    stream = {"name": "camera", "model": "net", "budget_ms": 20}
    stream |= {"arrivals": {"kind": "periodic", "rate_hz": 1, "phase": 100}}
    made = entry("one", policy, scenario(duration_s=0.5, stream=[stream]))
    assert made[3].frames == 1
    assert len(written(tmp_path, [made]).figures) == 6


def test_no_frames_after_the_warm_up(tmp_path: Path) -> None:
    stream = {"name": "camera", "model": "net", "budget_ms": 20, "to_s": 0.5}
    stream |= {"arrivals": {"kind": "periodic", "rate_hz": 30}}
    made = entry("one", OneByOne(), scenario(warm_s=1.0, stream=[stream]))
    assert made[3].frames == 0
    assert len(written(tmp_path, [made]).figures) == 6


def test_no_misses(tmp_path: Path) -> None:
    made = entry("calm", OneByOne(), scenario(rate_hz=10, budget_ms=500))
    assert made[3].on_time_ratio == 1
    page = written(tmp_path, [made])
    assert any("since none was missed" in text for text in page.texts)


def test_a_colour_for_every_name_in_both_schemes(tmp_path: Path) -> None:
    style = (files("duly_load.report") / "page.css").read_text("utf-8")
    light, dark = style.split("prefers-color-scheme: dark", 1)
    faulty = scenario(rate_hz=90, fault=[{"lane": "gpu", "kind": "die", "at_s": 1.0, "back_s": 1.5}])
    text = json.dumps(written(tmp_path, [entry("duly", OneByOne(), faulty)]).figures)
    used = set(re.findall(r'"(--[a-z0-9-]+)"', text))
    used |= {f"--{outcome.name.lower().replace('_', '-')}" for outcome in FrameOutcome}
    used |= {f"--series-{nth}" for nth in range(SERIES)}
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_policies_keep_their_colours() -> None:
    assert policy_series(["nexus", "duly"]) == {"nexus": POLICY_COLOURS.index("nexus"), "duly": 0}
    series = policy_series(["mine", "duly", "yours"])
    assert len(set(series.values())) == 3
    assert set(policy_series([f"p{nth}" for nth in range(30)]).values()) <= set(range(1, SERIES))


def test_write_needs_entries(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        page.write(tmp_path / "report.html", "none", [])
    with pytest.raises(ValueError, match="at least one point"):
        page.write_curves(tmp_path / "curves.html", "none", [("duly", [])])


def test_curves(tmp_path: Path) -> None:
    curves = [
        ("duly", [(200.0, 300.5, 310.25, 320.0), (100.0, 99.0, 100.0, 100.0)]),
        ("fifo", [(100.0, 9.0, 9.5, 10.0)]),
    ]
    page.write_curves(tmp_path / "curves.html", "load", curves)
    drawn = Page((tmp_path / "curves.html").read_text("utf-8"))
    assert {"310.2", "100.0", "9.5", "-", "200"} <= set(drawn.texts)
    lines = {
        trace["name"]: trace for trace in drawn.figures[0]["data"] if trace["type"] == "scatter" and "name" in trace
    }
    assert lines["duly"]["x"] == [100, 200]
    assert lines["duly"]["y"] == [100, 310.25]


# ---- what is drawn ----


def test_tails_are_exact() -> None:
    values = np.random.default_rng(0).exponential(10, 50_000)
    at, share = upper_tail(values)
    assert len(at) <= POINTS_MAX
    assert share[0] == 1
    assert share[-1] == pytest.approx(TAIL)
    assert at[0] == values.min()
    for value, part in zip(at.tolist(), share.tolist(), strict=True):
        assert np.mean(values >= value) == pytest.approx(part)
    below, share = lower_tail(values)
    for value, part in zip(below.tolist(), share.tolist(), strict=True):
        assert np.mean(values <= value) == pytest.approx(part)


def test_tail_of_few_ends_at_the_greatest() -> None:
    at, share = upper_tail(np.array([3.0, 1.0, 2.0]))
    assert at.tolist() == [1, 2, 3]
    assert share == pytest.approx([1, 2 / 3, 1 / 3])
    assert [len(each) for each in upper_tail(np.empty(0))] == [0, 0]


@pytest.mark.parametrize(
    ("span_ns", "frames", "width_ns"),
    [(60 * S, 10**6, S // 2), (10 * S, 10**6, S // 10), (10 * S, 50, 2 * S), (7 * S, 1, 7 * S), (3 * S, 0, 3 * S)],
)
def test_bins_are_round_and_bounded(span_ns: int, frames: int, width_ns: int) -> None:
    edges_ns = bin_edges(S, S + span_ns, frames)
    assert (edges_ns[0], edges_ns[-1]) == (S, S + span_ns)
    assert len(edges_ns) - 1 <= BINS_MAX
    assert edges_ns[1] - edges_ns[0] == width_ns


def test_rates_count_every_frame_once() -> None:
    rng = np.random.default_rng(3)
    arrival_ns = rng.integers(0, 10 * S, 5000)
    status = rng.integers(1, 6, 5000).astype(np.int8)
    edges_ns = bin_edges(0, 10 * S, 5000)
    rates = rates_by_status(arrival_ns, status, edges_ns)
    assert list(rates) == [OutcomeStatus(number) for number in range(1, 6)]
    for outcome, of in rates.items():
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
    open_ns = {1: (0, 1000), 2: (100, 700), 3: (250, 2000)}
    sessions = [
        Session(stream_id, "", 0, StreamClass.STANDARD, "net", 20, *times_ns) for stream_id, times_ns in open_ns.items()
    ]
    stream_id = rng.integers(1, 3, 80).astype(np.int32)  # the third stream never gets a result
    status = np.where(np.arange(80) % 4, OutcomeStatus.ON_TIME, OutcomeStatus.SHED).astype(np.int8)
    status[::5] = OutcomeStatus.LATE
    arrival_ns = rng.integers(100, 690, 80)
    resolved_ns = arrival_ns + rng.integers(1, 200, 80)
    frames, nothing = Frames(arrival_ns, arrival_ns + 20, stream_id), Batches([], [], [], [], [], [], [])
    run = Run(frames, status, resolved_ns, np.full(80, -1, np.int32), nothing, [])
    start_ns, end_ns = 150, 900
    answered = status != OutcomeStatus.SHED
    ages = []
    for number, (opened_ns, closed_ns) in open_ns.items():
        for now_ns in range(max(start_ns, opened_ns), min(end_ns, closed_ns)):
            held = arrival_ns[answered & (stream_id == number) & (resolved_ns <= now_ns)]
            ages.append(now_ns + 0.5 - (held.max() if len(held) else opened_ns))
    at_ns, share = age_tail(ages_of(sessions, run, start_ns, end_ns))
    assert at_ns.max() == pytest.approx(900 - 250, rel=0.002)
    for age_ns, part in zip(at_ns.tolist(), share.tolist(), strict=True):
        assert np.mean(np.array(ages) >= age_ns) == pytest.approx(part, abs=0.005)


def test_busiest_window() -> None:
    arrival_ns = np.array([100, 1500, 2100, 2200, 2300, 9000])
    assert busiest_ns(arrival_ns, 0, 10_000, 1000) == 2000
    assert busiest_ns(np.empty(0, np.int64), 500, 10_000, 1000) == 500
