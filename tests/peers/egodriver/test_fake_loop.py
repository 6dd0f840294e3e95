"""The FakeLoop of carla-driver-interface, in an environment of its own, against `duly-egodriver` and a real server.

Vehicles share one policy on one lane. At three times what that can do, each stays in its lane with duly; with a server
of the package's own kind, first come, first served, they do not.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from duly_client import Client
from tests import graphs
from tests.e2e.serving import serving
from tests.peers.environments import line_of, lines_of, own_path, plain, python_of, running

pytestmark = pytest.mark.peers

HERE = Path(__file__).parent
PYTHON = python_of("egodriver")
FULL = 4
"""So many vehicles are all that the policy can do: the simulation's step is so many times what a plan takes."""
SPEED_MPS, DT_S, POINTS, SETTLE_S, ROUTE = 8.0, 0.1, 40, 0.5, 50
TOML = """
batch_sizes = [1]
default_budget_ms = 10000
[[input]]
name = "picture"
tensor = "picture"
encodings = ["JPEG"]
[[input]]
name = "route"
[chunk]
output = "plan"
dt_ms = 100
t0_ms = 100
"""
CONFIG = """
[inputs]
picture = "camera:camera_front"
"""


def policy(rounds: int) -> onnx.ModelProto:
    """plan[N,40,2] by route[N,50,2], as fifo.py has it, after `rounds` products of matrices that change nothing; it
    looks at the picture, too.
    """
    width = 256
    times = np.arange(1, POINTS + 1) * DT_S
    ahead = SPEED_MPS * times
    nodes = [
        helper.make_node("Cast", ["picture"], ["pixels"], to=graphs.FP32),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "cube"], ["bright"]),
        helper.make_node("Expand", ["bright", "wide"], ["a0"]),
        *(helper.make_node("MatMul", [f"a{i}", "weights"], [f"a{i + 1}"]) for i in range(rounds)),
        helper.make_node("ReduceMax", [f"a{rounds}"], ["most"], axes=[1, 2], keepdims=1),
        helper.make_node("Mul", ["most", "nothing"], ["none"]),
        helper.make_node("MatMul", ["between", "route"], ["centre"]),
        helper.make_node("Mul", ["centre", "settling"], ["settled"]),
        helper.make_node("Add", ["settled", "forward"], ["way"]),
        helper.make_node("Add", ["way", "none"], ["plan"]),
    ]
    between = np.zeros((1, POINTS, ROUTE), np.float32)
    for point, x in enumerate(ahead):  # FakeLoop's route has a point every two metres
        place = x / 2
        first = int(place)
        between[0, point, first : first + 2] = 1 - (place - first), place - first
    settling = np.stack([np.zeros(POINTS), 1 - np.exp(-times / SETTLE_S)], axis=1)[None]
    forward = np.stack([ahead, np.zeros(POINTS)], axis=1)[None]
    constants = {
        "cube": np.int64([-1, 1, 1]),
        "wide": np.int64([1, width, width]),
        "weights": np.eye(width, dtype=np.float32),
        "nothing": np.float32(0),
        "between": between,
        "settling": np.float32(settling),
        "forward": np.float32(forward),
    }
    inputs = [
        graphs.value("picture", ["N", 36, 64, 3], graphs.UINT8),
        graphs.value("route", ["N", ROUTE, 2]),
    ]
    return graphs.model(nodes, inputs, [graphs.value("plan", ["N", POINTS, 2])], constants)


@contextlib.asynccontextmanager
async def gateway(folder: Path, address: str, *options: object) -> AsyncIterator[str]:
    (folder / "egodriver.toml").write_text(CONFIG)
    command = (PYTHON, "-m", "duly_gateways.egodriver.command", "--model", "policy", "--listen", "127.0.0.1:0")
    command = (*command, "--config", folder / "egodriver.toml", "--server", address, *options)
    async with running(*command, env=own_path()) as process:
        yield (await line_of(process)).rpartition(" ")[2]


async def fleet(target: str, vehicles: int, seed: int, step_s: float, steps: int = 30) -> list[dict[str, Any]]:
    command = (PYTHON, HERE / "fleet.py", target, "--vehicles", vehicles, "--steps", steps, "--step-s", step_s)
    async with running(*command, "--seed", seed, env=plain()) as process:
        (line,) = await lines_of(process)
        return list(json.loads(line))


@contextlib.asynccontextmanager
async def fifo(takes_s: float) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *(str(PYTHON), str(HERE / "fifo.py"), str(takes_s)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=plain(),
    )
    try:
        yield await line_of(process)
    finally:
        process.kill()
        await process.wait()


