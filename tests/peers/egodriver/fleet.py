"""Vehicles on the FakeLoop of carla-driver-interface, all at once and in real time, in the environment of that package.

    python fleet.py TARGET --vehicles 12 --steps 40 --step-s 0.2 --seed 1

Each vehicle is a FakeLoop as it comes with the package, over a channel that keeps real time: a step lasts as long as it
says, and a vehicle whose plan has not come by then goes on with the newest that has. That is what a vehicle on the road
does, and a simulation that waits for nobody. It prints, for each vehicle, how far it was from the centre of its lane.
It imports nothing of duly.
"""

import argparse
import json
import random
import threading
import time
from typing import Any

import grpc
from carla_driver_interface.protocol import DriveResponse, channel_options
from carla_driver_interface.testing import FakeCamera, FakeLoop

CAMERA = FakeCamera(width=64, height=36)
DRIVE = "/egodriver.EgodriverService/drive"


class Drive:
    """The call `drive` of one vehicle. Each lasts one step."""

    def __init__(self, inner: Any, step_s: float) -> None:
        self._inner = inner
        self._step_s = step_s
        self._lock = threading.Lock()
        self._newest_us = -1
        self._newest = DriveResponse()  # an empty plan: the vehicle holds
        self._due_s = 0.0
        self.came_in_time = 0

    def __call__(self, request: Any, timeout: Any = None, metadata: Any = None) -> Any:
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s) + self._step_s if self._due_s else now_s + self._step_s
        asked_us = request.time_now_us
        answer = self._inner.future(request, timeout=120, metadata=metadata)
        answer.add_done_callback(lambda done: self._came(asked_us, done))
        while (left_s := self._due_s - time.monotonic()) > 0:
            time.sleep(left_s)
        with self._lock:
            self.came_in_time += self._newest_us == asked_us
            return self._newest

    def _came(self, asked_us: int, answer: Any) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return
        with self._lock:
            if asked_us > self._newest_us:
                self._newest_us, self._newest = asked_us, answer.result()


class RealTime(grpc.Channel):
    """A channel on which `drive` lasts one step."""

    def __init__(self, channel: grpc.Channel, step_s: float) -> None:
        self._channel = channel
        self._step_s = step_s
        self.drive: Drive | None = None

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        inner = self._channel.unary_unary(method, *args, **kwargs)
        if method != DRIVE:
            return inner
        self.drive = Drive(inner, self._step_s)
        return self.drive

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.unary_stream(*args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.stream_unary(*args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.stream_stream(*args, **kwargs)

    def subscribe(self, *args: Any, **kwargs: Any) -> None:
        self._channel.subscribe(*args, **kwargs)

    def unsubscribe(self, callback: Any) -> None:
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        self._channel.close()


def vehicle(target: str, steps: int, step_s: float, seed: int, told: list[dict[str, Any]]) -> None:
    chance = random.Random(seed)
    time.sleep(chance.uniform(0, step_s))  # not all at once
    with grpc.insecure_channel(target, options=channel_options()) as plain:
        channel = RealTime(plain, step_s)
        loop = FakeLoop(
            channel,
            [CAMERA],
            step_s=step_s,
            initial_lateral_offset_m=chance.uniform(-0.05, 0.05),
            initial_heading_rad=chance.uniform(-0.01, 0.01),
            timeout_s=120,
        )
        result = loop.run(steps, seed=seed)
        assert channel.drive is not None
        told.append(
            {
                "seed": seed,
                "lateral_m": float(abs(result.lateral_offsets_m).max()),
                "answered": channel.drive.came_in_time,
                "planned": sum(bool(debug and debug.scalars.get("duly_on_time")) for debug in result.debug),
                "steps": result.steps,
                "metres": float(result.ego.positions[-1, 0]),
                "braked": sum(bool(debug and debug.scalars.get("duly_braking")) for debug in result.debug),
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--vehicles", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--step-s", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    told: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=vehicle, args=(asked.target, asked.steps, asked.step_s, asked.seed * 1000 + nth, told))
        for nth in range(asked.vehicles)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(told) < asked.vehicles:
        raise SystemExit(f"{asked.vehicles - len(told)} vehicles did not drive to the end")
    print(json.dumps(sorted(told, key=lambda each: each["seed"])))


if __name__ == "__main__":
    main()
