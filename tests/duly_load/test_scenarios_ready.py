"""The ready scenarios: each is right as it stands, and asks no more of a machine with two cores than it says."""

from pathlib import Path

import numpy as np
import pytest

from duly_load.scenario.scenario import Scenario, load_scenario
from duly_load.scenario.schedule import schedule_of
from duly_load.scenario.variations import alone

FOLDER = Path(__file__).parents[2] / "load_tests" / "scenarios"
READY = sorted(FOLDER.glob("*.toml"))
FRAMES_PER_S = {
    "one_camera": 30,
    "rig": 251,
    "fraud": 550,
    "bedside": 305,
    "vibration": 800,
    "lane_fault": 80,
}
"""As their comments say."""
STREAMS = {"one_camera": 1, "rig": 10, "fraud": 15, "bedside": 200, "vibration": 500, "lane_fault": 4}


def loaded(name: str) -> Scenario:
    return load_scenario(FOLDER / f"{name}.toml")


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_each_runs_as_it_stands(file: Path) -> None:
    scenario = load_scenario(file)
    assert scenario.name == file.stem
    models = [{model.name for model in section.model} for section in (scenario.serve, scenario.simulate) if section]
    assert {sensor.model for sensor in scenario.stream} in models
    assert all(model.folder is None for model in scenario.serve.model), "models have to come with duly-load itself"
    assert all(sensor.payloads.recording is None for sensor in scenario.stream), "nothing has to be downloaded"
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# "), "says what it is for"


def test_scenarios_are_live_simulated_or_both() -> None:
    scenarios = [load_scenario(file) for file in READY]
    live = {scenario.name for scenario in scenarios if scenario.serve.model}
    simulated = {scenario.name for scenario in scenarios if scenario.simulate}
    assert live & simulated == {"rig", "fraud", "lane_fault"}
    assert simulated - live == {"surge", "variants", "churn", "fused", "idle_gpu"}
    assert len(live) == 10


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_one_stream_of_each_has_frames_after_the_warm_up(file: Path) -> None:
    single = alone(load_scenario(file))
    frames = schedule_of(single, 0)
    assert len({session.name for session in frames.sessions}) == 1
    assert frames.frames.arrival_ns[-1] > single.warm_s * 1e9


@pytest.mark.parametrize("name", FRAMES_PER_S)
def test_the_load_is_what_the_comment_says(name: str) -> None:
    scenario = loaded(name)
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    assert f"{FRAMES_PER_S[name]} frames/s" in text
    frames_per_s = [len(schedule_of(scenario, seed).frames) / scenario.duration_s for seed in range(8)]
    assert np.mean(frames_per_s) == pytest.approx(FRAMES_PER_S[name], rel=0.12)
    assert len({session.name for session in schedule_of(scenario, 0).sessions}) == STREAMS[name]


def test_the_rig_is_the_one_that_its_name_promises() -> None:
    sensors = {sensor.name: sensor for sensor in loaded("rig").stream}
    cameras = [sensor for name, sensor in sensors.items() if name.startswith("camera")]
    rates_hz = {name: sensor.arrivals.frames_expected(1.0) for name, sensor in sensors.items()}
    assert sum(camera.count for camera in cameras) == 6
    assert all(10 <= rates_hz[camera.name] <= 30 for camera in cameras)
    assert (rates_hz["lidar"], rates_hz["radar"], rates_hz["imu"], rates_hz["audio"]) == (10, 20, 100, 31)
    assert len({sensor.stream_class for sensor in sensors.values()}) == 3
    assert len({sensor.backlog_policy for sensor in sensors.values()}) == 3


def test_lane_fault_kills_one_worker_and_hangs_another_on_a_lane_of_its_own_in_either_world() -> None:
    scenario = loaded("lane_fault")
    live = {fault.kind: (fault.lane, fault.at_s) for fault in scenario.serve.fault}
    simulated = {fault.kind: (fault.lane, fault.at_s) for fault in scenario.to_simulate().fault}
    assert live == simulated
    assert set(live) == {"die", "hang"}
    assert live["die"][0] != live["hang"][0]
