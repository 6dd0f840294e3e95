"""The translation between duly.v1 and streams: what goes through it comes out as what it was."""

import pytest

from duly.core.events import DispatchBatch
from duly.core.types import BacklogPolicy, Frame, GapPolicy, OutcomeStatus, StreamClass
from duly.models.spec import Signature, TensorSpec
from duly.rpc.duly_v1.codec import HEADS_LEARNT_MAX, VIEW_BYTES_MIN, StreamCodec
from duly.rpc.duly_v1.opening import invalid_open, single_request, stream_request
from duly.rpc.message_bounds import parse
from duly.runtime.held_frames import HeldFrame
from duly.runtime.outcome import BatchRun, Outcome
from duly.streams.clock import ClockRelation
from duly.streams.errors import CallError, InvalidFrame, InvalidTerms
from duly.streams.ordering import OrderingPolicy
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from tests.streams.bench import signature


def test_every_word_of_an_open_stream_arrives() -> None:
    asked = stream_request(
        pb.OpenStream(
            model="m",
            version="2",
            stream_name="front",
            stream_class=pb.STREAM_CLASS_CRITICAL,
            backlog_policy=pb.BACKLOG_POLICY_KEEP_LAST,
            backlog_frames=3,
            ordering=pb.ORDERING_MONOTONIC,
            default_budget_nano=4,
            expected_period_nano=5,
            outputs=["y"],
            gap_policy=pb.GAP_POLICY_RESET,
            variant_lowest="quick",
            floor={"frames": 1, "window": 2},
            clock=pb.ClockEstimate(offset_nano=6, uncertainty_nano=7),
        )
    )
    assert (asked.model, asked.version, asked.stream_name, asked.variant_lowest) == ("m", "2", "front", "quick")
    assert (asked.stream_class, asked.backlog_policy) == (StreamClass.CRITICAL, BacklogPolicy.KEEP_LAST)
    assert (asked.backlog_frames, asked.default_budget_ns, asked.expected_period_ns) == (3, 4, 5)
    assert (asked.ordering, asked.gap_policy) == (OrderingPolicy.MONOTONIC, GapPolicy.RESET)
    assert (list(asked.outputs), asked.floor, asked.clock) == (["y"], (1, 2), ClockRelation(6, 7))


def test_what_is_not_stated_is_left_to_the_model() -> None:
    asked = stream_request(pb.OpenStream(model="m"))
    assert (asked.stream_class, asked.backlog_policy, asked.gap_policy) == (None, None, None)
    assert (asked.floor, asked.clock, asked.ordering) == (None, None, OrderingPolicy.UNORDERED)
    assert single_request(pb.InferRequest(model="m")).backlog_policy is BacklogPolicy.ALL


@pytest.mark.parametrize("field", ["stream_class", "backlog_policy", "ordering", "gap_policy"])
def test_a_number_that_means_nothing_is_named(field: str) -> None:
    with pytest.raises(InvalidTerms) as error:
        stream_request(pb.OpenStream(model="m", **{field: 9}))  # type: ignore[arg-type]
    call = invalid_open(error.value)
    assert (call.reason, call.field, str(call)) == ("INVALID_OPEN", field, f"{field}: there is no value 9")


@pytest.mark.parametrize(
    ("field", "on_the_wire"),
    [
        ("default_budget_ns", "default_budget_nano"),
        ("expected_period_ns", "expected_period_nano"),
        ("floor", "floor"),
        ("clock_ping.clock.uncertainty_ns", "clock_ping.clock.uncertainty_nano"),
    ],
)
def test_fields_are_named_as_they_are_on_the_wire(field: str, on_the_wire: str) -> None:
    call = invalid_open(InvalidTerms(field, "is odd"))
    assert (call.field, str(call)) == (on_the_wire, f"{on_the_wire} is odd")


def test_bytes_that_are_no_message_end_the_call() -> None:
    with pytest.raises(CallError, match=r"a message is no duly\.v1\.StreamRequest") as error:
        parse(pb.StreamRequest, b"\xff\xff")
    assert error.value.reason == "MESSAGE_MALFORMED"


