"""Reads frames straight from the bytes of a message, where they are like the frames before them.

Nearly every sensor sends one array for the one input of its model, and from frame to frame only numbers and data
change. What stands before the data, which is the array's name, type, shape and length, is the same bytes each time:
its head. Once protobuf has read such a frame and it fits its model, its head is known, and a message of nothing but
frames with this head is read here, with no object for any of its parts.

Whatever is otherwise in a message, `read` returns None, and protobuf says what it is. So what is read here is what
protobuf would have read: the numbers stand in the order of the protocol, each once, each in as few bytes as it takes,
none is negative, and the array comes last. The bytes are anybody's: nothing is looked up that was not found to be
inside, lengths are bounded before they are added up, and the work is one pass.

Python takes longer to read a number of many bytes than protobuf does; where this file is not compiled, protobuf reads
the numbers of each frame, and the rest is as it is.
"""

from types import FunctionType
from typing import Final

from google.protobuf.message import DecodeError

from duly.rpc.varints import varint
from duly.v1 import inference_pb2, tensor_pb2

COMMON_FRAMES_MAX = 512
"""A message with more frames is left to protobuf. So many are within all bounds of what one message may hold."""
_NUMBERS_BYTES_MAX: Final = 48
"""The numbers of a frame that protobuf reads take no more; as protobuf writes them they take 35 bytes at most."""

# The tags of the fields: their numbers, and how they are written.
_FRAMES: Final = 0x12
_FRAME: Final = 0x0A
_FRAME_ID: Final = 0x08
_CAPTURED: Final = 0x10
_BUDGET: Final = 0x18
_MUST_RUN: Final = 0x20
_TENSOR: Final = b"\x2a"
_DATA: Final = b"\x22"

FrameAt = tuple[int, int, int, bool, int]
"""(frame id, capture time in ns since 1970, budget in ns, whether it must run, where in the message its data is)."""


def head_of(tensor: tensor_pb2.Tensor, data_bytes: int) -> bytes:
    """Returns what stands before the data of a frame with this array, which has `data_bytes` of data, more than 0."""
    fields = tensor_pb2.Tensor(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape).SerializeToString()
    fields += _DATA + varint(data_bytes)
    return _TENSOR + varint(len(fields) + data_bytes) + fields


def as_frame(head: bytes, data: bytes) -> inference_pb2.Frame:
    """Returns the array of a frame that was read here, as protobuf reads it."""
    return inference_pb2.Frame.FromString(head + data)


def read(message: bytes, head: bytes, data_bytes: int) -> list[FrameAt] | None:
    """Returns the frames of a StreamRequest that has nothing else, all of which have this head. None: it is no such
    message, or may be none.
    """
    end = len(message)
    head_bytes = len(head)
    rest_bytes = head_bytes + data_bytes
    if end < rest_bytes + 4 or message[0] != _FRAMES:
        return None
    length, at = message[1], 2
    if length > 127:
        length, at = _length(message, at, length)
    if at + length != end:
        return None
    frames: list[FrameAt] = []
    while at < end:
        if at + rest_bytes + 2 > end or message[at] != _FRAME or len(frames) == COMMON_FRAMES_MAX:
            return None
        length = message[at + 1]
        at += 2
        if length > 127:
            length, at = _length(message, at, length)
        frame_end = at + length
        data_at = frame_end - data_bytes
        head_at = data_at - head_bytes
        if frame_end > end or head_at < at or message[head_at:data_at] != head:
            return None
        frame = by_hand(message, at, head_at, data_at) if _BY_HAND else by_protobuf(message, at, head_at, data_at)
        if frame is None:
            return None
        frames.append(frame)
        at = frame_end
    return frames


def _length(message: bytes, at: int, first: int) -> tuple[int, int]:
    """Reads what follows the first byte of a length: (length, where it ends). The length is -1 where it takes more than
    four bytes in all, or more than it needs. Three more bytes must be there.
    """
    second = message[at]
    if 0 < second < 128:
        return first & 127 | second << 7, at + 1
    third = message[at + 1]
    if second > 127 and 0 < third < 128:
        return first & 127 | (second & 127) << 7 | third << 14, at + 2
    fourth = message[at + 2]
    if second > 127 and third > 127 and 0 < fourth < 128:
        return first & 127 | (second & 127) << 7 | (third & 127) << 14 | fourth << 21, at + 3
    return -1, at


def by_hand(message: bytes, at: int, end: int, data_at: int) -> FrameAt | None:
    """Returns the frame whose numbers stand from `at` to `end`, where its head begins. None: something else does."""
    frame_id = captured_unix_ns = budget_ns = 0
    must_run = False
    if message[at] == _FRAME_ID:
        frame_id, at = _number(message, at + 1, end)
    if message[at] == _CAPTURED:
        captured_unix_ns, at = _number(message, at + 1, end)
    if message[at] == _BUDGET:
        budget_ns, at = _number(message, at + 1, end)
    if message[at] == _MUST_RUN and message[at + 1] == 1:
        must_run = True
        at += 2
    return (frame_id, captured_unix_ns, budget_ns, must_run, data_at) if at == end else None


def _number(message: bytes, at: int, end: int) -> tuple[int, int]:
    """Reads a number of at most 63 bits: (number, where it ends). Where there is none before `end`, it ends just behind
    that, so that nothing more is read.
    """
    value = shift = 0
    while at < end and shift < 63:
        byte = message[at]
        at += 1
        if byte < 128:
            return (value | byte << shift, at) if byte or not shift else (0, end + 1)
        value |= (byte & 127) << shift
        shift += 7
    return 0, end + 1


def by_protobuf(message: bytes, at: int, end: int, data_at: int) -> FrameAt | None:
    """As `by_hand`. It takes numbers that are written in other ways, too."""
    if end - at > _NUMBERS_BYTES_MAX:
        return None
    try:
        frame = inference_pb2.Frame.FromString(message[at:end])
    except DecodeError:
        return None
    if frame.tensors or frame.encoded:
        return None
    return frame.frame_id, frame.capture_time_unix_nano, frame.budget_nano, frame.must_run, data_at


_BY_HAND: Final = not isinstance(_number, FunctionType)
"""Whether this file is compiled."""
