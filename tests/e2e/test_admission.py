"""Admission over real streams: which streams open, which are refused with an offer that fits, and that places are given
back.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from duly.app import App
from duly.core.events import ModelGone
from duly.v1 import inference_pb2 as pb
from duly.v1 import model_pb2, model_pb2_grpc
from duly_client import Client, StreamRefused
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import ON_TIME, Wire, frame, reason

BUDGET_MS = 1000.0


@pytest.fixture
async def app(slow_model: Path) -> AsyncIterator[App]:
    async with serving(slow_model) as app:
        yield app


@pytest.fixture
async def client(app: App) -> AsyncIterator[Client]:
    async with Client(app.address, reconnect=False) as client:
        yield client


def planned_ms(app: App, model: str = "m/1") -> float:
    return app.driver.scheduler.planned_ns(model, "cpu:0")[0] / 1e6


def asking(app: App, share: float, **more: Any) -> dict[str, Any]:
    """The terms of a stream that needs this share of the lane."""
    return {"period_ms": planned_ms(app) / share, "budget_ms": BUDGET_MS, "backlog": "ALL"} | more


async def refusal(client: Client, **asked: Any) -> StreamRefused:
    with pytest.raises(StreamRefused) as refused:
        await client.stream("m", **asked).__aenter__()
    return refused.value


async def test_a_stream_that_fits_is_told_its_latency_and_how_full_the_lane_is(app: App, client: Client) -> None:
    async with client.stream("m", **asking(app, 0.2)) as one:
        assert one.opened.utilisation == pytest.approx(0.2, rel=0.1)
        assert planned_ms(app) <= one.opened.predicted_latency_ns / 1e6 <= BUDGET_MS
        assert one.opened.admission_warning == ""
        async with client.stream("m", **asking(app, 0.2)) as two:
            assert two.opened.utilisation == pytest.approx(0.4, rel=0.1)


async def test_a_refusal_is_resource_exhausted_with_a_counter_offer(app: App) -> None:
    period_ns = int(planned_ms(app) * 1e6 / 4)
    request = pb.OpenStream(
        model="m", expected_period_nano=period_ns, default_budget_nano=10**9, backlog_policy=pb.BACKLOG_POLICY_ALL
    )
    async with grpc.aio.insecure_channel(app.address) as channel, Wire(channel, opened=False) as wire:
        await wire.write(pb.StreamRequest(open=request))
        error = await wire.error()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(error) == "ADMISSION_REFUSED"
    assert "of lane time would be taken" in (error.details() or "")
    assert "it would open with a period of" in (error.details() or "")


async def test_a_budget_shorter_than_one_frame_is_refused_without_a_period_as_well(app: App, client: Client) -> None:
    refused = await refusal(client, budget_ms=planned_ms(app) / 2)
    assert "its budget is" in str(refused)
    async with client.stream("m", budget_ms=int(refused.metadata["budget_nano"]) / 1e6):
        pass


async def test_a_period_and_a_budget_that_are_both_too_small_are_answered_with_both(app: App, client: Client) -> None:
    refused = await refusal(client, budget_ms=planned_ms(app) / 2, period_ms=planned_ms(app) / 4)
    assert not {"period_nano", "budget_nano"} & refused.metadata.keys()
    said = "neither a longer period nor a larger budget alone would do; it would open with a period of "
    found = re.search(rf"{said}([\d.e+]+) ms and a budget of ([\d.e+]+) ms together", str(refused))
    assert found, str(refused)
    period_ms, budget_ms = float(found[1]) * 1.01, float(found[2]) * 1.01
    async with client.stream("m", budget_ms=budget_ms, period_ms=period_ms):
        pass


async def test_no_budget_is_offered_that_the_server_does_not_take(app: App, client: Client) -> None:
    host, limits = app.streams.host, app.streams.limits
    shorter = replace(limits.stream, budget_ns_max=int(planned_ms(app) * 0.9e6))
    app.streams.host = replace(host, limits=replace(limits, stream=shorter))
    refused = await refusal(client, budget_ms=planned_ms(app) / 2)
    assert "budget_nano" not in refused.metadata


async def test_while_no_lane_serves_the_model_it_is_not_ready(app: App) -> None:
    app.driver.submit(ModelGone("m/1", None, "its worker process ended"))
    for period_ns in (0, 10**9):
        async with grpc.aio.insecure_channel(app.address) as channel, Wire(channel, opened=False) as wire:
            await wire.write(pb.StreamRequest(open=pb.OpenStream(model="m", expected_period_nano=period_ns)))
            error = await wire.error()
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY")


async def test_the_period_offered_opens_when_it_is_taken(app: App, client: Client) -> None:
    async with client.stream("m", **asking(app, 0.3)):
        refused = await refusal(client, **asking(app, 3.0))
        period_ms = int(refused.metadata["period_nano"]) / 1e6
        assert period_ms > planned_ms(app)
        async with client.stream("m", **asking(app, 3.0, period_ms=period_ms)) as stream:
            assert stream.opened.admission_warning == ""


async def test_a_budget_shorter_than_one_frame_is_refused_and_the_one_offered_opens(app: App, client: Client) -> None:
    refused = await refusal(client, **asking(app, 0.1, budget_ms=planned_ms(app) / 2))
    assert "its budget is" in str(refused)
    budget_ms = int(refused.metadata["budget_nano"]) / 1e6
    assert budget_ms >= planned_ms(app)
    async with client.stream("m", **asking(app, 0.1, budget_ms=budget_ms)):
        pass


async def test_critical_streams_open_only_where_every_deadline_can_be_promised(app: App, client: Client) -> None:
    critical = asking(app, 0.2, stream_class="CRITICAL")
    async with client.stream("m", **critical) as stream:
        assert stream.opened.stream_class == "CRITICAL"
        # It would have to be the next to run whatever runs just then.
        refused = await refusal(client, **critical | {"budget_ms": planned_ms(app) * 1.2})
        assert "can't be promised" in str(refused)
        budget_ms = int(refused.metadata["budget_nano"]) / 1e6
        async with client.stream("m", **critical | {"budget_ms": budget_ms}):
            pass


async def test_nobody_opens_whose_batches_would_break_a_promise(app: App, client: Client) -> None:
    async with client.stream("m", **asking(app, 0.1, stream_class="CRITICAL", budget_ms=planned_ms(app) * 1.5)):
        for stream_class in ("STANDARD", "BEST_EFFORT"):
            refused = await refusal(client, **asking(app, 0.01, stream_class=stream_class))
            assert "what is promised to CRITICAL streams" in str(refused)


async def test_nor_does_one_that_states_no_period(app: App, client: Client) -> None:
    async with client.stream("m", **asking(app, 0.1, stream_class="CRITICAL", budget_ms=planned_ms(app) * 1.5)):
        refused = await refusal(client, budget_ms=BUDGET_MS)
        assert "what is promised to CRITICAL streams" in str(refused)


async def test_best_effort_opens_however_full_it_is(app: App, client: Client) -> None:
    async with client.stream("m", **asking(app, 5.0, stream_class="BEST_EFFORT")) as stream:
        assert stream.opened.utilisation > 1
        async with client.stream("m", **asking(app, 0.5)):
            pass


async def test_a_stream_that_closes_gives_its_place_back(app: App, client: Client) -> None:
    for _ in range(3):
        async with client.stream("m", **asking(app, 0.8)):
            await refusal(client, **asking(app, 0.8))
        while len(app.streams):
            await asyncio.sleep(0)


async def test_of_many_opens_at_once_as_many_succeed_as_fit(app: App, client: Client) -> None:
    asked = asking(app, 0.4, budget_ms=5 * planned_ms(app))
    streams = [client.stream("m", **asked) for _ in range(12)]
    opened = await asyncio.gather(*(stream.__aenter__() for stream in streams), return_exceptions=True)
    refused = [result for result in opened if isinstance(result, BaseException)]
    assert all(isinstance(result, StreamRefused) for result in refused)
    assert len(streams) - len(refused) == len(app.streams) == 2
    for stream, result in zip(streams, opened, strict=True):
        if not isinstance(result, BaseException):
            await stream.__aexit__(None, None, None)


async def test_a_long_budget_is_no_reason_to_open_more_than_the_lane_can_run(app: App, client: Client) -> None:
    async with client.stream("m", **asking(app, 0.6)):
        await refusal(client, **asking(app, 0.6))


async def test_in_advise_mode_all_open_and_are_warned(slow_model: Path) -> None:
    async with serving(slow_model, admission="advise") as app, Client(app.address, reconnect=False) as client:
        for stream_class in ("STANDARD", "CRITICAL"):
            async with client.stream("m", **asking(app, 2.0, stream_class=stream_class)) as stream:
                assert stream.opened.admission_warning


async def test_streams_count_for_the_version_that_serves_them(slow_model: Path, app: App, client: Client) -> None:
    graphs.save(slow_model, "m", graphs.slow(rounds=20), version=2)
    async with grpc.aio.insecure_channel(app.address) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        period_ns = int(planned_ms(app) * 1e6 / 0.8)
        async with Wire(channel, model="m", expected_period_nano=period_ns) as wire:
            await stub.LoadModel(model_pb2.LoadModelRequest(name="m", version="2"))
            await stub.ActivateVersion(model_pb2.ActivateVersionRequest(name="m", version="2"))
            outcome = await wire.ask(frame(1, [[3]]))
            assert (outcome.status, outcome.version) == (ON_TIME, "2")
            await stub.UnloadModel(model_pb2.UnloadModelRequest(name="m", version="1"))
            # Eight tenths of the lane are taken as before.
            period_ms = planned_ms(app, "m/2") / 0.8
            await refusal(client, period_ms=period_ms, budget_ms=BUDGET_MS, backlog="ALL")
