"""How much one message of a client may hold, counted on its bytes before it is parsed.

A frame or a number takes as little as one or two bytes on the wire and many times that once it is parsed, so that the
size of a message alone bounds neither the memory nor the time that it costs. A message that is short can hold little,
and is not looked at. In a longer one the fields are counted, and short parts of it are passed over. What is counted is
what the descriptors of the protocol say, so that new fields of messages are counted, too.

The count stops at the first limit that is reached: it takes a quarter of a microsecond for each field and frame.
"""

from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from duly.streams.errors import CallError

FRAMES_MAX = 32_768
"""How many frames one message may have. One that has more is refused: MESSAGE_OVERFULL."""
FIELDS_MAX = 16_384
"""How many other fields, such as tensors and names, the longer parts of one message may have, before it is
MESSAGE_OVERFULL."""
NUMBERS_MAX = 400_000
"""How many packed numbers, such as extents of shapes and ids to cancel, one message may have, before it is
MESSAGE_OVERFULL."""
SHORT_BYTES = 16_384
"""A message that is no longer is not looked at."""
PART_BYTES = 256
"""A part of a message that is no longer counts as one field or frame, whatever it holds."""

_FRAME = "duly.v1.Frame"
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_CONTINUED = bytes(range(128, 256))
"""The bytes of a packed field that are not the last of their number."""


_M = TypeVar("_M", bound=Message)


class _Kind:
    """What is known of one kind of message."""

    __slots__ = ("is_frame", "name", "packed", "parts")

    def __init__(self, descriptor: Descriptor) -> None:
        self.name = descriptor.full_name
        self.is_frame = descriptor.full_name == _FRAME
        self.parts: dict[int, _Kind] = {}
        """The fields that hold messages, by number."""
        self.packed = {field.number for field in descriptor.fields if field.is_repeated and _is_varint(field)}


def _is_varint(field: FieldDescriptor) -> bool:
    strings = (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE)
    return field.cpp_type not in (*strings, FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)


def _kind(descriptor: Descriptor, known: dict[str, _Kind]) -> _Kind:
    kind = known.get(descriptor.full_name)
    if kind is None:
        kind = known[descriptor.full_name] = _Kind(descriptor)
        for field in descriptor.fields:
            if field.message_type is not None:
                kind.parts[field.number] = _kind(field.message_type, known)
    return kind


class MessageBounds:
    """The bounds of one kind of message."""

    def __init__(self, kind: type[Message]) -> None:
        self._kind = _kind(cast(Descriptor, kind.DESCRIPTOR), {})

    def check(self, message: bytes) -> None:
        """Raises CallError MESSAGE_OVERFULL where the message holds more than one may, and MESSAGE_MALFORMED where it
        cannot be counted.
        """
        if len(message) > SHORT_BYTES:
            try:
                self._count(message)
            except IndexError:
                raise _malformed(self._kind.name) from None

    def _count(self, message: bytes) -> None:
        frames = fields = numbers = at = 0
        kind, end = self._kind, len(message)
        outer: list[tuple[_Kind, int]] = []
        groups = 0
        while True:
            if at >= end:
                if at > end or groups:
                    raise _malformed(self._kind.name)
                if not outer:
                    return
                kind, end = outer.pop()
                continue
            fields += 1
            if fields > FIELDS_MAX:
                raise _too_many(FIELDS_MAX, "fields")
            tag = message[at]
            at += 1
            if tag > 127:
                tag, at = _rest(message, at, tag)
            wire = tag & 7
            if wire == _BYTES:
                size = message[at]
                at += 1
                if size > 127:
                    size, at = _rest(message, at, size)
                number = tag >> 3
                part = None if groups else kind.parts.get(number)
                if part is not None:
                    if part.is_frame:
                        frames, fields = frames + 1, fields - 1
                        if frames > FRAMES_MAX:
                            raise _too_many(FRAMES_MAX, "frames")
                    if size > PART_BYTES:
                        outer.append((kind, end))
                        if at + size > end:
                            raise _malformed(self._kind.name)
                        kind, end = part, at + size
                        continue
                elif size > PART_BYTES and number in kind.packed:
                    numbers += len(message[at : at + size].translate(None, _CONTINUED))
                    if numbers > NUMBERS_MAX:
                        raise _too_many(NUMBERS_MAX, "numbers")
                at += size
            elif wire == _VARINT:
                while message[at] > 127:
                    at += 1
                at += 1
            elif wire == _FIXED64:
                at += 8
            elif wire == _FIXED32:
                at += 4
            elif wire == _GROUP:
                groups += 1  # no message of the protocol has one: it is an unknown field
            elif wire == _GROUP_END and groups:
                groups -= 1
            else:
                raise _malformed(self._kind.name)


def _rest(message: bytes, at: int, first: int) -> tuple[int, int]:
    """Reads what follows the first byte of a varint. Returns it, and where it ends. Raises IndexError where it is cut
    off or longer than any.
    """
    value, shift = first & 127, 7
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError


def parse(kind: type[_M], message: bytes) -> _M:
    """Parses a message. Raises CallError MESSAGE_MALFORMED."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise _malformed(kind.DESCRIPTOR.full_name) from None


def _malformed(name: str) -> CallError:
    return CallError("MESSAGE_MALFORMED", f"a message is no {name}")


def _too_many(most: int, what: str) -> CallError:
    return CallError("MESSAGE_OVERFULL", f"a message has more than {most} {what}; send several messages")


def check_frames(frames: int) -> None:
    """Raises CallError MESSAGE_OVERFULL where so many frames are too many for one message, which a short one may hold,
    too.
    """
    if frames > FRAMES_MAX:
        raise _too_many(FRAMES_MAX, "frames")
