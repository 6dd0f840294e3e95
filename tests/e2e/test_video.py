"""Encoded video over a real server: every picture is the right one, or its frame says why there is none."""

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio

from duly.app import App
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from duly.worker.video_units import PARTS_MAX, packed_bytes
from duly_client import Client, Fusion, Status, Stream
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import CANCELLED, INVALID, ON_TIME, SUPERSEDED, Wire
from tests.encoded_video import HEIGHT, WIDTH, Array, decoded, units

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORMATS = {"H264": tensor_pb2.ENCODED_FORMAT_H264, "HEVC": tensor_pb2.ENCODED_FORMAT_HEVC}
TOML = """batch_sizes = [1, 2]
[[input]]
name = "x"
encodings = ["H264", "HEVC", "JPEG"]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    root = tmp_path_factory.mktemp("video") / "models"
    graphs.save(root, "eye", graphs.copying(("N", HEIGHT, WIDTH, 3), graphs.UINT8), TOML)
    async with serving(root) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def channel(server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


def unit(frame_id: int, data: bytes, encoding: str = "H264") -> pb.Frame:
    return pb.Frame(frame_id=frame_id, encoded=[tensor_pb2.Encoded(format=FORMATS[encoding], data=data)])


def picture(outcome: pb.Outcome) -> Array:
    assert outcome.status == ON_TIME, outcome.reason
    return np.frombuffer(outcome.outputs[0].data, np.uint8).reshape(outcome.outputs[0].shape)


def alike(one: Array, other: Array) -> bool:
    return int(np.abs(one.astype(int) - other).max()) <= 1


def frames(data: Sequence[bytes], encoding: str = "H264") -> list[pb.Frame]:
    return [unit(number, each, encoding) for number, each in enumerate(data, start=1)]


@pytest.mark.parametrize("encoding", FORMATS)
async def test_every_picture_is_that_of_its_frame(channel: grpc.aio.Channel, encoding: str) -> None:
    data = units(encoding, 20)
    async with Wire(channel, model="eye") as wire:
        for frame, wanted in zip(frames(data, encoding), decoded(encoding, data), strict=True):
            assert alike(picture(await wire.ask(frame)), wanted)


@pytest.mark.parametrize("encoding", FORMATS)
async def test_frames_that_wait_for_one_another_are_all_right(channel: grpc.aio.Channel, encoding: str) -> None:
    data = units(encoding, 20)
    async with Wire(channel, model="eye") as wire:
        await wire.send(*frames(data, encoding))
        for number, wanted in enumerate(decoded(encoding, data), start=1):
            assert alike(picture(await wire.outcome(number)), wanted)


@pytest.mark.parametrize("encoding", FORMATS)
async def test_pictures_that_were_not_run_are_not_missed(channel: grpc.aio.Channel, encoding: str) -> None:
    data = units(encoding, 7)
    async with Wire(channel, model="eye", backlog_policy=pb.BACKLOG_POLICY_LATEST) as wire:
        await wire.send(*frames(data, encoding))
        last = await wire.outcome(7)
        assert alike(picture(last), decoded(encoding, data)[6])
        assert [wire.outcomes[number].status for number in range(1, 7)] == [SUPERSEDED] * 6


async def test_a_frame_that_its_client_withdraws_is_not_missed(channel: grpc.aio.Channel) -> None:
    data = units("H264", 6)
    async with Wire(channel, model="eye") as wire:
        asked = frames(data)
        await wire.ask(asked[0])
        await wire.send(*asked[1:5])
        await wire.write(pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=[2, 3, 4, 5])))
        assert alike(picture(await wire.ask(asked[5])), decoded("H264", data)[5])
        assert {wire.outcomes[number].status for number in (2, 3, 4, 5)} <= {CANCELLED, ON_TIME}


@pytest.mark.parametrize("encoding", FORMATS)
async def test_where_an_access_unit_is_missing_no_picture_is_made_up(channel: grpc.aio.Channel, encoding: str) -> None:
    data = units(encoding, 12, key_every=8)
    wanted = decoded(encoding, data)
    async with Wire(channel, model="eye") as wire:
        for frame in frames(data, encoding):
            if frame.frame_id == 4:
                continue
            outcome = await wire.ask(frame)
            if 4 < frame.frame_id < 9:
                assert outcome.status == INVALID
                assert f"the next key picture of the {encoding} begins anew" in outcome.reason
            else:
                assert alike(picture(outcome), wanted[frame.frame_id - 1])


async def test_a_stream_that_begins_between_key_pictures_waits_for_one(channel: grpc.aio.Channel) -> None:
    data = units("H264", 12)
    async with Wire(channel, model="eye") as wire:
        outcomes = [await wire.ask(frame) for frame in frames(data)[5:]]
    assert [outcome.status for outcome in outcomes] == [INVALID] * 3 + [ON_TIME] * 4


async def test_a_unit_that_is_cut_off_is_invalid_and_what_needs_it_too(channel: grpc.aio.Channel) -> None:
    data = list(units("H264", 10))
    data[2] = data[2][: len(data[2]) // 2]
    async with Wire(channel, model="eye") as wire:
        outcomes = [await wire.ask(frame) for frame in frames(data)]
    assert [outcome.status for outcome in outcomes] == [ON_TIME] * 2 + [INVALID] * 6 + [ON_TIME] * 2
    assert "is damaged, cut off" in outcomes[2].reason


@pytest.mark.parametrize("encoding", FORMATS)
async def test_a_unit_that_has_its_pixels_many_times_over_is_not_decoded(
    channel: grpc.aio.Channel, encoding: str
) -> None:
    data = list(units(encoding, 10))
    last = data[2][data[2].rindex(b"\0\0\1") :]
    data[2] += PARTS_MAX * last
    async with Wire(channel, model="eye") as wire:
        outcomes = [await wire.ask(frame) for frame in frames(data, encoding)]
    assert [outcome.status for outcome in outcomes] == [ON_TIME] * 2 + [INVALID] * 6 + [ON_TIME] * 2
    assert f"at most {PARTS_MAX} are decoded" in outcomes[2].reason


async def test_a_unit_that_just_does_not_fit_fails_no_batch(tmp_path: Path) -> None:
    bytes_max = 4096
    toml = TOML.replace('name = "x"', f'name = "x"\nbytes_max = {bytes_max}')
    graphs.save(tmp_path, "eye", graphs.copying(("N", -1, -1, 3), graphs.UINT8), toml)
    key = units("H264", 1)[0]
    padded = key + bytes(bytes_max - len(key))
    async with serving(tmp_path) as app, grpc.aio.insecure_channel(app.address) as own, Wire(own, model="eye") as wire:
        assert alike(picture(await wire.ask(unit(1, key))), decoded("H264", [key])[0])
        refused = await wire.ask(unit(2, padded))
        assert (refused.status, f"at most {bytes_max} are taken" in refused.reason) == (INVALID, True)
        fits = await wire.ask(unit(3, padded[: bytes_max - packed_bytes(1, 0)]))
        assert fits.status == ON_TIME, fits.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (units("H264", 3, b_frames=2)[1], "needs pictures before it"),
        (b"\0\0\2\xa3" + units("H264", 1)[0][4:], "convert"),
        (b"\0\0\1", "needs pictures before it"),
        (b"\0\0\0\1\x65" + bytes(range(256)), "is damaged, cut off"),
        (b"\xff\xd8\xff\xe0", "do not begin as H264"),
    ],
    ids=["no key", "MP4", "nothing", "garbage", "JPEG"],
)
async def test_what_is_no_access_unit_is_invalid(channel: grpc.aio.Channel, data: bytes, reason: str) -> None:
    async with Wire(channel, model="eye") as wire:
        outcome = await wire.ask(unit(1, data))
        assert outcome.status == INVALID
        assert reason in outcome.reason
        assert alike(picture(await wire.ask(unit(2, units("H264", 1)[0]))), decoded("H264", units("H264", 1))[0])


async def test_pictures_that_come_in_another_order_are_refused(channel: grpc.aio.Channel) -> None:
    data = units("H264", 12, key_every=12, b_frames=2)
    wanted = decoded("H264", data)
    async with Wire(channel, model="eye") as wire:
        outcomes = [await wire.ask(frame) for frame in frames(data)]
    assert any("keeps the order" in outcome.reason for outcome in outcomes)
    right = [outcome for outcome in outcomes if outcome.status == ON_TIME]
    assert all(any(alike(picture(outcome), each) for each in wanted) for outcome in right)
    assert outcomes[-1].status == INVALID


async def test_a_picture_of_another_size_is_invalid(channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="eye") as wire:
        outcome = await wire.ask(unit(1, units("H264", 1, height=32)[0]))
        assert outcome.status == INVALID
        assert f"shape [32, {WIDTH}, 3], wanted is [{HEIGHT}, {WIDTH}, 3]" in outcome.reason


async def test_streams_do_not_mix(channel: grpc.aio.Channel) -> None:
    one, other = units("H264", 10, seed=1), units("HEVC", 10, seed=2)
    async with Wire(channel, model="eye") as first, Wire(channel, model="eye") as second:
        for index in range(10):
            assert alike(picture(await first.ask(unit(index + 1, one[index]))), decoded("H264", one)[index])
            second_outcome = await second.ask(unit(index + 1, other[index], "HEVC"))
            assert alike(picture(second_outcome), decoded("HEVC", other)[index])


async def test_a_worker_that_is_replaced_begins_with_the_next_key_picture(
    tmp_path: Path, channel: grpc.aio.Channel
) -> None:
    data = units("H264", 12)
    graphs.save(tmp_path, "eye", graphs.copying(("N", HEIGHT, WIDTH, 3), graphs.UINT8), TOML)
    async with serving(tmp_path) as app, grpc.aio.insecure_channel(app.address) as own, Wire(own, model="eye") as wire:
        for frame in frames(data)[:3]:
            picture(await wire.ask(frame))
        app.catalogue.find("eye", "1").workers["cpu:0"].kill()
        statuses = []
        for frame in frames(data)[3:]:
            outcome = await wire.ask(frame)
            statuses.append(outcome.status)
            if outcome.status == ON_TIME:
                assert alike(picture(outcome), decoded("H264", data)[frame.frame_id - 1])
        assert ON_TIME not in statuses[:5]


async def test_the_client_sends_video(server: App) -> None:
    data = units("H264", 5)
    async with Client(server.address) as client, client.stream("eye", budget_ms=5000) as stream:
        for number, each in enumerate(data):
            await stream.send(each, encoding="H264")
            outcome = await anext(stream)
            assert outcome.status is Status.ON_TIME, outcome.reason
            assert alike(outcome.outputs["y"], decoded("H264", data)[number])


async def test_who_takes_the_place_of_a_stream_in_a_fusion_group_begins_anew(tmp_path: Path) -> None:
    dims = ("N", HEIGHT, WIDTH, 3)
    both = graphs.model(
        [graphs.helper.make_node("Identity", [x], [y]) for x, y in (("x", "y"), ("w", "z"))],
        [graphs.value(name, dims, graphs.UINT8) for name in ("x", "w")],
        [graphs.value(name, dims, graphs.UINT8) for name in ("y", "z")],
    )
    graphs.save(tmp_path, "pair", both, "".join(f'[[input]]\nname = "{name}"\nencodings = ["H264"]\n' for name in "xw"))
    right, first, second = (units("H264", 3, seed=seed) for seed in range(3))

    async with serving(tmp_path) as app, Client(app.address) as client:

        def member(name: str) -> Stream:
            return client.stream("pair", budget_ms=20_000, fusion=Fusion("rig", name, 0.0, "EXACT"))

        async with member("w") as other:
            started_ns = time.time_ns()
            for nth, data in enumerate((first, second)):
                captured_ns = started_ns + nth
                async with member("x") as one:
                    await one.send(data[0], encoding="H264", capture_time_ns=captured_ns)
                    await other.send(right[nth], encoding="H264", capture_time_ns=captured_ns)
                    outcome = await anext(one)
                    assert outcome.status is Status.ON_TIME, outcome.reason
                    assert alike(outcome.outputs["y"], decoded("H264", data)[0])
                    assert alike(outcome.outputs["z"], decoded("H264", right)[nth])
