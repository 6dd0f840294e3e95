"""Outcomes that the server writes as bytes are those that protobuf would have written."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from duly.core.events import DispatchBatch
from duly.core.types import Frame, OutcomeStatus, StreamClass
from duly.models.spec import ELEMENT_BYTES, Chunk, Signature, TensorSpec
from duly.rpc.duly_v1.codec import StreamCodec
from duly.rpc.varints import number_field, varint
from duly.runtime.held_frames import HeldFrame
from duly.runtime.outcome import BatchRun, FusedOutcome, Outcome, Partner
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from tests.rpc.outcome_reference import add_outcome

UINT64, INT64 = (1 << 64) - 1, (1 << 63) - 1
SHORT_NS = some.integers(0, 1 << 40)
NAMES = some.text(max_size=20)
TENSORS = some.builds(
    TensorSpec,
    name=NAMES,
    datatype=some.sampled_from(sorted(ELEMENT_BYTES)),
    shape=some.just((-1,)),
)


def with_chunk(draw: some.DrawFn, signature: Signature) -> Signature:
    """The signature, of which one output may hold actions."""
    if not signature.outputs or not draw(some.booleans()):
        return signature
    times = {"dt_ms": draw(some.floats(1e-6, 60_000)), "t0_ms": draw(some.sampled_from([0.0, 1e-6, 20.0, 60_000.0]))}
    output = draw(some.sampled_from(signature.outputs)).name
    return signature.model_copy(update={"chunk": Chunk(output=output, **times)})


SIGNATURES = some.builds(
    Signature,
    inputs=some.just(()),
    outputs=some.lists(TENSORS, max_size=3, unique_by=lambda spec: spec.name).map(tuple),
    batch_sizes=some.just((1,)),
    any_size=some.just(True),
    stateful=some.just(False),
).flatmap(lambda signature: some.composite(with_chunk)(signature))
NUMBERS = some.one_of(
    some.integers(-INT64 - 1, UINT64),
    some.builds(lambda bits, off: (1 << bits) + off, some.integers(0, 62), some.integers(-2, 2)),
)


@given(NUMBERS)
def test_numbers_are_those_of_protobuf(number: int) -> None:
    if number > INT64:
        expected = pb.Outcome(frame_id=number).SerializeToString()
        assert number_field(b"\x08", number) == expected
    else:
        expected = pb.Outcome(slack_nano=number).SerializeToString()
        assert number_field(b"\x40", number) == expected
    assert expected[1:] == varint(number) if number else not expected


@pytest.mark.parametrize("number", [1 << 64, (1 << 64) + 5, 1 << 70, -INT64 - 2, -(1 << 64), -(1 << 70)])
def test_a_number_that_fits_no_field_is_not_written(number: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        varint(number)
    with pytest.raises(ValueError, match="64 bits"):
        number_field(b"\x40", number)


PARTNERS = some.builds(Partner, NAMES, some.integers(0, UINT64), some.integers(-INT64, INT64))


@some.composite
def outcomes(draw: some.DrawFn, signature: Signature) -> Outcome:
    received_ns = draw(SHORT_NS)
    frame = Frame(1, 1, draw(some.integers(0, UINT64)), "m/1", draw(some.integers(0, 1 << 45)))
    held = HeldFrame(frame, StreamClass.STANDARD, signature, received_ns, draw(some.integers(0, INT64)))
    held.capture_to_receipt_ns = draw(some.integers(-(1 << 40), 1 << 40))
    held.clock_uncertainty_ns = draw(some.integers(0, 1 << 36))
    run = None
    if draw(some.booleans()):
        model, variant = draw(some.sampled_from(["m/1", "m/2", "m/x/3", "7"])), draw(NAMES)
        batch = DispatchBatch(1, "cpu:0", model, variant, [frame] * draw(some.integers(1, 300)), 9)
        run = BatchRun(batch, received_ns + draw(SHORT_NS))
        if draw(some.booleans()):
            run.started_ns = received_ns + draw(SHORT_NS)
            run.finished_ns = received_ns + draw(SHORT_NS)
        names = some.lists(some.sampled_from(["frozen", "blank", "range"]), unique=True).map(tuple)
        run.guards = draw(some.none() | some.dictionaries(some.integers(0, 2), names))
    outputs = None
    if draw(some.booleans()):
        outputs = [
            (
                index,
                tuple(draw(some.lists(some.integers(0, (1 << 31) - 1), max_size=4))),
                draw(some.binary(max_size=300)),
            )
            for index in range(len(signature.outputs))
        ]
    partners = draw(some.none() | some.lists(PARTNERS, max_size=3).map(tuple))
    if partners is not None:
        status = draw(some.sampled_from(OutcomeStatus))
        return FusedOutcome(held, status, draw(NAMES), run, outputs, partners)
    status = draw(some.sampled_from(OutcomeStatus))
    return Outcome(held, status, draw(some.text(max_size=300)), run, outputs)


@given(some.data())
def test_the_bytes_mean_what_protobuf_would_have_written(data: some.DataObject) -> None:
    signatures = [data.draw(SIGNATURES), data.draw(SIGNATURES)]
    names = [spec.name for spec in signatures[0].outputs]
    wanted = data.draw(some.lists(some.sampled_from(names), unique=True)) if names else []
    codec = StreamCodec(signatures[0], wanted)
    for _ in range(data.draw(some.integers(1, 3))):  # what the writer keeps of one message is right in the next
        now_ns = data.draw(some.integers(0, 1 << 45))
        sent = [
            data.draw(outcomes(data.draw(some.sampled_from(signatures)))) for _ in range(data.draw(some.integers(1, 4)))
        ]
        delay_ns = data.draw(some.sampled_from([0, 1, 5_000_000, INT64]))
        expected = pb.StreamResponse()
        for outcome in sent:
            add_outcome(expected.outcomes, outcome, now_ns, outcome.held.signature, wanted, delay_ns)
        written = codec.outcomes(now_ns, sent, delay_ns)
        assert written == expected.SerializeToString(deterministic=True)
        assert pb.StreamResponse.FromString(written) == expected
        assert (
            pb.InferResponse.FromString(codec.single(now_ns, sent[0], delay_ns)).outcome
            == expected.outcomes.outcomes[0]
        )


def test_an_output_whose_size_changes_is_written_with_its_own() -> None:
    spec = TensorSpec(name="y", datatype="UINT8", shape=(-1,))
    signature = Signature(inputs=(), outputs=(spec,), batch_sizes=(1,), any_size=True, stateful=False)
    codec = StreamCodec(signature, ())
    for shape, data in (((3,), b"abc"), ((0,), b""), ((3,), b"xyz"), ((1, 3), b"uvw"), ((), b"u")):
        frame = Frame(1, 1, 1, "m/1", 0)
        held = HeldFrame(frame, StreamClass.STANDARD, signature, 0, 0)
        outcome = Outcome(held, OutcomeStatus.ON_TIME, "", None, [(0, shape, data)])
        (output,) = pb.StreamResponse.FromString(codec.outcomes(0, [outcome])).outcomes.outcomes[0].outputs
        assert output == tensor_pb2.Tensor(name="y", datatype=tensor_pb2.DATA_TYPE_UINT8, shape=shape, data=data)