def frame(**tensor: object) -> pb.Frame:
    return pb.Frame(frame_id=1, tensors=[tensor_pb2.Tensor(**tensor)])  # type: ignore[arg-type]


def test_a_frame_comes_through_and_a_number_without_a_name_is_said() -> None:
    codec = StreamCodec(signature(), ())
    assert codec.payload(signature(), b"", frame(data=b"1")) == (((0, (1,), b"1"),), 1)
    with pytest.raises(InvalidFrame, match="datatype 99, the model takes UINT8"):
        codec.payload(signature(), b"", frame(datatype=99, data=b"1"))
    encoded = pb.Frame(frame_id=1, encoded=[tensor_pb2.Encoded(name="x", format=99, data=b"1")])  # type: ignore[arg-type]
    with pytest.raises(InvalidFrame, match="format 99 is not taken, the model takes only tensors"):
        codec.payload(signature(), b"", encoded)


def held(number: int, kind: object) -> HeldFrame:
    core = Frame(number, 1, number, f"m/{number}", 1_000)
    return HeldFrame(core, StreamClass.STANDARD, kind, 100, 7, 20, 3)  # type: ignore[arg-type]


def test_outcomes_of_two_versions_share_a_message_each_with_its_own_outputs() -> None:
    one, two = signature("y", "z"), signature("z", "y")
    codec = StreamCodec(one, ("y",))
    outcomes = []
    for number, kind in ((1, one), (2, two), (3, one)):
        frame_ = held(number, kind)
        run = BatchRun(DispatchBatch(1, "cpu:0", f"m/{number}", "fp16", [frame_.frame] * 2, 9), 200, 300, 400)
        outputs = [(0, (1,), b"0"), (1, (1,), b"1")]
        outcomes.append(Outcome(frame_, OutcomeStatus.ON_TIME, "", run, outputs))  # type: ignore[arg-type]
    message = pb.StreamResponse.FromString(codec.outcomes(500, outcomes)).outcomes.outcomes
    assert [[(o.name, o.data) for o in outcome.outputs] for outcome in message] == [
        [("y", b"0")],
        [("y", b"1")],
        [("y", b"0")],
    ]
    first = message[0]
    assert (first.frame_id, first.version, first.variant, first.batch_size, first.slack_nano) == (
        1,
        "1",
        "fp16",
        2,
        500,
    )
    timing = first.timing
    assert (timing.received_unix_nano, timing.dispatched_nano, timing.sent_nano) == (7, 100, 400)
    assert (timing.started_nano, timing.finished_nano) == (200, 300)
    assert (timing.capture_to_receipt_nano, timing.clock_uncertainty_nano) == (20, 3)


def test_an_outcome_that_is_no_result_has_no_outputs() -> None:
    outcome = Outcome(held(1, signature()), OutcomeStatus.SUPERSEDED, "outrun", None, [(0, (1,), b"1")])
    message = pb.InferResponse.FromString(StreamCodec(signature(), ()).single(0, outcome)).outcome
    assert (message.status, message.reason, len(message.outputs)) == (pb.OUTCOME_STATUS_SUPERSEDED, "outrun", 0)


def message_of(*frames: pb.Frame) -> bytes:
    return pb.StreamRequest(frames=pb.FrameBatch(frames=frames)).SerializeToString()


def sized(shape: tuple[int, ...]) -> Signature:
    spec = TensorSpec(name="x", datatype="UINT8", shape=shape, bytes_max=1 << 20)
    return Signature(inputs=(spec,), outputs=(), batch_sizes=(1,), any_size=True, stateful=False)


def taken(codec: StreamCodec, kind: Signature, message: bytes) -> "list[tuple[object, int]] | None":
    """The payloads of a message that is read without protobuf."""
    frames = codec.common_frames(message)
    return frames and [codec.payload(kind, message, at) for *_, at in frames]


