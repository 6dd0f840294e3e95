"""Replies are written as bytes without protobuf: protobuf reads from them what was meant, whatever they hold."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.events import DispatchBatch
from duly.core.types import Frame, OutcomeStatus, StreamClass
from duly.models.spec import ELEMENT_BYTES, Signature, TensorSpec
from duly.rpc.kserve import classification
from duly.rpc.kserve import messages as ks
from duly.rpc.kserve.classification import classes_of
from duly.rpc.kserve.regions import Place
from duly.rpc.kserve.replies import ID_CHARS_MAX, Answer, ReplyWriter, Times, in_stream, only_id
from duly.rpc.kserve.requests import Wanted
from duly.runtime.held_frames import HeldFrame
from duly.runtime.outcome import BatchRun, Outcome
from duly.streams.errors import InvalidFrame

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
DATATYPES = ("BOOL", "INT8", "UINT16", "INT32", "UINT64", "FP16", "FP32", "FP64")


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    names = draw(st.lists(TEXTS.filter(bool), min_size=1, max_size=4, unique=True))
    batched = draw(st.booleans())
    outputs = tuple(
        TensorSpec(name=name, datatype=draw(st.sampled_from(DATATYPES)), shape=(-1, 2), bytes_max=1000, batched=batched)
        for name in names
    )
    inputs = (TensorSpec(name="x", datatype="FP32", shape=(1,), bytes_max=4, batched=batched),)
    return Signature(inputs=inputs, outputs=outputs, batch_sizes=(1, 4), any_size=True, stateful=False)


@st.composite
def answers(draw: st.DrawFn) -> tuple[Signature, Answer]:
    signature = draw(signatures())
    extents = [draw(st.integers(0, 200)) for _ in signature.outputs]
    outcomes = []
    for row in range(draw(st.integers(1, 4)) if signature.batched else 1):
        frame = Frame(row, 1, row, "m/1", 1_000, False, False)
        held = HeldFrame(frame, StreamClass.STANDARD, signature, 0, 0)
        run = BatchRun(DispatchBatch(1, "cpu:0", "m/1", draw(TEXTS), [frame], 1), 0, 1, 2)
        outputs = [
            (index, (extent, 2), bytes([row + index]) * (extent * 2 * ELEMENT_BYTES[spec.datatype]))
            for index, (extent, spec) in enumerate(zip(extents, signature.outputs, strict=True))
        ]
        outcomes.append(Outcome(held, OutcomeStatus.ON_TIME, "", run, outputs))
    wanted = None
    if draw(st.booleans()):
        chosen = draw(st.permutations(range(len(signature.outputs))))[: draw(st.integers(1, len(signature.outputs)))]
        places = st.none() | st.builds(
            Place, TEXTS, TEXTS, st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 63) - 1)
        )
        wanted = tuple(Wanted(index, 0, draw(places)) for index in chosen)
    times = Times(draw(NUMBERS), draw(st.integers(0, 1 << 62)), draw(st.integers(0, 1 << 62)))
    dropped = draw(st.booleans())
    status, results = ("EXPIRED", []) if dropped else ("ON_TIME", outcomes)
    answer = Answer(draw(TEXTS), status, draw(TEXTS), times, results, wanted, draw(st.booleans()))
    return signature, answer


@given(answers(), TEXTS, TEXTS)
def test_protobuf_reads_what_was_meant(drawn: tuple[Signature, Answer], model: str, version: str) -> None:
    signature, answer = drawn
    writer = ReplyWriter(signature, signature.batched, model, version)
    for _ in range(2):  # what is written once is kept
        reply = ks.ModelInferResponse.FromString(b"".join(writer.response(answer)))
        assert (reply.model_name, reply.model_version, reply.id) == (model, version, answer.request_id)
        parameters = reply.parameters
        assert parameters["duly_outcome"].string_param == answer.status
        assert parameters["duly_reason"].string_param == answer.reason
        told = [parameters[f"duly_{name}_us"].int64_param for name in ("slack", "queue", "run")]
        assert tuple(told) == answer.times
        assert parameters["triton_final_response"].bool_param
        _check_outputs(signature, answer, reply)
        again = ks.ModelInferResponse.FromString(reply.SerializeToString())
        again.DiscardUnknownFields()
        assert again == reply, "nothing but what the protocol has"


def _check_outputs(signature: Signature, answer: Answer, reply: ks.ModelInferResponse) -> None:
    if not answer.outcomes:
        assert not reply.outputs
        assert not reply.raw_output_contents
        return
    wanted = answer.wanted or [Wanted(index) for index in range(len(signature.outputs))]
    assert [output.name for output in reply.outputs] == [signature.outputs[each.index].name for each in wanted]
    for output, raw, each in zip(reply.outputs, reply.raw_output_contents, wanted, strict=True):
        spec = signature.outputs[each.index]
        data = b"".join(outcome.outputs[each.index][2] for outcome in answer.outcomes if outcome.outputs)
        assert output.datatype == spec.datatype
        assert prod(output.shape) * ELEMENT_BYTES[spec.datatype] == len(data)
        assert len(output.shape) == 2 + signature.batched
        if each.place is None:
            assert raw == data
            assert not output.parameters
        else:
            assert raw == b""
            assert output.parameters["shared_memory_region"].string_param == each.place.region
            assert output.parameters["shared_memory_byte_size"].int64_param == len(data)
            assert output.parameters["shared_memory_offset"].int64_param == each.place.offset


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=2000), TEXTS)
def test_protobuf_reads_errors_of_streams(request_id: str, error: str) -> None:
    reply = ks.ModelStreamInferResponse.FromString(in_stream(only_id(request_id), error))
    assert reply.error_message == error
    assert reply.HasField("infer_response")
    assert reply.infer_response.id == request_id[:ID_CHARS_MAX]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), st.integers(1, 60))
def test_classes_are_the_highest_scores(scores: list[float], classes: int) -> None:
    spec = TensorSpec(name="y", datatype="FP32", shape=(-1,), labels=("cat", "dog"))
    (count,), (row,) = classes_of(spec, [np.array(scores, np.float32).tobytes()], classes)
    texts = []
    while row:
        size = int.from_bytes(row[:4], "little")
        texts.append(row[4 : 4 + size].decode().split(":"))
        row = row[4 + size :]
    assert count == len(texts) == min(classes, len(scores))
    found = [scores[int(text[1])] for text in texts]
    assert found == sorted(scores, reverse=True)[:count]
    for text in texts:
        assert text[2:] == [["cat"], ["dog"], []][min(int(text[1]), 2)]


def test_classes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TensorSpec(name="y", datatype="UINT8", shape=(-1,))
    monkeypatch.setattr(classification, "SCORES_MAX", 100)
    monkeypatch.setattr(classification, "CLASSES_MAX", 20)
    assert classes_of(spec, [bytes(50)] * 2, 10)[0] == (10,)
    with pytest.raises(InvalidFrame, match="output 'y' has 102 scores, at most 100 are put in order"):
        classes_of(spec, [bytes(51)] * 2, 1)
    with pytest.raises(InvalidFrame, match="11 classes of each of 2 rows are asked for, at most 20 in all are told"):
        classes_of(spec, [bytes(50)] * 2, 11)
