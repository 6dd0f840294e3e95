"""openpi-client 0.1.2 in an environment of its own, unmodified, against `duly-openpi` and a real server."""

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

from tests import graphs
from tests.e2e.serving import serving
from tests.peers.environments import command_of, line_of, lines_of, plain, python_of, running

pytestmark = pytest.mark.peers

ROBOT = Path(__file__).parent / "robot.py"
CONFIG = """
connections_max = 4
message_bytes_max = 65536
metadata = { robot = "arm" }

[inputs]
image = "observation/image"
state = "observation/state"
task = "prompt"

[texts]
task = ["pick up the cube", "stack the blocks"]
"""


POLICY = """
default_budget_ms = 5000
[chunk]
output = "actions"
dt_ms = 20
"""


def policy(rounds: int = 0) -> onnx.ModelProto:
    """actions[N,3,4] = step * state + task + mean(image), the steps being 1, 2 and 3; after `rounds` products of
    matrices that change nothing.
    """
    width = 256
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=graphs.FP32),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "cube"], ["bright"]),
        helper.make_node("Reshape", ["state", "rows"], ["row"]),
        helper.make_node("Mul", ["row", "steps"], ["moved"]),
        helper.make_node("Cast", ["task"], ["number"], to=graphs.FP32),
        helper.make_node("Reshape", ["number", "cube"], ["which"]),
        helper.make_node("Add", ["moved", "which"], ["told"]),
        helper.make_node("Add", ["told", "bright"], ["plain"]),
        helper.make_node("Expand", ["which", "wide"], ["a0"]),
        *(helper.make_node("MatMul", [f"a{i}", "weights"], [f"a{i + 1}"]) for i in range(rounds)),
        helper.make_node("ReduceMax", [f"a{rounds}"], ["most"], axes=[1, 2], keepdims=1),
        helper.make_node("Mul", ["most", "nothing"], ["none"]),
        helper.make_node("Add", ["plain", "none"], ["actions"]),
    ]
    inputs = [
        graphs.value("image", ["N", 8, 8, 3], graphs.UINT8),
        graphs.value("state", ["N", 4]),
        graphs.value("task", ["N", 1], graphs.INT64),
    ]
    constants = {
        "cube": np.int64([-1, 1, 1]),
        "rows": np.int64([-1, 1, 4]),
        "steps": np.float32([[[1], [2], [3]]]),
        "wide": np.int64([1, width, width]),
        "weights": np.eye(width, dtype=np.float32),
        "nothing": np.float32(0),
    }
    return graphs.model(nodes, inputs, [graphs.value("actions", ["N", 3, 4])], constants)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "openpi.toml").write_text(CONFIG)
    graphs.save(tmp_path / "models", "slow", policy(rounds=200), toml="default_budget_ms = 1\nbatch_sizes = [1]\n")
    return graphs.save(tmp_path / "models", "policy", policy(), toml=POLICY)


@contextlib.asynccontextmanager
async def gateway(repository: Path, *options: object, model: str = "policy") -> AsyncIterator[str]:
    """The address of a gateway to a server of its own."""
    config = repository.parent / "openpi.toml"
    command = (*command_of("openpi"), "--model", model, "--listen", "127.0.0.1:0", "--config", config, *options)
    async with serving(repository) as app, running(*command, "--server", app.address) as process:
        yield (await line_of(process)).rpartition(" ")[2]


async def robot(url: str, what: str) -> list[dict[str, Any]]:
    async with running(python_of("openpi"), ROBOT, url, what, env=plain()) as process:
        return [json.loads(line) for line in await lines_of(process)]


async def test_a_robot_gets_the_models_actions(repository: Path) -> None:
    async with gateway(repository) as url:
        metadata, *answers, health, broker = await robot(url, "infer")
    assert metadata["metadata"]["robot"] == "arm"
    assert metadata["metadata"]["duly"]["outputs"] == {"actions": "FP32[3, 4]"}
    for seed, answer in enumerate(answers):
        rng = np.random.default_rng(seed)
        image, state = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), rng.normal(size=4)
        expected = state[None] * np.arange(1, 4)[:, None] + 1 + image.mean()
        np.testing.assert_allclose(answer["actions"], expected, rtol=1e-4)
        assert (answer["dtype"], answer["status"], answer["timed"]) == ("float32", "ON_TIME", True)
        assert answer["dt_ms"] == 20
        assert answer["planned_delay_ms"] > 0
    assert metadata["metadata"]["duly"]["planned_ms"] > 0
    assert health == {"health": "OK\n"}
    assert np.shape(broker["steps"]) == (3, 4)


