"""Scenarios: what a TOML file may say, and how each mistake in it is told."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duly.core.types import BacklogPolicy, StreamClass
from duly_load.scenario.parsing import ScenarioError
from duly_load.scenario.scenario import Scenario, load_scenario, parse_scenario

SMALL: dict[str, Any] = {
    "name": "small",
    "duration_s": 10,
    "warm_s": 1,
    "serve": {"model": [{"name": "detector", "graph": "mlp"}]},
    "simulate": {
        "lane": [{"name": "gpu", "count": 2}],
        "model": [
            {
                "name": "detector",
                "batch_max": 8,
                "variants": [
                    {"name": "fp32", "table": "t4_resnet50", "scale": 2},
                    {"name": "int8", "times_ms": {"1": 1, "8": 4}},
                ],
            }
        ],
    },
    "stream": [
        {"name": "camera", "model": "detector", "budget_ms": 30, "arrivals": {"kind": "periodic", "rate_hz": 30}},
        {"name": "batch", "model": "detector", "budget_ms": 90, "arrivals": {"kind": "poisson", "rate_hz": 9}},
    ],
}


def parse(content: dict[str, Any], folder: Path = Path(".")) -> Scenario:
    return parse_scenario(content, "s.toml", folder)


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    content = copy.deepcopy(SMALL)
    change(content)
    return content


def at(content: dict[str, Any], place: str) -> Any:
    for part in place.split("."):
        content = content[int(part) if part.isdigit() else part]  # type: ignore[index]
    return content


def test_what_is_said_and_what_is_left_out() -> None:
    scenario = parse(SMALL)
    assert scenario.to_simulate().lanes == ("gpu:0", "gpu:1")
    camera = scenario.stream[0]
    assert (camera.stream_class, camera.backlog_policy, camera.backlog_frames) == (
        StreamClass.STANDARD,
        BacklogPolicy.LATEST,
        1,
    )
    assert scenario.to_simulate().model[0].variants[0].times_ns(2) == (6_000_000, 7_833_333)
    assert scenario.to_simulate().model[0].variants[1].times_ns(8)[-1] == 4_000_000


@pytest.mark.parametrize(
    ("backlog", "policy", "frames"),
    [
        ("LATEST", BacklogPolicy.LATEST, 1),
        ("KEEP_LAST:7", BacklogPolicy.KEEP_LAST, 7),
        ("ALL", BacklogPolicy.ALL, 0),
    ],
)
def test_backlog_policies(backlog: str, policy: BacklogPolicy, frames: int) -> None:
    stream = parse(changed(lambda content: content["stream"][0].update(backlog=backlog))).stream[0]
    assert (stream.backlog_policy, stream.backlog_frames) == (policy, frames)


def test_names_of_several() -> None:
    scenario = parse(changed(lambda content: content["stream"][0].update(count=3)))
    assert scenario.stream[0].names == ("camera-0", "camera-1", "camera-2")
    assert scenario.stream[1].names == ("batch",)
    assert parse(changed(lambda content: content["simulate"].update(lane=[{"name": "cpu"}]))).to_simulate().lanes == (
        "cpu",
    )


def test_linear_and_measured_times(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps({"planned_ms": {"1": 3.0, "8": 10.0}}), encoding="utf-8")
    ways = [{"name": "a", "linear": {"first_ms": 2, "next_ms": 0.5}}, {"name": "b", "measured": "m.json"}]
    variants = (
        parse(changed(lambda content: content["simulate"]["model"][0].update(variants=ways)), tmp_path)
        .to_simulate()
        .model[0]
        .variants
    )
    assert variants[0].times_ns(3) == (2_000_000, 2_500_000, 3_000_000)
    assert variants[1].times_ns(8) == tuple(range(3_000_000, 11_000_000, 1_000_000))


BAD: list[tuple[str, dict[str, Any], str]] = [
    # place of the table, what is put into it, the line that is told
    (
        "",
        {"speed": 1},
        "speed: unknown key; should be name, duration_s, warm_s, scale, stream, load_step, serve or simulate",
    ),
    ("", {"duration_s": 0}, "duration_s: should be greater than 0, got 0"),
    ("", {"duration_s": 1e9}, "duration_s: should be less than or equal to 86400, got 1000000000.0"),
    ("", {"warm_s": 10}, "warm_s: should be less than duration_s, which is 10, got 10"),
    ("simulate", {"lane": []}, "simulate.lane: should be there at least once"),
    ("", {"stream": 3}, "stream: should be an array, got 3"),
    ("simulate", {"noise": 3}, "simulate.noise: should be a table, got 3"),
    ("simulate", {"noise": {"cv": 0.1, "bound": 0.1}}, "simulate.noise: should have cv or bound, not both"),
    (
        "simulate",
        {"noise": {"spike_probability": 2}},
        "simulate.noise.spike_probability: should be less than or equal to 1, got 2",
    ),
    (
        "simulate",
        {"lane": [{"name": "a"}, {"name": "a"}]},
        "simulate.lane: should name each once, 'a' is there 2 times",
    ),
    ("simulate.lane.0", {"count": 65}, "simulate.lane[0].count: should be less than or equal to 64, got 65"),
    (
        "simulate",
        {"lane": [{"name": "a", "count": 40}, {"name": "b", "count": 40}]},
        "simulate.lane: should be at most 64 in all, are 80",
    ),
    (
        "simulate.model.0",
        {"lanes": ["gpu:7"]},
        "simulate.model[0].lanes: no lane is named 'gpu:7'; should be gpu:0 or gpu:1",
    ),
    ("simulate.model.0", {"variants": []}, "simulate.model[0].variants: should be there at least once"),
    (
        "simulate.model.0",
        {"batch_max": 64, "variants": [{"table": "t4_resnet50"}]},
        "simulate.model[0].variants[0]: does not cover batch_max, which is 64: "
        "a table should hold sizes 1 to 64, got [1, 4, 8, 16, 32]",
    ),
    (
        "simulate.model.0.variants.1",
        {"times_ms": {"2": 1, "8": 2}},
        "simulate.model[0].variants[1]: does not cover batch_max, which is 8: "
        "a table should hold sizes 1 to 8, got [2, 8]",
    ),
    (
        "simulate.model.0.variants.1",
        {"times_ms": {"1": 0}},
        "simulate.model[0].variants[1].times_ms.1: should be greater than 0, got 0",
    ),
    (
        "simulate.model.0.variants.1",
        {"name": "fp32"},
        "simulate.model[0].variants: should name each once, 'fp32' is there 2 times",
    ),
    (
        "simulate.model.0.variants.0",
        {"linear": {"first_ms": 1, "next_ms": 1}},
        "simulate.model[0].variants[0]: should have exactly one of table, times_ms, linear and measured",
    ),
    (
        "simulate.model.0.variants.0",
        {"table": "h100"},
        "simulate.model[0].variants[0].table: should be 't4_resnet50', 'a100_resnet50' or 'v100_resnet50', got 'h100'",
    ),
    (
        "simulate.model.0.variants.0",
        {"table": None, "linear": {"first_ms": 1}},
        "simulate.model[0].variants[0].linear.next_ms: is required",
    ),
    (
        "simulate.model.0.variants.0",
        {"table": None, "measured": "none.json"},
        "simulate.model[0].variants[0].measured: can't be read: No such file or directory, got 'none.json'",
    ),
    ("stream.1", {"name": "camera"}, "stream: should name each once, 'camera' is there 2 times"),
    (
        "simulate",
        {"speed": 1},
        "simulate.speed: unknown key; should be noise, lane, model or fault",
    ),
    ("serve", {"lanes": ["a", "a"]}, "serve.lanes: should name each once, 'a' is there 2 times"),
    (
        "serve.model.0",
        {"dense": {"width": 4}},
        "serve.model[0]: should have exactly one of graph, dense and folder",
    ),
    (
        "serve",
        {"fault": [{"lane": "gpu:0", "kind": "die", "at_s": 2}]},
        "serve.fault[0].lane: no lane is named 'gpu:0'; should be cpu:0",
    ),
    (
        "serve",
        {"fault": [{"lane": "cpu:0", "kind": "die", "at_s": 2, "back_s": 3}]},
        "serve.fault[0].back_s: should not be there, a worker that was killed is replaced by its server",
    ),
    (
        "serve",
        {"fault": [{"lane": "cpu:0", "kind": "hang", "at_s": 2, "back_s": 10}]},
        "serve.fault[0].back_s: should be less than duration_s, which is 10, got 10",
    ),
    (
        "stream.0",
        {"payloads": {"topic": "/camera"}},
        "stream[0].payloads.topic: goes with a recording that is an .mcap",
    ),
    ("stream.1", {"budget_ms": -5}, "stream[1].budget_ms: should be greater than 0, got -5"),
    ("stream.1", {"budget_ms": float("nan")}, "stream[1].budget_ms: should be a finite number, got nan"),
    ("stream.1", {"class": "URGENT"}, "stream[1].class: should be CRITICAL, STANDARD or BEST_EFFORT, got 'URGENT'"),
    (
        "stream.1",
        {"backlog": "KEEP_LAST"},
        "stream[1].backlog: should be LATEST, KEEP_LAST:n with n from 1 to 99999, or ALL, got 'KEEP_LAST'",
    ),
    (
        "stream.1",
        {"floor": [4, 4]},
        "stream[1].floor: should be [m, k] with 1 <= m < k <= 1024: m of any k consecutive frames on time",
    ),
    ("stream.1", {"to_s": 11}, "stream[1].to_s: should be at most duration_s, which is 10, got 11"),
    ("stream.1", {"from_s": 10}, "stream[1].from_s: should be less than to_s, which is 10, got 10"),
    (
        "stream.1",
        {"variant_lowest": "int4"},
        "stream[1].variant_lowest: detector has no variant 'int4'; should be fp32 or int8",
    ),
    ("stream.1", {"count": 65_536}, "stream: should be at most 65536 in all, are 65537"),
    ("stream.1", {"churn": {"lifetime_s": 1}}, "stream[1].churn.gap_s: is required"),
    ("stream.1", {"network": {"jitter": 1}}, "stream[1].network.jitter: unknown key; should be delay_ms or jitter_ms"),
    (
        "stream.1",
        {"arrivals": {"rate_hz": 9}},
        "stream[1].arrivals.kind: is required; should be periodic, poisson, gamma, mmpp, on_off or trace",
    ),
    (
        "stream.1.arrivals",
        {"kind": "pareto"},
        "stream[1].arrivals.kind: should be periodic, poisson, gamma, mmpp, on_off or trace, got 'pareto'",
    ),
    ("stream.1.arrivals", {"rate_hz": 0}, "stream[1].arrivals.rate_hz: should be greater than 0, got 0"),
    ("stream.1.arrivals", {"cv": 3}, "stream[1].arrivals.cv: unknown key; should be rate_hz or kind"),
    (
        "stream.1.arrivals",
        {"kind": "gamma", "cv": 9},
        "stream[1].arrivals.cv: should be less than or equal to 8, got 9",
    ),
    (
        "stream.0.arrivals",
        {"phase": "late"},
        "stream[0].arrivals.phase: should be random, locked or the first capture in ms, got 'late'",
    ),
    (
        "stream.0.arrivals",
        {"phase": 40},
        "stream[0].arrivals.phase: should be less than the period, which is 33.3333 ms, got 40",
    ),
    ("stream.0.arrivals", {"loss": 1}, "stream[0].arrivals.loss: should be less than 1, got 1"),
    (
        "simulate",
        {"fault": [{"lane": "gpu:9", "kind": "die", "at_s": 2, "back_s": 3}]},
        "simulate.fault[0].lane: no lane is named 'gpu:9'; should be gpu:0 or gpu:1",
    ),
    (
        "simulate",
        {"fault": [{"lane": "gpu:0", "kind": "hang", "at_s": 2, "back_s": 2.05}]},
        "simulate.fault[0].back_s: should be later than the fault is noticed, which is at 2.1, got 2.05",
    ),
    (
        "simulate",
        {
            "fault": [
                {"lane": "gpu:0", "kind": "die", "at_s": 2, "back_s": 4},
                {"lane": "gpu:0", "kind": "die", "at_s": 3, "back_s": 5},
            ]
        },
        "simulate.fault[1].at_s: should be later than back_s of the lane's fault before and less than duration_s, "
        "which is 10, got 3",
    ),
    (
        "",
        {"load_step": [{"at_s": 4, "factor": 2}, {"at_s": 4, "factor": 1}]},
        "load_step[1].at_s: should be later than the step before and less than duration_s, which is 10, got 4",
    ),
    ("", {"load_step": [{"at_s": 4, "factor": 0}]}, "load_step[0].factor: should be greater than 0, got 0"),
    (
        "",
        {"duration_s": 1000, "load_step": [{"at_s": 4, "factor": 1000}]},
        "stream: should send at most 20000000 frames in all, would send up to 39000000",
    ),
]


@pytest.mark.parametrize(("place", "table", "line"), BAD)
def test_a_mistake_is_told_with_its_place_and_what_would_be_right(place: str, table: dict[str, Any], line: str) -> None:
    content = copy.deepcopy(SMALL)
    (at(content, place) if place else content).update(table)
    with pytest.raises(ScenarioError) as caught:
        parse(content)
    assert str(caught.value).splitlines() == [f"s.toml: {line}"]


def test_all_mistakes_are_told_at_once() -> None:
    content = changed(lambda content: [content["stream"][nth].update(budget_ms=0) for nth in (0, 1)])
    with pytest.raises(ScenarioError) as caught:
        parse(content)
    assert [line.split(":")[1].strip() for line in str(caught.value).splitlines()] == [
        "stream[0].budget_ms",
        "stream[1].budget_ms",
    ]


@pytest.mark.parametrize("table", [{"table": "t4_resnet50"}, {"planned_ms": 3}, {"planned_ms": {"one": 3}}, []])
def test_a_measured_file_that_is_wrong_is_told(tmp_path: Path, table: object) -> None:
    (tmp_path / "m.json").write_text(json.dumps(table), encoding="utf-8")
    content = changed(lambda content: content["simulate"]["model"][0].update(variants=[{"measured": "m.json"}]))
    with pytest.raises(ScenarioError, match=r"simulate\.model\[0\]\.variants\[0\]\.measured.*should be"):
        parse(content, tmp_path)


def test_files_that_are_no_scenario(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"none\.toml: can't be read: No such file"):
        load_scenario(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"bad\.toml: not valid TOML: Invalid value"):
        load_scenario(tmp_path / "bad.toml")


def test_files_are_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("0.1\n0.2\n", encoding="utf-8")
    content = changed(lambda content: content["stream"][0].update(arrivals={"kind": "trace", "file": "trace.csv"}))
    assert parse(content, tmp_path).stream[0].arrivals.frames_expected(10) == 2
    with pytest.raises(ScenarioError, match=r"stream\[0\]\.arrivals\.file: can't be read"):
        parse(content)


def test_a_model_has_to_be_in_each_section_that_there_is() -> None:
    content = changed(lambda content: content["stream"][0].update(model="x"))
    with pytest.raises(ScenarioError) as caught:
        parse(content)
    assert [line.partition(" is named")[0] for line in str(caught.value).splitlines()] == [
        "s.toml: stream[0].model: no model of [serve]",
        "s.toml: stream[0].model: no model of [simulate]",
    ]
    del content["serve"], content["simulate"]
    assert parse(content).stream[0].model == "x"


def test_what_is_not_there_can_not_be_simulated() -> None:
    with pytest.raises(ScenarioError, match="small: simulate: is required"):
        parse(changed(lambda content: content.pop("simulate"))).to_simulate()
