"""What one message may hold is counted before it is parsed, whichever way a client writes it."""

from collections.abc import Callable
from random import Random

import pytest
from google.protobuf.message import DecodeError

from duly.rpc.duly_v1.inference_service import INFER_REQUEST, STREAM_REQUEST
from duly.rpc.message_bounds import (
    FIELDS_MAX,
    FRAMES_MAX,
    NUMBERS_MAX,
    PART_BYTES,
    SHORT_BYTES,
    MessageBounds,
    check_frames,
)
from duly.streams.errors import CallError
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2

MANY = 700_000


def varint(number: int) -> bytes:
    written = b""
    while number > 127:
        written += bytes([number & 127 | 128])
        number >>= 7
    return written + bytes([number])


def part(number: int, *held: bytes) -> bytes:
    """A field that has a length."""
    whole = b"".join(held)
    return varint(number << 3 | 2) + varint(len(whole)) + whole


def refusal(bounds: MessageBounds, message: bytes) -> str:
    """Returns the reason for which the message is refused; empty: it is not."""
    try:
        bounds.check(message)
    except CallError as error:
        return error.reason
    return ""


@pytest.mark.parametrize(
    "message",
    [
        part(2, b"\x0a\x00" * MANY),
        part(2, b"\x0a\x02\x08\x01" * MANY),
        part(2, b"\x0a\x00" * FRAMES_MAX) + part(2, b"\x0a\x00" * 200),
        b"\x12\x00" * MANY,
        part(2, part(1, b"\x2a\x00" * MANY)),
        part(2, part(1, b"\x32\x00" * MANY)),
        part(2, part(1, part(5, part(3, b"\x01" * MANY)))),
        part(2, part(1, part(5, b"\x18\x01" * MANY))),
        part(4, part(1, b"\xff\xff\xff\x7f" * MANY)),
        part(4, b"\x08\x01" * MANY),
        part(1, b"\x52\x00" * MANY),
        b"\x78\x01" * MANY,
        b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x78\x01" * MANY,
        part(3, b"\x78\x01" * MANY),
        b"\x7b\x7c" * MANY,
        part(2, part(1, b"\x7b" + b"\x78\x01" * MANY + b"\x7c")),
    ],
    ids=lambda message: message[:8].hex(),
)
def test_many_small_things_in_one_message_are_refused(message: bytes) -> None:
    assert refusal(STREAM_REQUEST, message) == "MESSAGE_OVERFULL"


def test_a_single_frame_is_bounded_as_well() -> None:
    assert refusal(INFER_REQUEST, part(4, b"\x2a\x00" * MANY)) == "MESSAGE_OVERFULL"
    assert refusal(INFER_REQUEST, b"\x2a\x00" * MANY) == "MESSAGE_OVERFULL"


def test_frames_of_short_messages_are_counted_after_they_are_parsed() -> None:
    check_frames(FRAMES_MAX)
    with pytest.raises(CallError, match=f"more than {FRAMES_MAX} frames"):
        check_frames(FRAMES_MAX + 1)


def test_what_sensors_send_is_taken() -> None:
    picture = tensor_pb2.Tensor(name="x", datatype=tensor_pb2.DATA_TYPE_UINT8, shape=[480, 640, 3], data=bytes(921_600))
    samples = tensor_pb2.Tensor(datatype=tensor_pb2.DATA_TYPE_FP32, shape=[1, 128], data=bytes(512))
    frames = [pb.Frame(frame_id=2**63 + n, capture_time_unix_nano=1, tensors=[samples, samples]) for n in range(1024)]
    for request in (
        pb.StreamRequest(frames=pb.FrameBatch(frames=[pb.Frame(frame_id=1, tensors=[picture])])),
        pb.StreamRequest(frames=pb.FrameBatch(frames=frames)),
        pb.StreamRequest(frames=pb.FrameBatch(frames=[pb.Frame(frame_id=n) for n in range(FRAMES_MAX)])),
        pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=range(NUMBERS_MAX))),
        pb.StreamRequest(open=pb.OpenStream(model="m" * 1_000_000)),
    ):
        assert refusal(STREAM_REQUEST, request.SerializeToString()) == ""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda message: message[:-1],
        lambda message: message + b"\x0c",
        lambda message: message + b"\x0b",
        lambda message: message + b"\x12\xff\xff\xff\xff\x0f",
        lambda message: message + b"\xff" * 11,
        lambda message: part(2, message) + b"\x12",
    ],
)
def test_what_cannot_be_counted_is_no_message(spoil: Callable[[bytes], bytes]) -> None:
    frame = pb.Frame(tensors=[tensor_pb2.Tensor(data=bytes(2 * SHORT_BYTES))])
    message = spoil(pb.StreamRequest(frames=pb.FrameBatch(frames=[frame])).SerializeToString())
    assert refusal(STREAM_REQUEST, message) == "MESSAGE_MALFORMED"
    with pytest.raises(DecodeError):
        pb.StreamRequest.FromString(message)


def test_whatever_is_no_message_for_the_count_is_none_for_protobuf() -> None:
    """Damaged messages that are within the bounds: the count refuses none that protobuf can read."""
    random = Random(7)
    tensor = tensor_pb2.Tensor(name="x", shape=[2, 3], data=bytes(SHORT_BYTES))
    frames = [pb.Frame(frame_id=n, budget_nano=5, tensors=[tensor, tensor_pb2.Tensor(name="y")]) for n in range(2)]
    whole = pb.StreamRequest(frames=pb.FrameBatch(frames=frames)).SerializeToString()
    refused = 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(random.randint(1, 3)):
            damaged[random.choice([random.randrange(64), random.randrange(len(whole))])] = random.randrange(256)
        if refusal(STREAM_REQUEST, bytes(damaged)) == "MESSAGE_MALFORMED":
            refused += 1
            with pytest.raises(DecodeError):
                pb.StreamRequest.FromString(bytes(damaged))
    assert refused > 100


def test_the_bounds_leave_room_for_every_credit() -> None:
    assert FIELDS_MAX > 1024
    assert PART_BYTES < SHORT_BYTES
