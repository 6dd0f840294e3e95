"""How much of the grid is run, and its rows in order."""

from collections.abc import Callable
from itertools import product
from typing import get_args

from duly_sim.research.grid.admission import admission
from duly_sim.research.grid.alternation import alternation
from duly_sim.research.grid.capacity import capacity
from duly_sim.research.grid.cells import ArrivalKind, Cell, TableName
from duly_sim.research.grid.classes import classes
from duly_sim.research.grid.collapse import no_collapse
from duly_sim.research.grid.cost import cost
from duly_sim.research.grid.freshness import calm, fresh
from duly_sim.research.grid.judge import Effort, Measure, Row
from duly_sim.research.grid.optimum import near_optimum
from duly_sim.research.grid.random_loads import random_loads
from duly_sim.research.grid.variants import variants
from duly_sim.research.grid.waste import little_wasted

ROWS: dict[int, Callable[[Effort, Measure], Row]] = {
    1: capacity,
    2: near_optimum,
    3: no_collapse,
    4: little_wasted,
    5: classes,
    6: admission,
    7: variants,
    8: fresh,
    9: calm,
    10: cost,
    12: random_loads,
    13: alternation,
}

ALL_CELLS = tuple(
    Cell(lanes, models, arrivals, table)
    for table, arrivals, lanes, models in product(
        get_args(TableName), get_args(ArrivalKind), (1, 2, 4, 8), (1, 2, 6, 8)
    )
)
SHORT_CELLS = (Cell(1, 1), Cell(1, 6), Cell(4, 2, "mmpp"), Cell(4, 1, "periodic"), Cell(2, 2, table="a100_resnet50"))

EFFORTS = {
    "short": Effort(
        "short",
        seeds=2,
        seconds=8.0,
        frames_max=8_000,
        cells=SHORT_CELLS,
        search_frames=5_000,
        tuning_frames=2_500,
        critical_frames=50_000,
        hard_sets=50,
        random_loads=30,
        turns=200,
    ),
    "medium": Effort(
        "medium",
        seeds=3,
        seconds=20.0,
        frames_max=10_000,
        cells=ALL_CELLS,
        search_frames=5_000,
        tuning_frames=2_500,
        critical_frames=300_000,
        hard_sets=200,
        random_loads=120,
        turns=300,
    ),
    "full": Effort(
        "full",
        seeds=5,
        seconds=60.0,
        frames_max=10_000_000,
        cells=ALL_CELLS,
        search_frames=20_000,
        tuning_frames=4_000,
        critical_frames=3_000_000,
        hard_sets=1_000,
        random_loads=1_000,
        turns=340,
    ),
}
