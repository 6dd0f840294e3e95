"""What a call is told whose request cannot be in time: it depends on whose deadline that is."""

import asyncio

import grpc
import pytest

from duly.rpc.kserve import messages as ks
from tests.rpc.kserve.calls import MS, Call, Served

NEEDED_S = MS / 1e9
"""How long a batch of one is planned to take, at the least."""


async def _status(sequence: bool, timeout_us: int, call_s: float | None) -> tuple[grpc.StatusCode, str]:
    served, call = Served(), Call(seconds=call_s)
    request = ks.ModelInferRequest(model_name="sum", id="r1", raw_input_contents=[bytes(16)])
    request.inputs.add(name="x", datatype="INT64", shape=(1, 2))
    if timeout_us:
        request.parameters["timeout"].int64_param = timeout_us
    if sequence:
        request.parameters["sequence_id"].int64_param = 7
        request.parameters["sequence_start"].bool_param = True
    handler = served.infer(request.SerializeToString(), call)
    await served.until_over(handler)
    await served.nothing_is_left()
    assert call.status is not None
    return call.status


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize(
    ("timeout_us", "call_s", "code"),
    [
        (0, NEEDED_S / 10, grpc.StatusCode.DEADLINE_EXCEEDED),
        (1_000_000, NEEDED_S / 10, grpc.StatusCode.DEADLINE_EXCEEDED),
        (100, NEEDED_S * 1000, grpc.StatusCode.UNAVAILABLE),
        (100, None, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_a_request_that_cannot_be_in_time_is_late_for_its_call_or_for_its_budget(
    sequence: bool, timeout_us: int, call_s: float | None, code: grpc.StatusCode
) -> None:
    told, text = asyncio.run(_status(sequence, timeout_us, call_s))
    assert told is code, text
    words = "Deadline Exceeded: EXPIRED: " if code is grpc.StatusCode.DEADLINE_EXCEEDED else "EXPIRED: "
    assert text.startswith(f"[request id: r1] {words}")
