"""What the server reads from the bytes of a request, held against what protobuf says is in them."""

from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError

from duly.models.spec import ELEMENT_BYTES, Signature
from duly.rpc.kserve import messages as ks
from duly.rpc.kserve.common_requests import common_of, read
from duly.rpc.kserve.parameters import PARAMETERS_MAX, asked_for
from duly.rpc.kserve.regions import Place
from duly.rpc.kserve.requests import Payload, RequestReader
from duly.rpc.message_bounds import MessageBounds
from duly.streams.errors import CallError, InvalidFrame

BOUNDS = MessageBounds(ks.ModelInferRequest)
REGION = bytes(range(64))


class _OneRegion:
    """A region `a` of 64 bytes, and no other."""

    def check(self, place: Place) -> None:
        if place.region != "a" or place.offset + place.size_bytes > len(REGION):
            raise CallError("INVALID_REQUEST", f"{place.called}: there is no such place")

    def read(self, place: Place) -> bytes:
        self.check(place)
        return REGION[place.offset : place.offset + place.size_bytes]


def check(message: bytes, signature: Signature) -> str:
    """Reads a request for such a model. Raises AssertionError where what is read is not what is there, or is more than
    the model takes. Returns what came of it: frames, or the kind of refusal.
    """
    try:
        BOUNDS.check(message)
        request = ks.ModelInferRequest.FromString(message)
    except (CallError, DecodeError):
        return "malformed"
    reader = RequestReader(signature, max(signature.batch_sizes) if signature.batched else 0, _OneRegion())  # type: ignore[arg-type]
    try:
        asked = asked_for(request.parameters)
        wanted = reader.wanted(request)
        frames = reader.frames(request)
    except (CallError, InvalidFrame):
        return "refused"
    assert len(request.parameters) <= PARAMETERS_MAX
    assert 0 <= asked.budget_ns < 1 << 63
    assert asked.period_ns >= 0
    assert asked.captured_unix_ns >= 0
    if wanted is not None:
        assert [signature.outputs[output.index].name for output in wanted] == [each.name for each in request.outputs]
    _check_frames(request, signature, frames)
    return "frames"


def texts_in(data: bytes) -> int:
    """Returns how many texts there are. Raises AssertionError where the lengths are not what they should be."""
    count = at = 0
    while at < len(data):
        at += 4 + int.from_bytes(data[at : at + 4], "little")
        count += 1
    assert at == len(data)
    return count


def _check_frames(request: ks.ModelInferRequest, signature: Signature, frames: Sequence[Payload]) -> None:
    assert 1 <= len(frames) <= max(signature.batch_sizes)
    for payload, size_bytes in frames:
        assert len(payload) == len(signature.inputs)
        assert size_bytes == sum(len(each.data) for each in payload)
        for each, spec in zip(payload, signature.inputs, strict=True):
            _, shape, data = each
            assert len(data) <= spec.bytes_max
            assert len(shape) == len(spec.shape)
            assert all(have == want or (want == -1 and have >= 0) for have, want in zip(shape, spec.shape, strict=True))
            if spec.datatype != "STRING":
                assert len(data) == int(np.prod(shape)) * ELEMENT_BYTES[spec.datatype]
            elif len(frames) > 1:  # of a row alone, the worker says whether it is text
                assert texts_in(bytes(data)) == int(np.prod(shape))
    raw = list(request.raw_input_contents)
    for tensor in request.inputs:
        index = next(n for n, spec in enumerate(signature.inputs) if tensor.name in (spec.name, ""))
        joined = b"".join([bytes(payload[index].data) for payload, _ in frames])
        if "shared_memory_region" in tensor.parameters:
            assert joined in REGION
        elif request.raw_input_contents:
            assert joined == raw.pop(0)
        elif tensor.datatype == "BYTES":
            joined_texts = [len(text).to_bytes(4, "little") + text for text in tensor.contents.bytes_contents]
            assert joined == b"".join(joined_texts)
        else:
            kind = {"BOOL": "?", "UINT8": "u1", "FP32": "<f4", "INT16": "<i2", "INT64": "<i8"}[tensor.datatype]
            values = [list(value) for _, value in tensor.contents.ListFields()]
            assert joined == np.array(values[0] if values else [], kind).tobytes()
    assert not raw


def check_common(first: bytes, second: bytes, signature: Signature) -> bool:
    """Reads the second message by what the first one has in common with it. Raises AssertionError where that is not
    what protobuf reads. Returns whether it was read so.
    """
    reader = RequestReader(signature, max(signature.batch_sizes) if signature.batched else 0, _OneRegion())  # type: ignore[arg-type]
    try:
        learnt = ks.ModelInferRequest.FromString(first)
        frames = reader.frames(learnt)
    except (CallError, InvalidFrame, DecodeError):
        return False
    if len(learnt.raw_input_contents) != 1 or len(frames) != 1 or len(frames[0][0]) != 1:
        return False
    common = common_of(first, learnt, frames[0])
    found = read(second, common) if common is not None else None
    if found is None:
        return False
    BOUNDS.check(second)
    request = ks.ModelInferRequest.FromString(second)
    request_id, frame = found
    assert request.id == request_id
    assert _plain(reader.frames(request)) == _plain([frame])
    request.id = learnt.id
    request.raw_input_contents[:] = learnt.raw_input_contents
    assert request == learnt
    return True


def _plain(frames: Sequence[Payload]) -> list[object]:
    return [([(kind, shape, bytes(data)) for kind, shape, data in inputs], size) for inputs, size in frames]
