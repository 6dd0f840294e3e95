"""What the server and the process that writes samples say to each other, over a pair of stream sockets.

A message is its head, a text in JSON, and the bytes that the text is about. What comes is bounded before anything of it
is kept.
"""

import json
import struct
from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from typing import Any

HEAD = struct.Struct("<BxxxII")
"""What the message is, the bytes of its text, the bytes after that."""
TEXT_BYTES_MAX = 8 << 20
DATA_BYTES_MAX = 64 << 20
"""A message with a text longer than TEXT_BYTES_MAX, or more bytes after it, is not read: the connection ends."""

SETTINGS, FRAME, LABELS, ENDED, STOP = 1, 2, 3, 4, 5
"""To the writer: what it is to do and whose streams go on, first of all; a frame; labels; a group whose stream has
ended; write all and end."""
READY, STATUS, ANSWERS = 16, 17, 18
"""From it: it has looked through its folders; what was written and what was not; what became of labels."""

EXIT_FOLDER = 3
"""How the writer ends where a folder is not there, or cannot be read."""

Buffer = bytes | bytearray | memoryview
Groups = Mapping[str, Collection[str]]
"""Names of groups of frames, by the name of their model."""


class Joined(IntEnum):
    """What became of the labels of one frame. The numbers are those of `FeedbackStatus` in the protocol."""

    JOINED = 1
    """They are on the disk with their frame."""
    UNKNOWN_FRAME = 2
    """The frame was not kept, or is no longer, or is none of the sender's."""
    INVALID = 3
    """The labels are not what the frame can have."""
    NOT_KEPT = 4
    """They could not be written."""
    PENDING = 5
    """They were handed over, and nothing was heard of them in time."""


class BrokenMessage(Exception):
    """What came is no message."""


def encoded(kind: int, body: Mapping[str, Any] | str, data_bytes: int = 0) -> bytes:
    """Returns the beginning of a message, behind which `data_bytes` bytes follow. `body` may be JSON already."""
    text = (body if isinstance(body, str) else json.dumps(body)).encode()
    return HEAD.pack(kind, len(text), data_bytes) + text


class Messages:
    """Takes in what comes over a connection, in pieces of any size, and gives whole messages."""

    def __init__(self) -> None:
        self._come = bytearray()

    def feed(self, data: Buffer) -> None:
        self._come += data

    def next(self) -> tuple[int, dict[str, Any], memoryview] | None:
        """Returns the next message: its kind, what its text says, and the bytes after it. None: it is not there yet.
        Raises BrokenMessage.
        """
        if len(self._come) < HEAD.size:
            return None
        kind, text_bytes, data_bytes = HEAD.unpack_from(self._come)
        if text_bytes > TEXT_BYTES_MAX or data_bytes > DATA_BYTES_MAX:
            raise BrokenMessage(f"it states {text_bytes} bytes of text and {data_bytes} after it")
        end = HEAD.size + text_bytes + data_bytes
        if len(self._come) < end:
            return None
        whole = bytes(memoryview(self._come)[HEAD.size : end])
        del self._come[:end]
        try:
            body = json.loads(whole[:text_bytes])
        except (ValueError, RecursionError) as error:
            raise BrokenMessage("its text is no JSON") from error
        if not isinstance(body, dict):
            raise BrokenMessage("its text says nothing")
        return kind, body, memoryview(whole)[text_bytes:]


def parts(data: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """Cuts the bytes of a message into pieces of these sizes. Raises BrokenMessage where they are not all of it."""
    if min(sizes, default=0) < 0 or sum(sizes) != len(data):
        raise BrokenMessage(f"it has {len(data)} bytes, and its parts {sum(sizes)}")
    at, cut = 0, []
    for size in sizes:
        cut.append(data[at : at + size])
        at += size
    return cut
