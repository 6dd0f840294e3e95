"""Reads requests straight from the bytes of a message, where they are like one before them on the same stream.

From request to request of a stream mostly the id and the data change. What stands before the id, and what stands
between the id and the data, is the same bytes each time. Once protobuf has read such a request and it was taken, a
message with the same bytes there is read here, with no object for any of its parts. Whatever is otherwise, protobuf
says what it is.
"""

from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from duly.rpc.kserve.messages import ModelInferRequest
from duly.rpc.kserve.requests import Payload
from duly.rpc.varints import bytes_field, varint
from duly.runtime.held_frames import InputData

VIEW_BYTES_MIN: Final = 8192
"""Data that is no shorter is not copied: the frame holds the message, in which it is nearly all."""
REST_BYTES_MAX: Final = 1024
"""Requests with more bytes beside their data are left to protobuf. They are held with the data, and not counted."""
_ID: Final = 0x1A
_RAW: Final = b"\x3a"


class CommonRequest(NamedTuple):
    """What requests have in common."""

    before: bytes
    """What stands before the id."""
    between: bytes
    """What stands between the id and the data."""
    data_bytes: int
    shape: tuple[int, ...]
    """The shape of the only frame."""


def common_of(message: bytes, request: ModelInferRequest, frame: Payload) -> CommonRequest | None:
    """Returns what requests like this one have in common with it. `frame`: the only one of the request, which has its
    only input in the raw contents. None: it is written in another way, or has much beside its data.
    """
    (only,), data_bytes = frame
    before = bytes_field(b"\x0a", request.model_name.encode()) + bytes_field(b"\x12", request.model_version.encode())
    begin = before + bytes_field(b"\x1a", request.id.encode())
    head = _RAW + varint(data_bytes)
    end = len(message) - data_bytes
    between = message[len(begin) : end]
    if not data_bytes or end > REST_BYTES_MAX or not message.startswith(begin) or not between.endswith(head):
        return None
    try:
        rest = ModelInferRequest.FromString(before + between[: -len(head)])
    except DecodeError:
        return None  # what looks like the data is within something else
    if rest.id or rest.raw_input_contents:
        return None
    return CommonRequest(before, between, data_bytes, only.shape)


def read(message: bytes, common: CommonRequest) -> tuple[str, Payload] | None:
    """Returns (its id, its only frame) of a request; None: it has not these bytes in common."""
    before, between, data_bytes, shape = common
    end = len(message) - data_bytes
    at = len(before)
    if end < at + len(between) or not message.startswith(before):
        return None
    request_id = b""
    if message[at] == _ID:
        length = message[at + 1]
        if length > 127 or at + 2 + length > end:
            return None
        request_id = message[at + 2 : at + 2 + length]
        at += 2 + length
    if message[at:end] != between:
        return None
    if not request_id.isascii():
        return None  # protobuf says whether it is text
    data: bytes | memoryview = memoryview(message)[end:] if data_bytes >= VIEW_BYTES_MIN else message[end:]
    return request_id.decode(), ((InputData(0, shape, data),), data_bytes)
