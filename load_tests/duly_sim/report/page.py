"""The report: simulated runs, or goodput against load, as one HTML file that opens offline.

All numbers and pictures leave out what happened before the scenario's warm-up was over.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from duly_load.report.figures import against_load
from duly_load.report.page import Column, Picture, Table, render
from duly_sim.report.pictures import pictures
from duly_sim.report.tables import Entry, tables

Points = list[tuple[float, float, float, float]]
"""(load, least, median, greatest goodput) of the runs of one policy."""


def write(path: Path, title: str, entries: list[Entry]) -> None:
    """One page about the runs of one scenario under several policies, in the order given.

    The folder of `path` must exist. Raises ValueError where there are no entries, ModuleNotFoundError without plotly.
    """
    if not entries:
        raise ValueError("a report should have at least one run, got none")
    path.write_text(render(title, _facts(entries), tables(entries), pictures(entries)), "utf-8")


def write_curves(
    path: Path, title: str, curves: list[tuple[str, Points]], load: str = "offered load (frames/s)"
) -> None:
    """One page of goodput against load: a line for each policy, with the spread of its runs, and the numbers.

    The folder of `path` must exist. Raises ValueError where there is nothing to draw, ModuleNotFoundError without
    plotly.
    """
    if not curves or not all(points for _, points in curves):
        raise ValueError(f"every policy should have at least one point, got {[len(points) for _, points in curves]}")
    loads = sorted({point[0] for _, points in curves for point in points})
    medians = [(policy, {at: median for at, _, median, _ in points}) for policy, points in curves]
    table = Table(
        "Median goodput",
        f"On-time predictions per second by {load}; the best policy of each column stands out.",
        "policy",
        tuple(Column(f"{at:,.6g}", f"{load}: {at:,.6g}", ",.1f", best=1) for at in loads),
        [(policy, tuple(median.get(at) for at in loads)) for policy, median in medians],
    )
    picture = Picture(
        "Goodput against load",
        "Lines are medians over the runs at a load, bands go from the least to the greatest. Where a line bends away "
        "from the others it starts to miss; one that falls serves frames that are lost already.",
        against_load(curves, load, "goodput (frames/s)", "%{y:,.4~g}/s"),
    )
    path.write_text(render(title, [("Policies", str(len(curves)))], [table], [picture]), "utf-8")


def _facts(entries: list[Entry]) -> list[tuple[str, str]]:
    worlds = [world for _, world, _, _ in entries]
    scenario = worlds[0].scenario
    counted = [int(np.sum(world.frames.arrival_ns >= scenario.warm_s * 1e9)) for world in worlds]
    return [
        ("Scenario", _each(world.scenario.name for world in worlds)),
        ("Seed", _each(world.seed for world in worlds)),
        ("Time counted", f"{scenario.warm_s:g} s to {scenario.duration_s:g} s"),
        ("Frames counted", _each(f"{frames:,}" for frames in counted)),
        ("Streams", _each(len({session.name for session in world.sessions}) for world in worlds)),
        ("Models", str(len(scenario.to_simulate().model))),
        ("Lanes", str(len(scenario.to_simulate().lanes))),
        ("Policies", str(len(entries))),
    ]


def _each(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))
