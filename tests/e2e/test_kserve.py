"""KServe's protocol: requests in, replies out, on the same scheduler and port."""

import struct

import grpc
import pytest

from duly.rpc.kserve import messages as ks

pytestmark = pytest.mark.asyncio(loop_scope="module")
SERVICE = "/inference.GRPCInferenceService"


def request(model: str, rows: list[list[float]], **parameters: int | bool | str) -> ks.ModelInferRequest:
    asked = ks.ModelInferRequest(model_name=model, id="r1")
    asked.inputs.add(name="x", datatype="FP32", shape=[len(rows), len(rows[0])])
    asked.raw_input_contents.append(b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows))
    for name, value in parameters.items():
        if isinstance(value, bool):
            asked.parameters[name].bool_param = value
        elif isinstance(value, int):
            asked.parameters[name].int64_param = value
        else:
            asked.parameters[name].string_param = value
    return asked


async def infer(channel: grpc.aio.Channel, asked: ks.ModelInferRequest) -> ks.ModelInferResponse:
    call = channel.unary_unary(
        f"{SERVICE}/ModelInfer", ks.ModelInferRequest.SerializeToString, ks.ModelInferResponse.FromString
    )
    return await call(asked)


async def stream_all(channel: grpc.aio.Channel, asked: list[ks.ModelInferRequest]) -> list[ks.ModelStreamInferResponse]:
    call = channel.stream_stream(
        f"{SERVICE}/ModelStreamInfer", ks.ModelInferRequest.SerializeToString, ks.ModelStreamInferResponse.FromString
    )()
    for each in asked:
        await call.write(each)
    await call.done_writing()
    return [reply async for reply in call]


async def test_a_request_gets_its_outputs(shared_channel: grpc.aio.Channel) -> None:
    reply = await infer(shared_channel, request("double", [[1, -2, 3.5, 0]]))
    assert (reply.model_name, reply.model_version, reply.id) == ("double", "1", "r1")
    assert [(o.name, o.datatype, list(o.shape)) for o in reply.outputs] == [("y", "FP32", [1, 4])]
    assert struct.unpack("<4f", reply.raw_output_contents[0]) == (2, -4, 7, 0)
    assert reply.parameters["duly_outcome"].string_param == "ON_TIME"
    assert reply.parameters["duly_slack_us"].int64_param > 0
    assert reply.parameters["duly_run_us"].int64_param >= 0


async def test_rows_are_frames_and_come_back_as_one(shared_channel: grpc.aio.Channel) -> None:
    reply = await infer(shared_channel, request("double", [[i] * 4 for i in range(3)]))
    assert list(reply.outputs[0].shape) == [3, 4]
    assert struct.unpack("<12f", reply.raw_output_contents[0]) == tuple(2.0 * i for i in range(3) for _ in range(4))


async def test_a_stream_answers_each_request_and_goes_on_after_errors(shared_channel: grpc.aio.Channel) -> None:
    good, bad, unknown = request("double", [[1] * 4]), request("double", [[1] * 5]), request("nothing", [[1] * 4])
    good.id, bad.id, unknown.id = "good", "bad", "unknown"
    replies = await stream_all(shared_channel, [bad, good, unknown, good])
    by_id: dict[str, list[ks.ModelStreamInferResponse]] = {}
    for reply in replies:
        by_id.setdefault(reply.infer_response.id, []).append(reply)
    assert [reply.error_message for reply in by_id["good"]] == ["", ""]
    assert by_id["bad"][0].error_message.startswith(
        "[request id: bad] INVALID: input 'x': shape [1, 5], the model takes [-1, 4]"
    )
    assert by_id["unknown"][0].error_message.startswith("[request id: unknown] there is no model 'nothing'")


async def test_a_request_alone_for_a_model_that_is_not_there_says_whose_it_is(shared_channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await infer(shared_channel, request("nothing", [[1] * 4]))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details().startswith("[request id: r1] there is no model 'nothing'; there are: ")
