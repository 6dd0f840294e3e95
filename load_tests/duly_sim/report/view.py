"""The view of a simulated run, as the pages of the harness show it."""

from functools import partial

import numpy as np

from duly.core.types import OutcomeStatus
from duly_load.report.page import Column
from duly_load.report.view import Batch, OwnTable, RunView
from duly_sim.simulator.engine import Run
from duly_sim.simulator.results import SimulatedResults, lane_left_ns, outcomes_of
from duly_sim.simulator.world import World


def view_of(policy: str, world: World, run: Run, results: SimulatedResults) -> RunView:
    """The run as a report shows it; `policy` distinguishes it from others on the page."""
    scenario, simulated = world.scenario, world.scenario.to_simulate()
    outcomes = outcomes_of(world, run)
    return RunView(
        policy,
        (
            ("Scenario", scenario.name),
            ("Seed", str(world.seed)),
            ("Models", str(len(simulated.model))),
            ("Lanes", str(len(simulated.lanes))),
        ),
        outcomes,
        results,
        results.batch_size_mean,
        (_lane_time(results),),
        run.batch[outcomes.counted] >= 0,
        partial(_batches, world, run),
        tuple(simulated.lanes),
    )


def _lane_time(results: SimulatedResults) -> OwnTable:
    return OwnTable(
        "Lane time",
        "What the lanes did with their time, which a live target does not report.",
        (
            Column("wasted", "share of the lanes' busy time that went into frames that ended LATE", ".2%", best=-1),
            Column("utilisation", "share of the time that lanes ran batches, mean over the lanes", ".1%"),
        ),
        (results.wasted, results.utilisation_mean),
    )


def _batches(world: World, run: Run, start_ns: int, end_ns: int) -> list[Batch]:
    """The batches that ran between start and end, in order of dispatch."""
    batches, ended_ns = run.batches, lane_left_ns(run)
    ran_late = run.batch[(run.status == OutcomeStatus.LATE) & (run.batch >= 0)]
    late = np.bincount(ran_late, minlength=len(batches.size))
    row = {lane: index for index, lane in enumerate(world.scenario.to_simulate().lanes)}
    return [
        Batch(
            row[lane],
            batches.model[index],
            batches.size[index],
            batches.started_ns[index],
            int(ended_ns[index]),
            batches.size[index],
            int(late[index]),
            batches.ended_ns[index] < 0,
            f"variant {batches.variant[index]}"
            + (f", planned {batches.planned_ns[index] / 1e6:.2f} ms" if batches.planned_ns[index] else ""),
        )
        for index, lane in enumerate(batches.lane)
        if batches.started_ns[index] < end_ns and ended_ns[index] > start_ns
    ]
