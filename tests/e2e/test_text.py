"""A real text model from the client's text to its label, over gRPC and the local transport, beside clients that lie."""

import struct
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio

from duly.app import App
from duly.models.spec import TEXT_ELEMENTS_MAX
from duly.rpc.local import layout
from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc, model_pb2, model_pb2_grpc, tensor_pb2
from duly.worker.dtypes import BFLOAT16, as_numbers, of_type
from duly.worker.text import read_texts, write_texts
from duly_sim.simulator.replay import replay
from tests import graphs
from tests.e2e.local_wire import LocalWire
from tests.e2e.serving import serving
from tests.e2e.wire import INVALID, ON_TIME, Wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

REVIEWS = {"A GOOD film": "positive", "Dull, bad": "negative", "": "negative", "great  great bad é": "positive"}


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("s") / "local.sock")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory, sockets: str) -> AsyncIterator[App]:
    root = tmp_path_factory.mktemp("text") / "models"
    graphs.save(root, "reviews", graphs.sorting_reviews())
    graphs.save(root, "join", graphs.joining_texts(("N", "words")))
    graphs.save(root, "halves", graphs.doubling_halves())
    async with serving(root, local=sockets) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def channel(app: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(app.address) as channel:
        yield channel


def texts(*elements: str, shape: tuple[int, ...] | None = None) -> tensor_pb2.Tensor:
    data = write_texts(elements)
    return tensor_pb2.Tensor(
        datatype=tensor_pb2.DATA_TYPE_STRING, shape=(len(elements),) if shape is None else shape, data=data
    )


def said(output: tensor_pb2.Tensor) -> list[str]:
    assert output.datatype == tensor_pb2.DATA_TYPE_STRING
    return read_texts(output.data, int(np.prod(output.shape)))


async def test_reviews_are_sorted_in_batches(channel: grpc.aio.Channel) -> None:
    async with Wire(channel, model="reviews") as wire:
        assert [(spec.name, spec.datatype, list(spec.shape)) for spec in wire.terms.inputs] == [
            ("text", tensor_pb2.DATA_TYPE_STRING, [])
        ]
        frames = [
            pb.Frame(frame_id=number, tensors=[texts(review, shape=())]) for number, review in enumerate(REVIEWS, 1)
        ]
        await wire.send(*frames)
        outcomes = [await wire.outcome(frame.frame_id) for frame in frames]
        assert [outcome.status for outcome in outcomes] == [ON_TIME] * len(frames)
        assert [said(outcome.outputs[0]) for outcome in outcomes] == [[label] for label in REVIEWS.values()]
        assert max(outcome.batch_size for outcome in outcomes) > 1
        assert [list(outcome.outputs[1].shape) for outcome in outcomes] == [[2]] * len(frames)


async def test_single_frames_and_the_description_of_the_model(channel: grpc.aio.Channel) -> None:
    infer = inference_pb2_grpc.InferenceServiceStub(channel).Infer
    asked = pb.Frame(frame_id=1, tensors=[texts("great", shape=())], budget_nano=5 * 10**9)
    outcome = (await infer(pb.InferRequest(model="reviews", frame=asked))).outcome
    assert said(outcome.outputs[0]) == ["positive"]
    get = model_pb2_grpc.ModelServiceStub(channel).GetModel
    version = (await get(model_pb2.GetModelRequest(name="reviews"))).model.versions[0]
    assert [spec.datatype for spec in version.outputs] == [tensor_pb2.DATA_TYPE_STRING, tensor_pb2.DATA_TYPE_FP32]


LIES = {
    "beyond": (struct.pack("<I", 9) + b"abc", [1], "element 0 of 1 states 9 bytes, 3 are left"),
    "four GiB": (b"\xff\xff\xff\xffabc", [1], "element 0 of 1 states 4294967295 bytes, 3 are left"),
    "fewer than the shape": (write_texts(["abcdefgh"]), [2], "element 1 of 2|its 12 bytes end after 1 of 2 elements"),
    "more than the shape": (write_texts(["a", "b"]), [1], "5 bytes follow the last of its 1 elements"),
    "no room for the lengths": (b"", [3], "0 bytes, STRING[3] takes at least 12"),
    "bytes for no elements": (b"ab", [0], "2 bytes, STRING[0] takes at least 0"),
    "no UTF-8": (struct.pack("<I", 2) + b"\xc3\x28", [1], "element 0 of 1 is no UTF-8: byte 0 of its 2 is 0xc3"),
    "millions of empty ones": (bytes(8_000_000), [2_000_000], "2,000,000 elements of text, at most 65,536 are taken"),
    "a shape beyond all bounds": (b"", [1 << 62], "takes at least"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_lengths_that_lie_are_invalid_and_cost_nobody_else_anything(channel: grpc.aio.Channel, lie: str) -> None:
    data, shape, words = LIES[lie]
    lying = tensor_pb2.Tensor(datatype=tensor_pb2.DATA_TYPE_STRING, shape=shape, data=data)
    async with Wire(channel, model="join") as wire:
        frames = [
            pb.Frame(frame_id=1, tensors=[texts("a", "b")]),
            pb.Frame(frame_id=2, tensors=[lying]),
            pb.Frame(frame_id=3, tensors=[texts("c", "d")]),
        ]
        await wire.send(*frames)
        outcomes = [await wire.outcome(number) for number in (1, 2, 3)]
        assert [outcome.status for outcome in outcomes] == [ON_TIME, INVALID, ON_TIME]
        assert any(each in outcomes[1].reason for each in words.split("|")), outcomes[1].reason
        assert "'x'" in outcomes[1].reason
        assert said(outcomes[0].outputs[0]) == ["aa", "bb"]
        assert said(outcomes[2].outputs[0]) == ["cc", "dd"]


async def test_as_many_elements_as_are_taken(channel: grpc.aio.Channel) -> None:
    many = tensor_pb2.Tensor(
        datatype=tensor_pb2.DATA_TYPE_STRING, shape=[TEXT_ELEMENTS_MAX], data=bytes(4 * TEXT_ELEMENTS_MAX)
    )
    async with Wire(channel, model="join") as wire:
        outcome = await wire.ask(pb.Frame(frame_id=1, tensors=[many]))
        assert outcome.status == ON_TIME, outcome.reason
        assert outcome.outputs[0].data == bytes(4 * TEXT_ELEMENTS_MAX)


async def test_another_type_is_named(channel: grpc.aio.Channel) -> None:
    numbers = tensor_pb2.Tensor(datatype=tensor_pb2.DATA_TYPE_UINT8, shape=[2], data=b"ab")
    async with Wire(channel, model="join") as wire:
        outcome = await wire.ask(pb.Frame(frame_id=1, tensors=[numbers]))
        assert (outcome.status, outcome.reason) == (INVALID, "input 'x': datatype UINT8, the model takes STRING")


@pytest.mark.parametrize("size", [3, 50_000], ids=["copied", "read by the worker"])
async def test_text_through_shared_memory(app: App, sockets: str, size: int) -> None:
    async with LocalWire(sockets, model="join") as wire:
        for number, words in enumerate((["a", "b"], ["é" * size, ""]), 1):
            data = write_texts(words)
            place = layout.TENSOR.pack(
                wire.put(data), len(data), 0, tensor_pb2.DATA_TYPE_STRING, 1, 2, *[0] * (layout.EXTENTS - 1)
            )
            await wire.send(layout.FRAME.pack(number, 0, 0, 0, 1, 0) + place)
            outcome = await wire.outcome(number)
            assert outcome.status == ON_TIME, outcome.reason
            assert read_texts(bytes(outcome.outputs[0].data), 2) == [word * 2 for word in words]
        lying = layout.TENSOR.pack(
            wire.put(b"\xff" * 40_000), 40_000, 0, tensor_pb2.DATA_TYPE_STRING, 1, 2, *[0] * (layout.EXTENTS - 1)
        )
        await wire.send(layout.FRAME.pack(9, 0, 0, 0, 1, 0) + lying)
        outcome = await wire.outcome(9)
        assert outcome.status == INVALID
        assert "element 0 of 2 states 4294967295 bytes, 39996 are left" in outcome.reason


async def test_bf16_goes_in_and_comes_out(channel: grpc.aio.Channel) -> None:
    numbers = of_type(np.float32([1, 2.5, -3, 1e30]), BFLOAT16)
    async with Wire(channel, model="halves") as wire:
        assert wire.terms.inputs[0].datatype == tensor_pb2.DATA_TYPE_BF16
        assert wire.terms.inputs[0].finite
        halves = tensor_pb2.Tensor(datatype=tensor_pb2.DATA_TYPE_BF16, shape=[4], data=numbers.tobytes())
        outcome = await wire.ask(pb.Frame(frame_id=1, tensors=[halves]))
        assert outcome.outputs[0].datatype == tensor_pb2.DATA_TYPE_BF16
        doubled = as_numbers(np.frombuffer(outcome.outputs[0].data, BFLOAT16))
        np.testing.assert_array_equal(doubled, 2 * as_numbers(numbers))
        halves.data = of_type(np.float32([1, np.nan, 3, 4]), BFLOAT16).tobytes()
        outcome = await wire.ask(pb.Frame(frame_id=2, tensors=[halves]))
        assert (outcome.status, outcome.reason) == (INVALID, "input 'x': an element is NaN or infinite")


async def test_a_recording_of_text_streams_replays(tmp_path: Path) -> None:
    graphs.save(tmp_path / "models", "reviews", graphs.sorting_reviews())
    record = tmp_path / "duly.log"
    async with (
        serving(tmp_path / "models", record=record) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="reviews") as wire,
    ):
        reviews = enumerate(REVIEWS, 1)
        await wire.send(*(pb.Frame(frame_id=nth, tensors=[texts(review, shape=())]) for nth, review in reviews))
        await wire.finish()
    replayed = replay(record)
    assert (replayed.difference, replayed.frames) == (None, len(REVIEWS))
