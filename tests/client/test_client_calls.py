"""Unary calls, and the client without asyncio."""

import asyncio
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from duly.v1 import inference_pb2, model_pb2, server_pb2
from duly_client import BlockingClient, Client, ModelNotFound, ServerFault, ServerUnavailable, errors
from tests.client.scripted_server import ScriptedServer, echo, serving

X = np.arange(4, dtype=np.float32)


async def test_infer() -> None:
    server = ScriptedServer()
    async with serving(server) as target, Client(target) as client:
        outcome = await client.infer("echo", X, budget_ms=20, version=3, stream_class="BEST_EFFORT", outputs=["y"])
    np.testing.assert_array_equal(outcome.outputs["y"], X)
    assert outcome.ok
    assert outcome.latency_ns > 0
    (request,) = server.calls
    assert (request.model, request.version, list(request.outputs)) == ("echo", "3", ["y"])
    assert request.stream_class == inference_pb2.STREAM_CLASS_BEST_EFFORT
    assert request.frame.budget_nano == 20_000_000
    assert list(request.frame.tensors[0].shape) == [4]


async def test_models_and_the_server() -> None:
    server = ScriptedServer()
    async with serving(server) as target, Client(target) as client:
        assert [model.name for model in await client.models()] == ["echo"]
        assert (await client.model("echo")).active_version == "3"
        assert (await client.load_model("echo", 4)).name == "echo"
        await client.unload_model("echo")
        assert (await client.activate_version("echo", "4")).name == "echo"
        assert (await client.server_info()).server_version == "9"
        assert (await client.statistics()).streams_open == 5
        await client.drain(grace_ms=1500)
        with pytest.raises(ModelNotFound, match="no model 'ecko'") as caught:
            await client.model("ecko")
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert server.calls == [
        model_pb2.ListModelsRequest(),
        model_pb2.LoadModelRequest(name="echo", version="4"),
        model_pb2.UnloadModelRequest(name="echo"),
        model_pb2.ActivateVersionRequest(name="echo", version="4"),
        server_pb2.GetServerInfoRequest(),
        server_pb2.GetStatisticsRequest(),
        server_pb2.DrainRequest(grace_nano=1_500_000_000),
    ]


async def test_a_client_is_entered_first() -> None:
    with pytest.raises(RuntimeError, match="enter it with `async with`"):
        await Client("127.0.0.1:1").models()
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(ServerUnavailable, match=r"no answer from 127\.0\.0\.1:1"):
            await client.models()
        with pytest.raises(ValueError, match="budget_ms=0: expected more than 0"):
            await client.infer("echo", X, budget_ms=0)
        with pytest.raises(RuntimeError, match="the stream is not open"):
            _ = client.stream("echo").opened


def test_without_details_the_status_code_tells_the_kind() -> None:
    """googleapis-common-protos may be missing, or a proxy may answer."""
    nothing = grpc.aio.Metadata()
    error = errors.from_rpc(grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, nothing, nothing, "it broke"), "there")
    assert (type(error), str(error), error.reason) == (ServerFault, "it broke", "")
    error = errors.from_rpc(grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, nothing, nothing, None), "there")
    assert (type(error), str(error)) == (errors.DulyError, "ABORTED")


@pytest.fixture
def target() -> Iterator[str]:
    """A server in a loop and thread of its own, as the blocking client blocks the test's."""

    ready, over = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with serving(ScriptedServer(echo)) as address:
            found.append(address)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait()
    yield found[0]
    over.set()
    thread.join()


def test_the_blocking_client(target: str) -> None:
    with BlockingClient(target) as client:
        assert client.infer("echo", X).ok
        assert client.model("echo").name == "echo"
        assert client.server_info().server_version == "9"
        with pytest.raises(ModelNotFound):
            client.model("ecko")
        with client.stream("echo", budget_ms=50) as stream:
            assert stream.opened.default_budget_ns == 50_000_000
            ids = [stream.send(X + nth) for nth in range(20)]
            stream.cancel(ids)
            stream.finish()
            outcomes = list(stream)
        assert [outcome.frame_id for outcome in outcomes] == ids
        assert [outcome.outputs["y"][0] for outcome in outcomes] == list(range(20))
    assert not [thread for thread in threading.enumerate() if thread.name == "duly-client"]


def test_one_thread_sends_and_another_reads(target: str) -> None:
    with BlockingClient(target) as client, client.stream("echo") as stream:
        got: list[int] = []
        reading = threading.Thread(target=lambda: got.extend(outcome.frame_id for outcome in stream))
        reading.start()
        ids = [stream.send(X) for _ in range(100)]
        stream.finish()
        reading.join()
    assert got == ids
