"""The ready scenarios: each is right as it stands, and asks no more of a machine with two cores than it says."""

from pathlib import Path

import numpy as np
import pytest

from duly_load.scenario.live import LiveScenario, alone, load_live
from duly_load.scenario.schedule import Schedule, schedule, steps_of

FOLDER = Path(__file__).parents[2] / "load_tests" / "scenarios"
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


def loaded(name: str) -> LiveScenario:
    return load_live(FOLDER / f"{name}.toml")


def planned(scenario: LiveScenario, seed: int) -> Schedule:
    return schedule(scenario.stream, round(scenario.duration_s * 1e9), steps_of(scenario.load_step), seed)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.toml")), ids=lambda file: file.stem)
def test_each_runs_as_it_stands(file: Path) -> None:
    scenario = load_live(file)
    assert scenario.name == file.stem
    assert {sensor.model for sensor in scenario.stream} == {model.name for model in scenario.model}
    assert all(model.folder is None for model in scenario.model), "models have to come with duly-load itself"
    assert all(sensor.payloads.recording is None for sensor in scenario.stream), "nothing has to be downloaded"
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# "), "says what it is for"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.toml")), ids=lambda file: file.stem)
def test_one_stream_of_each_has_frames_after_the_warm_up(file: Path) -> None:
    single = alone(load_live(file))
    frames = planned(single, 0)
    assert len({session.name for session in frames.sessions}) == 1
    assert frames.frames.arrival_ns[-1] > single.warm_s * 1e9


@pytest.mark.parametrize("name", FRAMES_PER_S)
def test_the_load_is_what_the_comment_says(name: str) -> None:
    scenario = loaded(name)
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    assert f"{FRAMES_PER_S[name]} frames/s" in text
    frames_per_s = [len(planned(scenario, seed).frames) / scenario.duration_s for seed in range(8)]
    assert np.mean(frames_per_s) == pytest.approx(FRAMES_PER_S[name], rel=0.12)
    assert len({session.name for session in planned(scenario, 0).sessions}) == STREAMS[name]


@pytest.mark.parametrize("name", FRAMES_PER_S)
def test_equal_seeds_give_equal_schedules_and_others_do_not(name: str) -> None:
    scenario = loaded(name)
    first, again, other = (planned(scenario, seed) for seed in (5, 5, 6))
    assert first.sessions == again.sessions
    for part in ("arrival_ns", "deadline_ns", "stream_id"):
        np.testing.assert_array_equal(getattr(first.frames, part), getattr(again.frames, part))
    assert not np.array_equal(first.frames.arrival_ns, other.frames.arrival_ns)


def test_the_rig_is_the_one_that_its_name_promises() -> None:
    sensors = {sensor.name: sensor for sensor in loaded("rig").stream}
    cameras = [sensor for name, sensor in sensors.items() if name.startswith("camera")]
    rates_hz = {name: sensor.arrivals.frames_expected(1.0) for name, sensor in sensors.items()}
    assert sum(camera.count for camera in cameras) == 6
    assert all(10 <= rates_hz[camera.name] <= 30 for camera in cameras)
    assert (rates_hz["lidar"], rates_hz["radar"], rates_hz["imu"], rates_hz["audio"]) == (10, 20, 100, 31)
    assert len({sensor.stream_class for sensor in sensors.values()}) == 3
    assert len({sensor.backlog_policy for sensor in sensors.values()}) == 3


def test_lane_fault_kills_one_worker_and_hangs_another_on_a_lane_of_its_own() -> None:
    faults = {fault.kind: fault for fault in loaded("lane_fault").fault}
    assert set(faults) == {"die", "hang"}
    assert faults["die"].lane != faults["hang"].lane
