"""The null echo speaks both protocols: every frame gets exactly one outcome."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from duly.v1 import inference_pb2, inference_pb2_grpc
from duly_load.protocols import kserve_proto
from duly_load.targets import null_echo

FRAMES_PER_MESSAGE = (1, 3, 1)


async def test_every_frame_gets_one_outcome_of_64_bytes() -> None:
    server, port = await null_echo.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = inference_pb2_grpc.InferenceServiceStub(channel).Stream()
            await call.write(inference_pb2.StreamRequest(open=inference_pb2.OpenStream(model="any")))
            assert (await call.read()).WhichOneof("response") == "opened"
            next_id = 1
            for frames in FRAMES_PER_MESSAGE:
                ids = list(range(next_id, next_id + frames))
                next_id += frames
                batch = inference_pb2.FrameBatch(frames=[inference_pb2.Frame(frame_id=frame_id) for frame_id in ids])
                await call.write(inference_pb2.StreamRequest(frames=batch))
                outcomes = (await call.read()).outcomes.outcomes
                assert [outcome.frame_id for outcome in outcomes] == ids
                assert {outcome.status for outcome in outcomes} == {inference_pb2.OUTCOME_STATUS_ON_TIME}
                assert [len(outcome.outputs[0].data) for outcome in outcomes] == [64] * frames
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
    finally:
        await server.stop(None)


async def test_an_address_that_cannot_be_bound_is_named() -> None:
    with pytest.raises(OSError, match=r"unix:/nonexistent/echo\.sock: cannot listen there"):
        await null_echo.start("unix:/nonexistent/echo.sock")


async def test_kserve_streams_and_calls_are_answered_by_their_ids(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/echo.sock"
    server, _ = await null_echo.start(listen)
    try:
        async with grpc.aio.insecure_channel(listen) as channel:
            request = kserve_proto.ModelInferRequest(model_name="any", id="7", raw_input_contents=[bytes(1024)])
            infer = channel.unary_unary(f"/{kserve_proto.SERVICE}/ModelInfer")
            answer = kserve_proto.ModelInferResponse.FromString(await infer(request.SerializeToString()))
            assert (answer.id, answer.model_name, len(answer.raw_output_contents[0])) == ("7", "any", 64)
            call = channel.stream_stream(f"/{kserve_proto.SERVICE}/ModelStreamInfer")()
            for frame in ("8", "9"):
                request.id = frame
                await call.write(request.SerializeToString())
                told = kserve_proto.ModelStreamInferResponse.FromString(await call.read())
                assert (told.infer_response.id, told.error_message) == (frame, "")
                assert [list(output.shape) for output in told.infer_response.outputs] == [[1, 64]]
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("ServerLive", kserve_proto.ServerLiveResponse(live=True)),
        ("ServerReady", kserve_proto.ServerReadyResponse(ready=True)),
        ("ModelReady", kserve_proto.ModelReadyResponse(ready=True)),
        ("ModelMetadata", kserve_proto.ModelMetadataResponse(name="any", versions=["1"], platform="null")),
    ],
)
async def test_kserve_clients_find_any_model_ready(method: str, answer: Any) -> None:
    server, port = await null_echo.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            asked = kserve_proto.ModelMetadataRequest(name="any").SerializeToString()  # as the others, as far as named
            got = await channel.unary_unary(f"/{kserve_proto.SERVICE}/{method}")(asked)
        assert type(answer).FromString(got) == answer
    finally:
        await server.stop(None)
