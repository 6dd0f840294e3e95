"""CRITICAL is a promise: it states a period and is held to it, and who proves nothing gets only so much of it."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from duly.app import App
from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc
from duly_client import Advice, Client, DulyError, StreamRefused
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import Wire, frame, reason

TERMS: dict[str, Any] = {"stream_class": "CRITICAL", "budget_ms": 1000, "backlog": "ALL"}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    models = tmp_path_factory.mktemp("models")
    graphs.save(models, "m", graphs.slow(rounds=20), toml="batch_sizes = [1]\n")
    graphs.save(models, "urgent", graphs.doubling(), toml='default_class = "CRITICAL"\nbatch_sizes = [1]\n')
    async with serving(models, critical_streams_max=2, critical_share_max=0.5) as app:
        yield app


def planned_ms(app: App) -> float:
    return app.driver.scheduler.planned_ns("m/1", "cpu:0")[0] / 1e6


@pytest.mark.parametrize(
    ("model", "asked", "words"),
    [
        ("m", {"stream_class": pb.STREAM_CLASS_CRITICAL}, "a CRITICAL stream is promised its period"),
        ("urgent", {}, "a CRITICAL stream (the default of model 'urgent') is promised its period"),
    ],
    ids=["asked for", "the model's default"],
)
async def test_a_critical_stream_states_its_period(app: App, model: str, asked: dict[str, Any], words: str) -> None:
    async with grpc.aio.insecure_channel(app.address) as channel, Wire(channel, opened=False) as wire:
        await wire.write(pb.StreamRequest(open=pb.OpenStream(model=model, **asked)))
        error = await wire.error()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == "INVALID_OPEN"
    assert error.details() == f"expected_period_nano should be stated: {words}"


async def test_a_single_frame_can_not_be_critical(app: App) -> None:
    async with grpc.aio.insecure_channel(app.address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = pb.InferRequest(model="m", stream_class=pb.STREAM_CLASS_CRITICAL, frame=frame(1))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Infer(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "a single frame has none" in (refused.value.details() or "")
        answer = await stub.Infer(pb.InferRequest(model="urgent", frame=frame(1)))
        assert answer.outcome.status == pb.OUTCOME_STATUS_ON_TIME, "by the model's default it would be CRITICAL"


async def test_without_a_credential_only_so_many_critical_streams_open(app: App) -> None:
    async with Client(app.address, reconnect=False) as client:
        slowly = TERMS | {"period_ms": planned_ms(app) * 100}
        async with client.stream("m", **slowly), client.stream("m", **slowly):
            with pytest.raises(DulyError, match=r"critical_streams_max") as refused:
                await client.stream("m", **slowly).__aenter__()
            assert "open it as STANDARD, or give the client a credential" in str(refused.value)
            async with client.stream("m", **slowly | {"stream_class": "STANDARD"}):
                pass
        async with client.stream("m", **slowly):  # their places are free again
            pass


async def test_without_a_credential_critical_streams_take_only_so_much_of_a_lane(app: App) -> None:
    async with (
        Client(app.address, reconnect=False) as client,
        client.stream("m", **TERMS, period_ms=planned_ms(app) * 4),
    ):
        with pytest.raises(StreamRefused, match=r"they may take 50% \(critical_share_max\)"):
            await client.stream("m", **TERMS, period_ms=planned_ms(app) * 3).__aenter__()
        async with client.stream("m", **TERMS, period_ms=planned_ms(app) * 8):
            pass


async def test_frames_beyond_the_stated_period_are_demoted_told_and_counted(app: App) -> None:
    told: list[Advice] = []
    async with (
        Client(app.address, reconnect=False) as client,
        client.stream("m", **TERMS, period_ms=60_000, on_advice=told.append, follow_advice=False) as stream,
    ):
        payload = np.zeros(stream.opened.inputs[0].shape, stream.opened.inputs[0].dtype)
        for _ in range(20):
            await stream.send(payload)
        await stream.finish()
        assert len([outcome async for outcome in stream]) == 20
    assert [(advice.kind, advice.period_ns) for advice in told] == [("SLOW_DOWN", 60_000_000_000)]
    assert "faster than the stated period" in told[0].reason
    assert app.driver.scheduler.frames_demoted_by_model() == {"m/1": 17}, "three conform, by the tolerance"
