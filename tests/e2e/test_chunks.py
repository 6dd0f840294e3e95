"""Action chunks over a real server: what an outcome says of them, over both transports, as versions come and go."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from duly.app import App
from duly_client import Chunk, Client, Status
from duly_client.chunks import ActionStream
from tests import graphs
from tests.e2e.serving import serving
from tests.worker.loading import reason_of

MS = 1_000_000
CHUNK = '[chunk]\noutput = "actions"\ndt_ms = 20\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="duly-") as folder:
        yield Path(folder)


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[App]:
    graphs.save(
        folder / "models", "policy", graphs.acting(), toml="batch_sizes = [1]\ndefault_budget_ms = 10000\n" + CHUNK
    )
    graphs.save(folder / "models", "plain", graphs.acting(), toml="batch_sizes = [1]\ndefault_budget_ms = 10000\n")
    async with serving(folder / "models", local=f"{folder}/local.sock") as app:
        yield app


@pytest.fixture(params=["grpc", "local"])
async def client(server: App, folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    target = server.address if request.param == "grpc" else f"local:{folder}/local.sock"
    async with Client(target, transport="grpc" if request.param == "grpc" else None) as client:
        yield client


X = np.float32([[3]])


async def test_an_outcome_says_which_actions_are_due_when(client: Client) -> None:
    async with client.stream("policy") as stream:
        assert stream.opened.chunk == Chunk("actions", 0, 20 * MS, 50)
        await stream.send(X)
        outcome = await anext(stream)
    assert outcome.chunk == Chunk("actions", 0, 20 * MS, 50)
    assert outcome.outputs["actions"][:3, 0].tolist() == [3, 4, 5]
    assert outcome.planned_delay_ns >= stream.opened.planned_latency_ns // 1000 * 1000 > 0


async def test_an_outcome_without_a_result_tells_the_delay_alone(client: Client) -> None:
    async with client.stream("policy", check=False) as stream:
        await stream.send(np.float32([3, 4]))
        outcome = await anext(stream)
    assert outcome.status is Status.INVALID
    assert outcome.chunk is None
    assert outcome.planned_delay_ns > 0


async def test_who_asks_for_other_outputs_is_told_of_no_actions(client: Client) -> None:
    async with client.stream("policy", outputs=["value"]) as stream:
        assert stream.opened.chunk is None
        await stream.send(X)
        outcome = await anext(stream)
        assert (outcome.chunk, outcome.outputs["value"].tolist()) == (None, [[-3]])
        with pytest.raises(ValueError, match="gives no action chunks"):
            ActionStream(stream)


async def test_a_plain_model_tells_neither(client: Client) -> None:
    async with client.stream("plain") as stream:
        await stream.send(X)
        outcome = await anext(stream)
    assert (stream.opened.chunk, outcome.chunk, outcome.planned_delay_ns) == (None, None, 0)


async def test_a_single_frame_has_its_chunk(server: App) -> None:
    async with Client(server.address) as client:
        outcome = await client.infer("policy", X)
    assert outcome.chunk == Chunk("actions", 0, 20 * MS, 50)
    assert outcome.planned_delay_ns > 0


async def test_another_version_has_its_own_chunk_and_delay(server: App, folder: Path, client: Client) -> None:
    toml = '[chunk]\noutput = "actions"\ndt_ms = 10\nt0_ms = 5\n'
    async with Client(server.address) as operator, client.stream("policy") as stream:
        await stream.send(X)
        before = await anext(stream)
        proto = graphs.acting(horizon=30, rounds=60)
        graphs.save(folder / "models", "policy", proto, "batch_sizes = [1]\n" + toml, version=2)
        await operator.load_model("policy", 2)
        await operator.activate_version("policy", 2, force=True)
        await stream.send(X, budget_ms=10_000)
        after = await anext(stream)
    assert (before.version, before.chunk) == ("1", Chunk("actions", 0, 20 * MS, 50))
    assert (after.version, after.chunk) == ("2", Chunk("actions", 5 * MS, 10 * MS, 30))
    assert after.planned_delay_ns > before.planned_delay_ns


async def test_a_robot_never_runs_dry_where_its_deadlines_are_kept(client: Client) -> None:
    """A slow policy, a chunk of a second, and a controller that ticks every 5 ms."""
    async with client.stream("policy") as stream:
        actions = ActionStream(stream)
        missed: list[str] = []

        async def read() -> None:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    outcome = await actions.receive()
                    if outcome.status is not Status.ON_TIME:
                        missed.append(f"{outcome.status.name}: {outcome.reason}")

        reading = asyncio.create_task(read())
        dry, ticks, asked, longest_s = 0, 0, 0, 0.0
        ticked_s = time.monotonic()
        while ticks < 400:
            if actions.wants_observation():
                await actions.observe(X)
                asked += 1
            due = actions.action()
            if due is not None or ticks:
                ticks += 1
                dry += due is None
            await asyncio.sleep(0.005)
            longest_s, ticked_s = max(longest_s, time.monotonic() - ticked_s), time.monotonic()
        assert asked > 1
        assert float(actions.ahead(1)[0][0]) >= 3
        assert actions.inference_delay >= 1
        await stream.finish()
        await reading
    # Half a chunk is left when an observation is sent; where this process stands still for longer, nothing helps.
    assert not dry or missed or longest_s > 0.2


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (
            '[chunk]\noutput = "plan"\ndt_ms = 20\n',
            "chunk.output: there is no output 'plan'; there are: actions, value",
        ),
        ('[chunk]\noutput = "value"\ndt_ms = 20\n', "chunk.output: 'value' is one number a frame"),
    ],
)
def test_a_chunk_that_is_none_is_not_loaded(tmp_path: Path, toml: str, words: str) -> None:
    proto = graphs.acting()
    if "one number" in words:
        proto.graph.node.append(helper.make_node("ReduceMax", ["most"], ["flat"], axes=[1, 2], keepdims=0))
        del proto.graph.output[1]
        proto.graph.output.append(graphs.value("flat", ["N"]))
        toml = toml.replace("value", "flat")
        words = words.replace("value", "flat")
    graphs.save(tmp_path, "policy", proto, toml)
    assert words in reason_of(tmp_path, "policy")
