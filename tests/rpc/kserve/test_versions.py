"""Requests of one stream while another version of their model comes, which may take something else."""

import asyncio

from duly.models.spec import Signature, TensorSpec
from duly.rpc.kserve import messages as ks
from tests.rpc.kserve.calls import Call, Served, read_reply
from tests.rpc.kserve.drawn_requests import MODELS


def _outputs(*sizes: tuple[str, int]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, datatype="UINT8", shape=(size,)) for name, size in sizes)


def _request(request_id: str, *outputs: str) -> bytes:
    request = ks.ModelInferRequest(model_name="sum", id=request_id, raw_input_contents=[bytes(16)])
    request.inputs.add(name="x", datatype="INT64", shape=(1, 2))
    for name in outputs:
        request.outputs.add(name=name)
    return request.SerializeToString()


async def _answers(before: Signature, now: Signature, *requests: bytes) -> list[ks.ModelStreamInferResponse]:
    """Sends the first two requests to a model as it was before, and the others to its next version."""
    served, call = Served(), Call()
    served.load("sum", "2", signature=before)
    handler = served.stream(call)
    for nth, message in enumerate(requests):
        if nth == 2:
            served.load("sum", "3", signature=now)
        call.send(message)
        while len(call.replies) <= nth:
            await served.turn()
    call.half_close()
    await served.until_over(handler)
    await served.nothing_is_left()
    return [read_reply(reply) for reply in call.replies]


def test_a_version_of_another_type_is_never_given_what_was_read_for_the_one_before() -> None:
    """All requests have the same bytes but for the id, so that the second one is read by what the first one was."""
    before = MODELS["sum"].model_copy(update={"stateful": False})
    x = before.inputs[0].model_copy(update={"datatype": "FP64"})
    now = before.model_copy(update={"inputs": (x,)})
    replies = asyncio.run(_answers(before, now, *(_request(str(nth)) for nth in range(5))))
    assert [reply.infer_response.model_version for reply in replies[:2]] == ["2", "2"]
    for reply in replies[2:]:
        assert "datatype INT64, the model takes FP64" in reply.error_message
        assert not reply.infer_response.outputs


def test_an_output_is_the_one_of_that_name_also_where_the_next_version_has_them_in_another_order() -> None:
    before = MODELS["sum"].model_copy(update={"stateful": False, "outputs": _outputs(("p", 3), ("q", 5))})
    now = before.model_copy(update={"outputs": _outputs(("q", 5), ("p", 3))})
    requests = [_request(str(nth), "p") for nth in range(4)]
    replies = asyncio.run(_answers(before, now, *requests))
    assert [reply.infer_response.model_version for reply in replies] == ["2", "2", "3", "3"]
    for reply in replies:
        assert [(output.name, list(output.shape)) for output in reply.infer_response.outputs] == [("p", [1, 3])]


def test_an_output_that_the_next_version_has_alone_can_be_asked_for_at_once() -> None:
    before = MODELS["sum"].model_copy(update={"stateful": False, "outputs": _outputs(("p", 3))})
    now = before.model_copy(update={"outputs": _outputs(("q", 5))})
    replies = asyncio.run(_answers(before, now, _request("0"), _request("1", "p"), _request("2", "q")))
    assert [output.name for output in replies[2].infer_response.outputs] == ["q"], replies[2].error_message
