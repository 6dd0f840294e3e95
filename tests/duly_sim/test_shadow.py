"""A shadow on all results of a rig costs nobody anything: the frames come out as they do without it."""

from pathlib import Path

import numpy as np
import pytest

from duly.core.scheduler import Scheduler
from duly.core.types import OutcomeStatus
from duly_load.scenario.scenario import load_scenario
from duly_sim.simulator.shadow import shadowed
from duly_sim.simulator.world import build

SCENARIOS = Path(__file__).parents[2] / "load_tests" / "scenarios"


@pytest.mark.parametrize("seed", range(3))
def test_a_shadow_on_all_frames_of_a_rig_causes_no_miss(seed: int) -> None:
    rig = load_scenario(SCENARIOS / "rig.toml").model_copy(update={"duration_s": 12.0})
    without = build(rig, seed).run(Scheduler())
    world, shadow = shadowed(build(rig, seed), Scheduler())
    beside = world.run(shadow)
    assert shadow.ran > 500, "the shadow had its runs"
    missed = (without.status == OutcomeStatus.ON_TIME) & (beside.status != OutcomeStatus.ON_TIME)
    assert int(missed.sum()) == 0
    assert np.array_equal(without.status, beside.status)
    later_ns = beside.resolved_ns - without.resolved_ns
    assert float(np.mean(later_ns > 0)) < 0.001, "runs that took longer than any before may delay a frame or two"


def test_where_there_is_no_time_to_spare_none_is_taken() -> None:
    surge = load_scenario(SCENARIOS / "surge.toml").model_copy(update={"duration_s": 12.0})
    without = build(surge, 0).run(Scheduler())
    world, shadow = shadowed(build(surge, 0), Scheduler())
    beside = world.run(shadow)
    assert np.array_equal(without.status, beside.status)
    assert shadow.ran < len(without.status) / 100