async def test_bad_observations_are_told_and_harm_nothing(repository: Path) -> None:
    async with gateway(repository) as url:
        _, *answers, last = await robot(url, "bad")
    told = [answer.get("text") or answer["answer"] for answer in answers]
    assert all(answer.get("error", "RuntimeError") == "RuntimeError" for answer in answers)
    for text, words in zip(
        told,
        (
            "input 'state': got FP32[5], expected FP32[4]",
            "'observation/image' is an array of float64; input 'image' takes UINT8[8, 8, 3]",
            "there is no 'observation/state'; the observation has: 'observation/image', 'prompt'",
            "'prompt' is 'make tea'; input 'task' knows: 'pick up the cube', 'stack the blocks'",
            "'prompt' is int; input 'task' knows",
            "'observation/state' is 'text'; input 'state' takes FP32[4]",
            "a list of lists that differ in length",
            "NaN",
            "it is a text; an observation is a binary message",
            "it is cut off after 0 bytes",
            "an extension of msgpack",
            "it is cut off after 3 bytes",
            "more than 8 deep",
            "more than 16384 values",
            "an extension of msgpack",
        ),
        strict=True,
    ):
        assert "INVALID" in text
        assert words in text
    assert last["status"] == "ON_TIME"


async def test_overload_is_an_exception_with_the_reason_and_no_wait(repository: Path) -> None:
    async with gateway(repository, model="slow") as url:
        metadata, *_ = await robot(f"{url}/?budget_ms=60000", "idle")
        budget_ms = 1.8 * metadata["metadata"]["duly"]["planned_ms"]  # two frames do not fit
        robots = await asyncio.gather(*(robot(f"{url}/?budget_ms={budget_ms}", "overload") for _ in range(4)))
    answers = [answer for _, *answers in robots for answer in answers]
    assert len(answers) == 80
    told = [answer for answer in answers if "error" in answer]
    assert told, "four robots ask for more than the model can do"
    assert {answer["error"] for answer in told} == {"RuntimeError"}
    assert any("EXPIRED: " in answer["text"] for answer in told)
    assert any(answer.get("status") == "ON_TIME" for answer in answers)


async def test_a_budget_that_never_holds_is_refused_when_the_robot_connects(repository: Path) -> None:
    async with (
        gateway(repository, model="slow") as url,
        running(python_of("openpi"), ROBOT, url, "idle", env=plain()) as process,
    ):
        _, told = await process.communicate()
    assert b"(try again later) the stream does not fit: one frame of slow/1 takes" in told


async def test_a_budget_can_stand_in_the_address(repository: Path) -> None:
    async with gateway(repository, model="slow") as url:
        metadata, *answers = await robot(f"{url}/?budget_ms=60000", "overload")
        async with running(python_of("openpi"), ROBOT, f"{url}/?budget_ms=none", "infer", env=plain()) as process:
            _, told = await process.communicate()
    assert metadata["metadata"]["duly"]["budget_ms"] == 60_000
    assert all(answer["status"] == "ON_TIME" for answer in answers)
    assert b"HTTP 400" in told


async def test_what_is_too_large_or_too_many_is_refused(repository: Path) -> None:
    async with gateway(repository) as url:
        _, large = await robot(url, "large")
        _, *crowd = await robot(url, "crowd")
    assert large["error"] == "ConnectionClosedError"
    assert "message too big" in large["text"]
    assert [answer.get("text", "") for answer in crowd[:-1]] == ["server rejected WebSocket connection: HTTP 503"]
    assert crowd[-1]["status"] == "ON_TIME"


async def test_a_key_is_asked_for(repository: Path) -> None:
    key = repository.parent / "key"
    key.write_text("secret\n")
    script = "import sys\nfrom openpi_client.websocket_client_policy import WebsocketClientPolicy as P\n"
    script += "P(sys.argv[1], api_key=sys.argv[2])"
    async with gateway(repository, "--api-key-file", key) as url:
        told = []
        for shown in ("secret", "other", ""):
            async with running(python_of("openpi"), "-c", script, url, shown, env=plain()) as process:
                _, error = await process.communicate()
                told.append((process.returncode, b"HTTP 401" in error))
    assert told == [(0, False), (1, True), (1, True)]


async def test_a_robot_goes_on_when_the_server_starts_again(repository: Path) -> None:
    config = repository.parent / "openpi.toml"
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving(repository))
        command = (*command_of("openpi"), "--model", "policy", "--listen", "127.0.0.1:0", "--config", config)
        served = await stack.enter_async_context(running(*command, "--server", first.address))
        url = (await line_of(served)).rpartition(" ")[2]
        process = await asyncio.create_subprocess_exec(
            *(str(python_of("openpi")), str(ROBOT), url, "told"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=plain(),
        )

        async def infer() -> dict[str, Any]:
            assert process.stdin is not None
            process.stdin.write(b"1\n")
            return dict(json.loads(await line_of(process)))

        assert "metadata" in json.loads(await line_of(process))
        assert (await infer())["status"] == "ON_TIME"
        await first.close()
        gone = await infer()
        await stack.enter_async_context(serving(repository, listen=first.address))
        answers = [await infer()]
        while answers[-1].get("status") != "ON_TIME":
            assert len(answers) < 100
            answers.append(await infer())
        process.kill()
        await process.wait()
    assert gone["error"] == "RuntimeError"
    assert "CANCELLED: " in gone["text"]
