"""A lane whose device slows down when it idles: what running zeros in between is worth, and when it is worth less."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from duly.core.scheduler import Scheduler
from duly.core.types import OutcomeStatus
from duly.worker.providers import WARM_AFTER_NS
from duly_load.scenario.scenario import Scenario, load_scenario
from duly_sim.simulator.world import build

SCENARIO = Path(__file__).parents[2] / "load_tests/scenarios/idle_gpu.toml"


@dataclass
class Share:
    on_time: float
    """Of the model's frames."""
    zeros: float
    """Of the time of the model's lane."""


def shares(scenario: Scenario, seed: int) -> dict[str, Share]:
    world = build(scenario, seed)
    run = world.run(Scheduler())
    found = {}
    for session in world.sessions:
        of_model = run.status[run.frames.stream_id == session.stream_id]
        batches = run.batches
        zeros_ns = sum(
            batches.ended_ns[index] - batches.started_ns[index]
            for index, size in enumerate(batches.size)
            if size == 0 and batches.model[index] == session.model
        )
        on_time = float((of_model == OutcomeStatus.ON_TIME).mean())
        found[session.model] = Share(on_time, zeros_ns / (scenario.duration_s * 1e9))
    return found


def test_the_scenario_warms_when_the_worker_says_so() -> None:
    given = load_scenario(SCENARIO).to_simulate()
    assert [model.warm_after_s for model in given.model] == [WARM_AFTER_NS / 1e9, 0]


@pytest.mark.parametrize("seed", range(5))
def test_rare_frames_are_in_time_where_the_lane_is_kept_warm_and_half_of_them_where_it_is_not(seed: int) -> None:
    found = shares(load_scenario(SCENARIO), seed)
    assert found["kept_warm"].on_time == 1
    assert 0.4 < found["left_alone"].on_time < 0.7
    assert 0 < found["kept_warm"].zeros < 0.0015
    assert found["left_alone"].zeros == 0


def test_a_device_that_slows_down_sooner_than_zeros_come_is_helped_only_in_part() -> None:
    scenario = load_scenario(SCENARIO)
    simulate = scenario.to_simulate()
    noise = simulate.noise.model_copy(update={"wake_after_ms": 500.0})
    sooner = scenario.model_copy(update={"simulate": simulate.model_copy(update={"noise": noise})})
    found = shares(sooner, 0)
    assert found["left_alone"].on_time < found["kept_warm"].on_time < 0.8
