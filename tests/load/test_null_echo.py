"""The null echo speaks the protocol: every frame gets exactly one outcome."""

import grpc
import pytest

from duly.v1 import inference_pb2, inference_pb2_grpc
from duly_load import null_echo

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
