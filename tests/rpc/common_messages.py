"""Messages of frames, as clients write them and as nobody should, and what protobuf says of what is read from them."""

import random
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from duly.rpc.duly_v1 import common_frames
from duly.rpc.duly_v1.common_frames import FrameAt, as_frame, head_of
from duly.rpc.duly_v1.inference_service import STREAM_REQUEST
from duly.rpc.varints import varint
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2

FP32, UINT8 = tensor_pb2.DATA_TYPE_FP32, tensor_pb2.DATA_TYPE_UINT8
TENSORS = (
    tensor_pb2.Tensor(name="x", datatype=FP32, shape=[2], data=bytes(8)),
    tensor_pb2.Tensor(data=b"*"),
    tensor_pb2.Tensor(name="image", datatype=UINT8, shape=[9, 16], data=bytes(range(144))),
    tensor_pb2.Tensor(shape=[-1, 1 << 40], data=b"\x08\x10\x18\x20\x2a\x22\x12\x0a"),
)
"""The arrays of frames. The last one's data looks like fields."""
HEADS = tuple(head_of(tensor, len(tensor.data)) for tensor in TENSORS)
TAGS = b"\x08\x10\x18\x20\x2a\x32\x12\x0a\x22\x1a\x0d\x0f\x09\x0c\x80\x01\x00\xff"
_LARGE = (0, 1, 127, 128, 255, 16383, 16384, (1 << 32) - 1, 1 << 35, (1 << 62) - 1, 1 << 62, (1 << 63) - 1)


def read(message: bytes, kind: int) -> list[FrameAt] | None:
    """What the server reads, where frames with the array of that kind came before."""
    return common_frames.read(message, HEADS[kind], len(TENSORS[kind].data))


def check(message: bytes, kind: int) -> bool:
    """Raises AssertionError where what the server reads is not what protobuf reads, number by number and byte by byte.
    Returns whether it read anything.
    """
    frames = read(message, kind)
    if frames is None:
        return False
    STREAM_REQUEST.check(message)  # which the server leaves out then
    try:
        request = pb.StreamRequest.FromString(message)
    except DecodeError:
        raise AssertionError(f"protobuf does not read {message.hex()}") from None
    request.DiscardUnknownFields()
    again = pb.StreamRequest(frames=pb.FrameBatch())
    size = len(TENSORS[kind].data)
    for frame_id, captured, budget, must_run, at in frames:
        assert 0 <= at <= len(message) - size, (at, message.hex())
        frame = as_frame(HEADS[kind], message[at : at + size])
        frame.frame_id, frame.capture_time_unix_nano, frame.budget_nano, frame.must_run = (
            frame_id,
            captured,
            budget,
            must_run,
        )
        again.frames.frames.append(frame)
    assert again == request, message.hex()
    return True


def number(chance: random.Random) -> int:
    """A number of a frame, which may have any length."""
    if chance.random() < 0.3:
        return chance.choice(_LARGE)
    return chance.getrandbits(chance.randrange(1, 64))


def common(chance: random.Random, kind: int, count: int) -> pb.StreamRequest:
    """A message of so many frames with the array of that kind, none of whose numbers is negative."""
    batch = pb.FrameBatch()
    for _ in range(count):
        frame = pb.Frame(
            frame_id=number(chance),
            capture_time_unix_nano=number(chance),
            budget_nano=number(chance),
            must_run=chance.random() < 0.2,
        )
        frame.tensors.add().CopyFrom(TENSORS[kind])
        batch.frames.append(frame)
    return pb.StreamRequest(frames=batch)


def _odd(chance: random.Random, kind: int) -> bytes:
    """A message with something that the server leaves to protobuf, or with several things."""
    request = common(chance, kind, chance.randrange(1, 4))
    frame = chance.choice(request.frames.frames)
    match chance.randrange(7):
        case 0:
            frame.budget_nano = -number(chance)
        case 1:
            frame.capture_time_unix_nano = -number(chance)
        case 2:
            frame.frame_id = (1 << 64) - 1 - chance.getrandbits(chance.randrange(1, 60))
        case 3:
            frame.tensors.add().CopyFrom(chance.choice(TENSORS))
        case 4:
            frame.encoded.add(name="x", data=b"1")
        case 5:
            frame.tensors[0].data += b"1"
        case _:
            del frame.tensors[:]
    return request.SerializeToString()


def _framed(chance: random.Random, kind: int) -> bytes:
    """A message of frames whose fields are written in any order, any number of times, and in more bytes than needed,
    while all lengths are right.
    """
    body = b""
    for _ in range(chance.randrange(1, 4)):
        fields = [tag + padded(chance, number(chance)) for tag in (b"\x08", b"\x10", b"\x18") if chance.random() < 0.8]
        if chance.random() < 0.2:
            fields.append(b"\x20" + padded(chance, chance.choice((0, 1, 1, 2, number(chance)))))
        if chance.random() < 0.2:
            fields.append(chance.choice((b"\x38\x01", b"\x32\x00", b"\x2a\x00", b"\x0d1234", b"\x08", b"\x0b\x0c")))
        if chance.random() < 0.2 and fields:
            fields.append(chance.choice(fields))
        if chance.random() < 0.2:
            chance.shuffle(fields)
        fields.insert(len(fields) if chance.random() < 0.9 else 0, HEADS[kind] + TENSORS[kind].data)
        frame = b"".join(fields)
        body += b"\x0a" + padded(chance, len(frame)) + frame
    return b"\x12" + padded(chance, len(body)) + body


def padded(chance: random.Random, value: int) -> bytes:
    """A varint, now and then with more bytes than it needs."""
    written = varint(value)
    if chance.random() < 0.95:
        return written
    longer = bytearray(written)
    for _ in range(chance.randrange(1, 10)):
        longer[-1] |= 128
        longer.append(0)
    return bytes(longer)


def mutated(chance: random.Random, message: bytes, others: Sequence[bytes]) -> bytes:
    """The message with some of its bytes changed, taken out, doubled, or taken from another one."""
    changed = bytearray(message)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(8):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(changed):
                changed[at] = chance.choice(TAGS)
            case 2:
                changed[at:at] = bytes((chance.choice(TAGS),))
            case 3:
                del changed[at : at + chance.randrange(1, 4)]
            case 4:
                to = chance.randrange(len(changed) + 1)
                changed[to:to] = changed[at : at + chance.randrange(1, 40)]
            case 5 if others:
                other = chance.choice(others)
                begin = chance.randrange(len(other) + 1)
                changed[at : at + chance.randrange(40)] = other[begin : begin + chance.randrange(40)]
            case 6 if at < len(changed):
                changed[at] = (changed[at] + chance.choice((-1, 1))) % 256
            case _:
                changed[at:at] = varint(number(chance))
    return bytes(changed)


def messages(chance: random.Random, count: int) -> "list[tuple[bytes, int]]":
    """So many messages with the kind of the array that came before: a part as clients write them, most mutated."""
    made: list[tuple[bytes, int]] = []
    kept: list[bytes] = []
    while len(made) < count:
        kind = chance.randrange(len(TENSORS))
        match chance.randrange(4):
            case 0:
                message = _odd(chance, kind)
            case 1:
                message = _framed(chance, kind)
            case _:
                message = common(chance, kind, chance.choice((1, 1, 2, 3, 5))).SerializeToString()
        kept.append(message)
        made.append((message, kind))
        for _ in range(4):
            made.append((mutated(chance, message, kept[-16:]), kind))
    return made[:count]