def told(name: str, load: float, seed: int, vehicles: list[dict[str, Any]]) -> float:
    """Prints a line of the table, and returns how far the worst vehicle was from the centre of its lane, in metres."""
    worst_m = max(each["lateral_m"] for each in vehicles)
    steps = sum(each["steps"] for each in vehicles)
    answered, planned = (sum(each[key] for each in vehicles) / steps for key in ("answered", "planned"))
    metres = min(each["metres"] for each in vehicles)
    braked = sum(each["braked"] for each in vehicles)
    print(
        f"{name:5} load {load:.1f} seed {seed} vehicles {len(vehicles):2} "
        f"lateral offset at most {worst_m:6.3f} m, answered within the step {answered:4.0%}, by duly {planned:4.0%}, "
        f"way at least {metres:5.1f} m, braked {braked / steps:3.0%}"
    )
    return worst_m


@pytest.mark.timeout(280)
async def test_vehicles_stay_in_their_lane_at_three_times_the_load(tmp_path: Path) -> None:
    models = graphs.save(tmp_path / "models", "policy", policy(rounds=80), TOML)
    async with serving(models) as app:
        async with Client(app.address) as client, client.stream("policy") as stream:
            takes_s = stream.opened.planned_latency_ns / 1e9
        step_s = round(FULL * takes_s, 2)
        print(f"\nthe policy takes {takes_s * 1e3:.0f} ms, a step {step_s * 1e3:.0f} ms")
        duly, queue = [], []
        for seed in (1, 2):
            async with gateway(tmp_path, app.address) as target:
                duly.append(told("duly", 3, seed, await fleet(target, 3 * FULL, seed, step_s)))
            async with fifo(takes_s) as target:
                queue.append(told("fifo", 3, seed, await fleet(target, 3 * FULL, seed, step_s)))
        async with fifo(takes_s) as target:
            calm = told("fifo", 0.5, 1, await fleet(target, FULL // 2, 1, step_s))
    assert max(duly) <= 0.1
    assert min(queue) > 0.1
    assert calm <= 0.1, "what fails above is the queue, not the policy"


PLAIN = """
import json, sys
from carla_driver_interface.testing import FakeCamera, FakeLoop
target, steps, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
try:
    with FakeLoop(target, [FakeCamera(name, width=64, height=36)], initial_lateral_offset_m=1.0, timeout_s=60) as loop:
        result = loop.run(steps)
except Exception as error:
    print(json.dumps({"error": getattr(error, "details", lambda: str(error))()}))
else:
    print(json.dumps({
        "steps": result.steps,
        "lateral_m": result.lateral_offsets_m.tolist(),
        "on_time": [debug.scalars.get("duly_on_time", 0) for debug in result.debug],
        "policy": result.debug[0].policy_name,
    }))
"""


async def driven(target: str, steps: int, camera: str = "camera_front") -> dict[str, Any]:
    """What came of the FakeLoop as it comes with the package, whose simulation waits for its plans."""
    async with running(PYTHON, "-c", PLAIN, target, steps, camera, env=plain()) as process:
        return dict(json.loads((await lines_of(process))[-1]))


async def test_a_simulation_that_waits_is_driven_to_the_centre_of_its_lane(tmp_path: Path) -> None:
    models = graphs.save(tmp_path / "models", "policy", policy(rounds=1), TOML)
    async with serving(models) as app, gateway(tmp_path, app.address) as target:
        came = await driven(target, 30)
    assert (came["steps"], came["policy"]) == (30, "duly")
    assert came["lateral_m"][0] == 1
    assert abs(came["lateral_m"][-1]) < 0.1
    assert sum(came["on_time"]) >= 15, "it was the policy that drove, in most steps at least"


async def test_what_cannot_be_driven_is_said_when_the_rollout_starts(tmp_path: Path) -> None:
    models = graphs.save(tmp_path / "models", "policy", policy(rounds=1), TOML)
    graphs.save(models, "plain", graphs.scaling())
    async with serving(models) as app:
        async with gateway(tmp_path, app.address) as target:
            other = await driven(target, 1, "camera_rear")
            again = await driven(target, 3)
        async with gateway(tmp_path, app.address, "--model", "plain") as target:
            plain_model = await driven(target, 1)
        async with gateway(tmp_path, app.address, "--model", "none") as target:
            no_model = await driven(target, 1)
    said = "duly: input 'picture' is fed by camera:camera_front; the rollout has the cameras: camera_rear"
    assert other == {"error": said}
    assert again["steps"] == 3, "the next rollout is driven"
    assert "model 'plain' gives no plan: its model.toml should say which output, [chunk]" in plain_model["error"]
    assert "none" in no_model["error"]


async def test_a_server_that_goes_leaves_the_vehicle_braking_and_takes_over_again(tmp_path: Path) -> None:
    models = graphs.save(tmp_path / "models", "policy", policy(rounds=1), TOML)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving(models))
        target = await stack.enter_async_context(gateway(tmp_path, first.address))
        assert (await driven(target, 3))["steps"] == 3
        await first.close()
        assert "does not take the rollout" in (await driven(target, 3))["error"]
        await stack.enter_async_context(serving(models, listen=first.address))
        assert (await driven(target, 3))["steps"] == 3