def test_frames_like_the_one_before_are_read_from_their_bytes() -> None:
    kind = sized((2, 2))
    codec = StreamCodec(kind, ())
    first = frame(name="x", shape=[2, 2], data=b"abcd")
    message = message_of(first, pb.Frame(frame_id=2, must_run=True, budget_nano=5, tensors=first.tensors))
    assert codec.common_frames(message) is None, "nothing is known yet"
    assert codec.payload(kind, b"", first) == (((0, (2, 2), b"abcd"),), 4)
    frames = codec.common_frames(message)
    assert frames is not None
    assert [numbers for *numbers, _ in frames] == [[1, 0, 0, False], [2, 0, 5, True]]
    assert taken(codec, kind, message) == 2 * [(((0, (2, 2), b"abcd"),), 4)]
    assert codec.common_frames(message_of(frame(data=b"abcd"))) is None, "it has another head"
    assert codec.payload(kind, b"", frame(data=b"abcd")) == (((0, (2, 2), b"abcd"),), 4)
    assert taken(codec, kind, message_of(frame(data=b"wxyz"))) == [(((0, (2, 2), b"wxyz"),), 4)]


def test_a_frame_that_does_not_fit_or_has_no_array_teaches_nothing() -> None:
    kind = sized((4,))
    codec = StreamCodec(kind, ())
    for wrong in (frame(data=b"abc"), frame(name="y", data=b"abcd"), pb.Frame(frame_id=1)):
        with pytest.raises(InvalidFrame):
            codec.payload(kind, b"", wrong)
        assert codec.common_frames(message_of(wrong)) is None


def test_a_version_that_comes_between_reading_and_taking_judges_the_frame_by_its_own_inputs() -> None:
    one, same, other = sized((4,)), sized((2, 2)), sized((5,))
    codec = StreamCodec(one, ())
    sent = frame(data=b"abcd")
    codec.payload(one, b"", sent)
    message = message_of(sent)
    ((*_, at),) = codec.common_frames(message) or ()
    assert codec.payload(same, message, at) == (((0, (2, 2), b"abcd"),), 4)
    assert codec.common_frames(message) is None, "what is known is of a version that serves no more"
    codec.payload(one, b"", sent)
    ((*_, at),) = codec.common_frames(message) or ()
    with pytest.raises(InvalidFrame, match=r"4 bytes, UINT8\[5\] takes 5"):
        codec.payload(other, message, at)
    assert codec.common_frames(message) is None


def test_a_payload_holds_its_message_only_where_it_is_nearly_all_of_it() -> None:
    kind = sized((VIEW_BYTES_MIN,))
    codec = StreamCodec(kind, ())
    sent = frame(data=bytes(VIEW_BYTES_MIN))
    codec.payload(kind, b"", sent)
    ((((_, _, view),), size_bytes),) = taken(codec, kind, message_of(sent)) or ()  # type: ignore[misc]
    assert isinstance(view, memoryview)
    assert (size_bytes, len(view), view) == (VIEW_BYTES_MIN, VIEW_BYTES_MIN, bytes(VIEW_BYTES_MIN))
    for ((_, _, data),), _ in taken(codec, kind, message_of(sent, sent)) or ():  # type: ignore[attr-defined]
        assert isinstance(data, bytes), "it would hold another frame's data, too"
    small = sized((VIEW_BYTES_MIN - 1,))
    sent = frame(data=bytes(VIEW_BYTES_MIN - 1))
    codec.payload(small, b"", sent)
    ((((_, _, data),), _),) = taken(codec, small, message_of(sent)) or ()  # type: ignore[misc]
    assert isinstance(data, bytes)


def test_a_sensor_whose_arrays_have_another_shape_each_time_is_left_to_protobuf_in_the_end() -> None:
    kind = sized((-1,))
    codec = StreamCodec(kind, ())
    for length in range(1, HEADS_LEARNT_MAX + 9):
        sent = frame(shape=[length], data=bytes(length))
        codec.payload(kind, b"", sent)
        assert (codec.common_frames(message_of(sent)) is not None) == (length <= HEADS_LEARNT_MAX)
