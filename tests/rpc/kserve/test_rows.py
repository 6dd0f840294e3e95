"""How many rows a request may have, whatever its model's author says."""

import asyncio

import pytest

from duly.models.spec import TensorSpec
from duly.rpc.kserve import messages as ks
from duly.streams.stream import Stream
from tests.rpc.kserve.calls import FRAMES_MAX, Call, Served, read_reply
from tests.rpc.kserve.drawn_requests import MODELS

OPEN = MODELS["sum"].model_copy(
    update={"stateful": False, "inputs": (TensorSpec(name="x", datatype="UINT8", shape=(-1,), bytes_max=64),)}
)


async def _answer(rows: int, extent: int, rows_max: int) -> ks.ModelStreamInferResponse:
    served, call = Served(), Call()
    served.load("sum", "2", signature=OPEN, rows_max=rows_max)
    request = ks.ModelInferRequest(model_name="sum", raw_input_contents=[bytes(min(rows * extent, 4096))])
    request.inputs.add(name="x", datatype="UINT8", shape=(rows, extent))
    handler = served.stream(call)
    call.send(request.SerializeToString())
    call.half_close()
    await served.until_over(handler)
    await served.nothing_is_left()
    (reply,) = call.replies
    return read_reply(reply)


def test_a_request_has_as_many_rows_as_a_stream_may_have_frames() -> None:
    """More would never be answered: the stream may not have as many unanswered."""
    reply = asyncio.run(_answer(FRAMES_MAX, 1, rows_max=1000))
    assert list(reply.infer_response.outputs[0].shape) == [FRAMES_MAX, 4], reply.error_message
    reply = asyncio.run(_answer(FRAMES_MAX + 1, 1, rows_max=1000))
    assert f"with at most {FRAMES_MAX} rows" in reply.error_message


@pytest.mark.parametrize("rows", [100_000, (1 << 63) - 1])
def test_rows_that_hold_nothing_are_no_more_than_others(rows: int) -> None:
    """They take no bytes, so that the size of the message does not bound how many there are."""
    assert f"with at most {FRAMES_MAX} rows" in asyncio.run(_answer(rows, 0, rows_max=1000)).error_message


def test_rows_are_withdrawn_once_when_one_of_them_gets_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    withdrawn: list[int] = []

    async def answer() -> ks.ModelStreamInferResponse:
        served, call = Served(), Call()
        request = ks.ModelInferRequest(model_name="rows", raw_input_contents=[bytes(32), bytes(16)])
        request.inputs.add(name="x", datatype="FP32", shape=(4, 2))
        request.inputs.add(name="open", datatype="INT16", shape=(4, 1, 2))
        request.parameters["timeout"].int64_param = 1
        handler = served.stream(call)
        call.send(request.SerializeToString())
        call.half_close()
        await served.until_over(handler)
        await served.nothing_is_left()
        return read_reply(call.replies[0])

    withdraw = Stream.withdraw
    monkeypatch.setattr(Stream, "withdraw", lambda self, ids: (withdrawn.append(len(ids)), withdraw(self, ids)))
    assert "EXPIRED" in asyncio.run(answer()).error_message
    assert len(withdrawn) <= 1
