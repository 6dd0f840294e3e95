"""What a model says of the next seconds, as way points in the rig frame: x ahead, y left, in metres, and when.

Nothing here does I/O, and nothing knows the simulator's types.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duly_client import Chunk, TensorSpec
from duly_client.convert import Array

POINTS_MAX = 1024
"""A plan of more way points is cut off there."""
BRAKING_STEP_US = 100_000


class BadPlan(Exception):
    """What is wrong with what a model gave."""


@dataclass(frozen=True, slots=True)
class Point:
    at_us: int
    """On the simulation's clock."""
    x_m: float
    y_m: float
    yaw_rad: float


def points_of(plan: Array, chunk: Chunk, now_us: int) -> list[Point]:
    """Returns the way points of a plan of the shape [n, 2], x and y, or [n, 3], with the heading. Where it has none,
    the vehicle heads where it goes. Those that are not after `now_us`, the time of the observation, are left out.
    Raises BadPlan.
    """
    if plan.ndim != 2 or plan.shape[1] not in (2, 3):
        raise BadPlan(f"the plan has the shape {list(plan.shape)}, expected [n, 2] (x, y) or [n, 3] (x, y, heading)")
    rows = plan[:POINTS_MAX].astype(np.float64)
    if not np.isfinite(rows).all():
        raise BadPlan("the plan has NaN or infinities")
    yaws = rows[:, 2] if rows.shape[1] == 3 else _headings(rows)
    points: list[Point] = []
    for nth, (row, yaw) in enumerate(zip(rows, yaws, strict=True)):
        at_us = now_us + (chunk.t0_ns + nth * chunk.dt_ns) // 1000
        if at_us > now_us and (not points or at_us > points[-1].at_us):
            points.append(Point(at_us, float(row[0]), float(row[1]), float(yaw)))
    if not points:
        raise BadPlan("the plan has no way point after the observation")
    return points


def _headings(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The direction of the way to each point from the one before; where it hardly moves, that of before."""
    way = np.diff(rows, axis=0, prepend=np.zeros((1, 2)))
    yaws, yaw = [], 0.0
    for x, y in way:
        if x * x + y * y > 1e-6:
            yaw = math.atan2(y, x)
        yaws.append(yaw)
    return np.array(yaws)


def braking(speed_mps: float, brake_mps2: float, now_us: int) -> list[Point]:
    """Returns the way points of a vehicle that brakes straight on; none where it stands."""
    points: list[Point] = []
    speed, x, at_us = speed_mps, 0.0, now_us
    step_s = BRAKING_STEP_US / 1e6
    while speed > 0.01 and len(points) < POINTS_MAX:
        slower = max(0.0, speed - brake_mps2 * step_s)
        x += (speed + slower) / 2 * step_s
        speed, at_us = slower, at_us + BRAKING_STEP_US
        points.append(Point(at_us, x, 0.0, 0.0))
    return points


def route_rows(route: NDArray[Any], spec: TensorSpec) -> Array:
    """Returns the route's way points as the input takes them, [n, 2] or [n, 3]: a longer route is cut off, a
    shorter one goes on with its last point. Raises BadPlan where it is empty, or the input no such array.
    """
    if len(spec.shape) != 2 or spec.shape[1] not in (2, 3):
        raise BadPlan(f"input {spec.name!r} takes {list(spec.shape)}; a route is [n, 2] or [n, 3]")
    if not len(route):
        raise BadPlan("there is no route yet")
    count = spec.shape[0] if spec.shape[0] >= 0 else min(len(route), POINTS_MAX)
    rows = route[:count, : spec.shape[1]]
    missing = count - len(rows)
    if missing:
        rows = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
    return np.ascontiguousarray(rows, spec.dtype)
