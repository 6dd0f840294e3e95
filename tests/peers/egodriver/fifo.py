"""A policy server as carla-driver-interface makes them, whose policy takes its time: first come, first served.

    python fifo.py 0.05

It drives as the model of tests/peers/egodriver/test_fake_loop.py does, by the route, and takes so many seconds for each
plan, one after another. It imports nothing of duly.
"""

import queue
import sys
import threading
import time

import numpy as np
from carla_driver_interface.driver import BaseDriver, DriveContext, DriveResult
from carla_driver_interface.geometry import Pose, Trajectory
from carla_driver_interface.server import serving

SPEED_MPS, DT_S, POINTS, SETTLE_S = 8.0, 0.1, 40, 0.5
THREADS = 2048


class Fifo(BaseDriver):
    name = "fifo"

    def __init__(self, takes_s: float) -> None:
        self._takes_s = takes_s
        self._waiting: queue.Queue[threading.Event] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            turn = self._waiting.get()
            time.sleep(self._takes_s)
            turn.set()

    def drive(self, ctx: DriveContext) -> DriveResult:
        route = ctx.session.route_waypoints_in_rig.copy()  # what it saw when it was asked
        turn = threading.Event()
        self._waiting.put(turn)
        turn.wait()
        times = np.arange(1, POINTS + 1) * DT_S
        ahead = SPEED_MPS * times
        left = np.interp(ahead, route[:, 0], route[:, 1]) * (1 - np.exp(-times / SETTLE_S))
        headings = np.arctan2(np.diff(left, prepend=0.0), np.diff(ahead, prepend=0.0))
        plan = Trajectory.empty()
        for time_s, x, y, yaw in zip(times, ahead, left, headings, strict=True):
            plan.append(ctx.time_now_us + round(time_s * 1e6), Pose.from_xyz_yaw(x, y, 0.0, yaw))
        return DriveResult(trajectory_in_rig=plan)


with serving(Fifo(float(sys.argv[1])), port=0, host="127.0.0.1", max_workers=THREADS) as port:
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
