"""Guards over a real server: what they find reaches the client, over every protocol, and is counted."""

import time
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import grpc
import numpy as np
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from duly.app import App
from duly.metric_families import Families
from duly_client import Client, Fusion, Outcome, Status, Stream
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.test_kserve import infer, request, stream_all
from tests.e2e.test_video import unit
from tests.e2e.wire import ON_TIME, Wire
from tests.encoded_video import HEIGHT, WIDTH, pictures, units

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = 'default_backlog = "ALL"\ndefault_budget_ms = 60000\n'
FROZEN = '[[guard]]\nkind = "FROZEN"\nrepeats_max = 1\n'
RANGE = '[[guard]]\nkind = "RANGE"\nmax = 100\n'
BLANK = '[[guard]]\nkind = "BLANK"\naction = "INVALID"\n'
SCORE = '[[guard]]\nkind = "DISTRIBUTION"\noutput = "score"\nmax = 50\n'
RIG = """
[[guard]]
kind = "FROZEN"
name = "left-frozen"
input = "left"
repeats_max = 0
[[guard]]
kind = "BLANK"
input = "right"
action = "INVALID"
"""
VIDEO = '[[input]]\nname = "x"\nencodings = ["H264"]\n'


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a UNIX socket."""
    with TemporaryDirectory(prefix="duly-") as name:
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(folder: Path) -> AsyncIterator[App]:
    root = folder / "models"
    graphs.save(root, "watched", graphs.scored(), toml=ALL + FROZEN + RANGE + BLANK + SCORE)
    graphs.save(root, "sum", graphs.summing(), toml=ALL + FROZEN + BLANK + graphs.SUMMING)
    graphs.save(root, "rig", graphs.stereo(), toml=ALL + RIG)
    graphs.save(root, "eye", graphs.copying(("N", HEIGHT, WIDTH, 3), graphs.UINT8), toml=ALL + FROZEN + VIDEO)
    async with serving(root, local=str(folder / "local.sock")) as app:
        yield app


@pytest.fixture(params=["grpc", "local"])
def client(server: App, request: pytest.FixtureRequest) -> Client:
    """A client that is not entered yet."""
    if request.param == "grpc":
        return Client(server.address, transport="grpc")
    return Client(f"local:{server.local_path}")


async def rest(stream: Stream) -> list[Outcome]:
    await stream.finish()
    return [outcome async for outcome in stream]


async def answers(client: Client, model: str, *frames: object) -> list[Outcome]:
    async with client.stream(model, budget_ms=60_000) as stream:
        for frame in frames:
            await stream.send(frame)  # type: ignore[arg-type]
        return sorted(await rest(stream), key=lambda outcome: outcome.frame_id)


def counted(app: App, model: str) -> dict[str, int]:
    registry = CollectorRegistry()
    registry.register(Families(app.metrics))
    flags = next(family for family in registry.collect() if family.name == "duly_guard_flags")
    return {each.labels["guard"]: int(each.value) for each in flags.samples if each.labels["model"] == model}


async def test_what_guards_find_comes_with_the_outcome_and_is_counted(server: App, client: Client) -> None:
    before = counted(server, "watched/1")
    assert before.keys() == {"frozen", "range", "blank", "distribution"}
    fine, large = np.float32([1, 2, 3, 4]), np.float32([1, 2, 3, 60])
    async with client:
        outcomes = await answers(client, "watched", fine, fine, fine, large, large * 2, fine * 0)
    results, blank = outcomes[:5], outcomes[5]
    assert [outcome.status for outcome in results] == [Status.ON_TIME] * 5
    assert [outcome.guards for outcome in results] == [
        *[(), (), ("frozen",), ("distribution",), ("range", "distribution")],
    ]
    assert [list(outcome.outputs) for outcome in results] == [["y"]] * 5
    np.testing.assert_array_equal(results[4].outputs["y"], large * 4)
    assert (blank.status, blank.guards, blank.outputs) == (Status.INVALID, ("blank",), {})
    assert blank.reason == (
        "input 'x': the frame is blank: its elements have a standard deviation of 0, more than 0 is allowed (guard "
        "'blank' in model.toml)"
    )
    rise = {name: count - before[name] for name, count in counted(server, "watched/1").items()}
    assert rise == {"frozen": 1, "range": 1, "blank": 1, "distribution": 2}


async def test_a_stream_that_opens_again_has_no_past(client: Client) -> None:
    fine = np.float32([1, 2, 3, 4])
    async with client:
        for _ in range(3):
            assert [outcome.guards for outcome in await answers(client, "watched", fine, fine)] == [(), ()]


async def test_a_single_frame_has_no_past_either(server: App) -> None:
    async with Client(server.address) as client:
        found = [await client.infer("watched", np.float32([1, 2, 3, last]), budget_ms=60_000) for last in (4, 4, 4, 60)]
    assert [outcome.guards for outcome in found] == [(), (), (), ("distribution",)]


async def test_a_stateful_stream_goes_on_from_before_an_invalid_frame(client: Client) -> None:
    ones = np.float32([1, 2])
    async with client:
        outcomes = await answers(client, "sum", ones, ones * 0, ones, ones, ones, ones)
    assert [outcome.status for outcome in outcomes] == [
        *[Status.ON_TIME, Status.INVALID, Status.ON_TIME, Status.ON_TIME, Status.ON_TIME, Status.ON_TIME],
    ]
    assert [outcome.guards for outcome in outcomes] == [(), ("blank",), (), (), ("frozen",), ("frozen",)]
    np.testing.assert_array_equal(outcomes[5].outputs["y"], ones * 5)


async def test_all_frames_that_were_joined_have_what_was_found_on_any(client: Client) -> None:
    async with client, fused(client, "left") as left, fused(client, "right") as right:
        found = []
        for lefts, rights in (([1, 2, 3, 4], [1, 0, 0, 0]), ([1, 2, 3, 4], [2, 0, 0, 0]), ([5, 6, 7, 8], [9, 9, 9, 9])):
            now_ns = time.time_ns()
            await left.send(np.float32(lefts), capture_time_ns=now_ns)
            await right.send(np.float32(rights), capture_time_ns=now_ns)
            found.append([await anext(left), await anext(right)])
    assert [[(each.status, each.guards) for each in pair] for pair in found] == [
        [(Status.ON_TIME, ())] * 2,
        [(Status.ON_TIME, ("left-frozen",))] * 2,
        [(Status.INVALID, ("blank",))] * 2,
    ]
    assert [[partner.input for each in pair for partner in each.fused] for pair in found] == [["right", "left"]] * 3


def fused(client: Client, input_: str) -> Stream:
    return client.stream(
        "rig", budget_ms=60_000.0, fusion=Fusion(group="rig", input=input_, tolerance_ms=0.0, wait="EXACT")
    )


def still_units(count: int) -> list[bytes]:
    """Access units of H.264 in which nothing moves."""
    codec: Any = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    codec.framerate, codec.time_base, codec.thread_count = Fraction(30), Fraction(1, 30), 1
    codec.options = {"tune": "zerolatency", "x264-params": "qp=20:keyint=100:scenecut=0"}
    (picture,) = pictures(1)
    packets: list[Any] = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = number
        packets += codec.encode(frame)
    return [bytes(packet) for packet in packets + codec.encode(None)]


async def test_video_in_which_nothing_moves_is_frozen_though_its_bytes_differ(server: App) -> None:
    still, moving = still_units(8), list(units("H264", 8))
    assert len(set(still)) > 2
    async with grpc.aio.insecure_channel(server.address) as channel:
        for sent, frozen in ((still, True), (moving, False)):
            async with Wire(channel, model="eye", default_budget_nano=60 * 10**9) as wire:
                await wire.send(*(unit(number, data) for number, data in enumerate(sent, start=1)))
                await wire.finish()
                outcomes = [wire.outcomes[number] for number in range(1, 9)]
            assert [outcome.status for outcome in outcomes] == [ON_TIME] * 8
            assert [list(outcome.guards) for outcome in outcomes[-2:]] == [["frozen"] if frozen else []] * 2


async def test_a_reply_of_kserve_has_the_guards_of_all_its_rows(server: App) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        plain = await infer(channel, request("watched", [[1, 2, 3, 4]]))
        assert "duly_guards" not in plain.parameters
        flagged = await infer(channel, request("watched", [[1, 2, 3, 4], [1, 2, 3, 60], [1, 2, 3, 160]]))
        assert flagged.parameters["duly_guards"].string_param == "distribution,range"
        assert list(flagged.outputs[0].shape) == [3, 4]
        (streamed,) = await stream_all(channel, [request("watched", [[1, 2, 3, 160]])])
        assert streamed.infer_response.parameters["duly_guards"].string_param == "range,distribution"
        (told,) = await stream_all(channel, [request("watched", [[1, 1, 1, 1]], duly_outcomes=True)])
        assert told.infer_response.parameters["duly_outcome"].string_param == "INVALID"
        assert told.infer_response.parameters["duly_guards"].string_param == "blank"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await infer(channel, request("watched", [[1, 1, 1, 1]]))
        assert "the frame is blank" in refused.value.details()
