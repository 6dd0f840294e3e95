"""Variants over real streams: what is hosted, described and agreed, and which one a frame ran on."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from duly.app import App
from duly.v1 import inference_pb2 as pb
from duly.v1 import model_pb2, model_pb2_grpc
from duly_client import Client, StreamRefused
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import ON_TIME, Wire, array, frame

TOML = """

[[variant]]
name = "exact"
accuracy = 0.9

[[variant]]
name = "quick"
file = "quick.onnx"
accuracy = 0.8
"""


@pytest.fixture
def two_variants(tmp_path: Path) -> Path:
    """A repository with model `m`: its variant `exact` takes milliseconds and gives the largest of x, `quick` doubles x
    at once.
    """
    root = tmp_path / "models"
    graphs.save(root, "m", graphs.slow(rounds=20), toml=TOML)
    graphs.save(root, "m", graphs.scaling_one(), file="quick.onnx")
    return root


@pytest.fixture
async def app(two_variants: Path) -> AsyncIterator[App]:
    async with serving(two_variants) as app:
        yield app


@pytest.fixture
async def calls(app: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(app.address) as channel:
        yield channel


async def test_each_variant_is_described_with_its_own_profile(calls: grpc.aio.Channel) -> None:
    stub = model_pb2_grpc.ModelServiceStub(calls)
    model = (await stub.GetModel(model_pb2.GetModelRequest(name="m"))).model
    exact, quick = model.versions[0].variants
    assert [(v.name, round(v.accuracy, 3), list(v.providers)) for v in (exact, quick)] == [
        ("exact", 0.9, ["CPUExecutionProvider"]),
        ("quick", 0.8, ["CPUExecutionProvider"]),
    ]
    assert [p.batch_size for p in exact.profile] == [p.batch_size for p in quick.profile] == list(range(1, 9))
    assert exact.profile[-1].planned_nano > quick.profile[-1].planned_nano


async def test_a_stream_is_told_which_variants_may_serve_it(calls: grpc.aio.Channel) -> None:
    async with Wire(calls, model="m") as wire:
        assert list(wire.terms.variants) == ["exact", "quick"]
    async with Wire(calls, model="m", variant_lowest="exact") as wire:
        assert list(wire.terms.variants) == ["exact"]


async def test_a_frame_that_the_best_variant_cannot_serve_in_time_runs_on_a_faster_one(
    app: App, calls: grpc.aio.Channel
) -> None:
    planned_ns = app.driver.scheduler.planned_ns
    exact_ns, quick_ns = (planned_ns("m/1", "cpu:0", name)[0] for name in ("exact", "quick"))
    assert quick_ns * 4 < exact_ns, "or this machine is no place for the test"
    async with Wire(calls, model="m") as wire:
        outcome = await wire.ask(frame(1, [[3]]))
        assert (outcome.status, outcome.variant, array(outcome).tolist()) == (ON_TIME, "exact", [3])
        outcome = await wire.ask(frame(2, [[3]], budget_nano=exact_ns * 3 // 4))
        assert (outcome.variant, array(outcome).tolist()) == ("quick", [6])


async def test_a_stream_that_does_not_fit_is_refused_with_what_would(app: App) -> None:
    exact_ns = app.driver.scheduler.planned_ns("m/1", "cpu:0", "exact")[0]
    async with Client(app.address, reconnect=False) as client:
        asked = {"period_ms": exact_ns / 4e6, "budget_ms": 1000, "backlog": "ALL"}
        with pytest.raises(StreamRefused) as refused:
            await client.stream("m", variant_lowest="exact", **asked).__aenter__()
        offer = refused.value.metadata
        assert refused.value.reason == "ADMISSION_REFUSED"
        assert offer["variant"] == "quick"
        assert int(offer["period_nano"]) > exact_ns / 4
        assert "it would open with a period of" in str(refused.value)
        assert "with variant_lowest quick" in str(refused.value)
        async with client.stream("m", variant_lowest="quick", **asked) as stream:
            assert 0 < stream.opened.utilisation < 1
            assert stream.opened.predicted_latency_ns > 0
            assert stream.opened.admission_warning == ""
        period_ms = 1.5 * int(offer["period_nano"]) / 1e6
        async with client.stream("m", variant_lowest="exact", budget_ms=1000, period_ms=period_ms, backlog="ALL"):
            pass


async def test_advice_opens_it_and_says_so(two_variants: Path) -> None:
    async with (
        serving(two_variants, admission="advise") as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="m", variant_lowest="exact", expected_period_nano=1000) as wire,
    ):
        assert "of lane time would be taken" in wire.terms.admission_warning
        assert (await wire.ask(frame(1, [[3]]))).status == ON_TIME


async def test_a_floor_is_taken(calls: grpc.aio.Channel) -> None:
    async with Wire(calls, model="m", floor=pb.OnTimeFloor(frames=8, window=10)) as wire:
        assert (await wire.ask(frame(1, [[3]]))).status == ON_TIME
