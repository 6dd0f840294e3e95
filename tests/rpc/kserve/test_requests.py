"""Requests are read as protobuf says they are, or refused: whatever is in them, and whichever way they are read."""

from random import Random

from duly.rpc.kserve import messages as ks
from tests.rpc.kserve.drawn_requests import MODELS, Draw, drawn, valid
from tests.rpc.kserve.read_requests import check, check_common


def test_drawn_requests_are_read_as_they_are_or_refused() -> None:
    came = {"frames": 0, "refused": 0, "malformed": 0}
    for seed in range(6000):
        message = drawn(Draw.seeded(seed))
        came[check(message, tuple(MODELS.values())[seed % 4])] += 1
    assert min(came.values()) > 100, came


def test_requests_that_have_much_in_common_are_read_alike() -> None:
    """What was learnt from one request is used on others that differ from it, by little or in any byte."""
    signature, read = MODELS["sum"], 0
    for seed in range(4000):
        chance = Random(seed)
        first = valid(Draw(b"\2" + chance.randbytes(6)))
        first.raw_input_contents[:] = [bytes(16)]
        first.inputs[0].ClearField("contents")
        first.inputs[0].shape[:] = (1, 2)
        if seed % 3 == 0:
            first.parameters["own"].string_param = chance.choice(("", ":\x10", "a" * 20))
        message = first.SerializeToString()
        if seed % 4 == 0:  # fields may come twice, and in any order
            at = chance.choice((0, len(message) - 18))
            message = (
                message[:at] + chance.choice((b"\x1a\1a", b"\x12\0", b":\x10" + bytes(16), b"\x0a\3sum")) + message[at:]
            )
        second = bytearray(message)
        for _ in range(chance.randint(1, 3)):
            second[chance.randrange(len(second))] = chance.randrange(256)
        if chance.random() < 0.5:
            second = bytearray(message.replace(b"\x1a\1" + first.id.encode(), b"\x1a\1z", 1))
        elif chance.random() < 0.5:
            second = bytearray(message[:-16] + chance.randbytes(16))
        read += check_common(message, bytes(second), signature)
    assert read > 1000


def test_contents_with_nothing_in_it_beside_raw_data_is_none() -> None:
    """MLServer's clients send it with every input."""
    request = ks.ModelInferRequest(model_name="sum", raw_input_contents=[bytes(16)])
    tensor = request.inputs.add(name="x", datatype="INT64", shape=(1, 2))
    tensor.contents.SetInParent()
    assert check(request.SerializeToString(), MODELS["sum"]) == "frames"
    tensor.contents.int64_contents.append(1)
    assert check(request.SerializeToString(), MODELS["sum"]) == "refused"
