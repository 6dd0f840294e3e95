"""Compressed requests: refused unless the server is set to take them, and bounded by what they unpack to."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from duly.rpc.kserve import messages as ks
from duly.rpc.server import MESSAGE_BYTES_MIN
from duly.v1 import inference_pb2 as pb
from duly.v1 import inference_pb2_grpc
from tests.e2e.serving import serving
from tests.e2e.test_kserve import SERVICE, request
from tests.e2e.wire import ON_TIME, frame

ALGORITHMS = (grpc.Compression.Gzip, grpc.Compression.Deflate)


@pytest.fixture
async def taking(repository: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(repository, compression=True) as app, grpc.aio.insecure_channel(app.address) as channel:
        yield channel


async def infer(
    channel: grpc.aio.Channel, asked: ks.ModelInferRequest, compression: grpc.Compression | None
) -> ks.ModelInferResponse:
    call = channel.unary_unary(
        f"{SERVICE}/ModelInfer", ks.ModelInferRequest.SerializeToString, ks.ModelInferResponse.FromString
    )
    return await call(asked, compression=compression)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
async def test_compressed_requests_are_taken_where_that_is_wanted(
    taking: grpc.aio.Channel, algorithm: grpc.Compression
) -> None:
    asked = request("double", [[1, 2, 3, 4]] * 8)
    assert await outputs(taking, asked, algorithm) == await outputs(taking, asked, None)
    stream = taking.stream_stream(
        f"{SERVICE}/ModelStreamInfer", ks.ModelInferRequest.SerializeToString, ks.ModelStreamInferResponse.FromString
    )(compression=algorithm)
    await stream.write(asked)
    await stream.done_writing()
    (reply,) = [reply async for reply in stream]
    assert list(reply.infer_response.raw_output_contents) == await outputs(taking, asked, None)
    single = await inference_pb2_grpc.InferenceServiceStub(taking).Infer(
        pb.InferRequest(model="double", frame=frame(1)), compression=algorithm
    )
    assert single.outcome.status == ON_TIME


async def outputs(
    channel: grpc.aio.Channel, asked: ks.ModelInferRequest, compression: grpc.Compression | None
) -> list[bytes]:
    return list((await infer(channel, asked, compression)).raw_output_contents)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
async def test_what_a_message_unpacks_to_has_the_limit_of_messages(
    taking: grpc.aio.Channel, algorithm: grpc.Compression
) -> None:
    bomb = request("double", [[0] * 4])
    bomb.raw_input_contents[0] = bytes(8 * MESSAGE_BYTES_MIN)  # some 30 KiB when it is packed
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await infer(taking, bomb, algorithm)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await infer(taking, request("double", [[1, 2, 3, 4]]), algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
async def test_compressed_requests_are_refused_otherwise(
    channel: grpc.aio.Channel, algorithm: grpc.Compression
) -> None:
    asked = request("double", [[1, 2, 3, 4]])
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await infer(channel, asked, algorithm)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await infer(channel, asked, None)
