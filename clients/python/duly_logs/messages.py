"""What the messages of a log hold, as pictures, sound and arrays of numbers.

Messages are Protobuf or ROS 2 CDR, both with the schema that reads them in the log itself, or JSON. Pictures and sound
are known by their schema: CompressedImage, RawImage and RawAudio of Foxglove
(https://docs.foxglove.dev/docs/visualization/message-schemas), and CompressedImage and Image of ROS 2 sensor_msgs.
CompressedVideo of Foxglove is video, one access unit a message. Every other message is taken as its fields that are
numbers.

Out of scope: FlatBuffers, point clouds as points.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message as ProtobufMessage
from mcap.records import Schema
from mcap_protobuf.decoder import DecoderFactory as Protobuf
from mcap_ros2.decoder import DecoderFactory as Ros2
from numpy.typing import NDArray

from duly_client.convert import array_of
from duly_client.types import Encoding
from duly_logs.log import Channel, LogError

COMPRESSED = {"foxglove.CompressedImage", "foxglove_msgs/msg/CompressedImage", "sensor_msgs/msg/CompressedImage"}
RAW = {"foxglove.RawImage", "foxglove_msgs/msg/RawImage", "sensor_msgs/msg/Image"}
SOUND = {"foxglove.RawAudio", "foxglove_msgs/msg/RawAudio"}
VIDEO = {"foxglove.CompressedVideo", "foxglove_msgs/msg/CompressedVideo"}
"""Access units, which models take that take video as it is encoded."""
_VIDEO_FORMATS: dict[str, Encoding] = {"h264": "H264", "h265": "HEVC"}
INPUTS = "duly.log.Inputs"
"""Arrays that `duly stream --record` has written, by their names."""
READABLE = "JSON, Protobuf, or CDR with a ros2msg schema"

_U1, _U2 = np.dtype("u1"), np.dtype("<u2")
_PIXELS: dict[str, tuple[Any, list[int]]] = {
    "rgb8": (_U1, [0, 1, 2]),
    "bgr8": (_U1, [2, 1, 0]),
    "8UC3": (_U1, [2, 1, 0]),
    "rgba8": (_U1, [0, 1, 2, 3]),
    "bgra8": (_U1, [2, 1, 0, 3]),
    "mono8": (_U1, [0]),
    "8UC1": (_U1, [0]),
    "mono16": (_U2, [0]),
    "16UC1": (_U2, [0]),
    "32FC1": (np.dtype("<f4"), [0]),
}
"""Type of a channel, and which channel of a pixel is red, green and blue, by the encoding's name in sensor_msgs; a
fourth one is left out."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, decoded."""

    schema: str
    """The schema's name; empty: there is none."""
    fields: Mapping[str, Any]
    """The message's fields, in the schema's order."""


class Decoder:
    """Decodes the messages of one log."""

    def __init__(self) -> None:
        self._factories = (Protobuf(), Ros2())
        self._known: dict[int, tuple[Channel, Callable[[bytes], Any]]] = {}

    def decode(self, channel: Channel, data: bytes) -> Message:
        """Raises LogError where the schema is not known, or the message is not of it."""
        try:
            if channel.message_encoding == "json":
                fields = json.loads(data)
                return Message(channel.schema, fields if isinstance(fields, dict) else {"message": fields})
            content = self._decoder(channel)(data)
        except LogError:
            raise
        except Exception as error:  # of three libraries, none of which says what it raises
            raise LogError(f"a message of {channel.topic} is no {channel.schema or 'JSON'} ({error})") from error
        return Message(channel.schema, _fields(content))

    def _decoder(self, channel: Channel) -> Callable[[bytes], Any]:
        known = self._known.get(id(channel))
        if known is None:
            # The libraries keep what they made of a schema by its number.
            number = len(self._known) + 1
            schema = Schema(id=number, name=channel.schema, encoding=channel.schema_encoding, data=channel.schema_data)
            given = schema if channel.schema_encoding else None
            found = (factory.decoder_for(channel.message_encoding, given) for factory in self._factories)
            decode = next(filter(None, found), None)
            if decode is None:
                of = f"{channel.schema} in {channel.schema_encoding}" if channel.schema_encoding else "no schema"
                form = f"{channel.message_encoding or 'no stated encoding'} with {of}"
                raise LogError(f"{channel.topic} has messages in {form}; should be in {READABLE}")
            known = self._known[id(channel)] = (channel, decode)  # which keeps the id in use
        return known[1]


def _fields(content: Any) -> dict[str, Any]:
    names = [f.name for f in content.DESCRIPTOR.fields] if isinstance(content, ProtobufMessage) else content.__slots__
    return {name: getattr(content, name) for name in names}


def stamp_ns(message: Message) -> int:
    """When it was captured, ns since 1970: `header.stamp` of ROS, `timestamp` of Foxglove; 0: it says nothing."""
    stamp = _of(_of(message.fields, "header"), "stamp")
    if stamp is None:
        stamp = _of(message.fields, "timestamp")
    for seconds, nanoseconds in (("sec", "nanosec"), ("seconds", "nanos"), ("sec", "nsec")):
        whole, rest = _of(stamp, seconds), _of(stamp, nanoseconds)
        if isinstance(whole, int) and isinstance(rest, int):
            return whole * 10**9 + rest
    return 0


def picture_of(message: Message) -> bytes | NDArray[Any] | None:
    """The picture that it holds: bytes as they were compressed, or pixels [height, width] or, in RGB,
    [height, width, 3]; None: its schema is none of a picture. Raises LogError.
    """
    if message.schema in COMPRESSED:
        return _data(message)
    if message.schema in RAW:
        return _pixels(message)
    return None


def video_of(message: Message) -> tuple[bytes, Encoding] | None:
    """The access unit that it holds, and how it is encoded; None: its schema is none of video. Raises LogError."""
    if message.schema not in VIDEO:
        return None
    said = str(message.fields.get("format", ""))
    encoding = _VIDEO_FORMATS.get(said)
    if encoding is None:
        raise LogError(f"video as {said!r}; {' or '.join(_VIDEO_FORMATS)} can be sent")
    return _data(message), encoding


def arrays_of(message: Message) -> dict[str, NDArray[Any]]:
    """Its fields that are arrays of numbers, by name, in the schema's order; byte strings are arrays of UINT8.

    Raises LogError where it is one of duly's own whose bytes do not fill its shape.
    """
    if message.schema == INPUTS:
        return {each.name: _recorded(each) for each in message.fields["inputs"]}
    found = ((name, _array(value)) for name, value in message.fields.items())
    return {name: array for name, array in found if array is not None and array.ndim}


def field_of(message: Message, path: str) -> NDArray[Any]:
    """The numbers of one field, or of a field in a field: `linear_acceleration.x`, `linear_acceleration`, `ranges`.

    Raises LogError where there is no such field, or it holds no numbers.
    """
    value: Any = message.fields
    for name in path.split("."):
        within, value = value, _of(value, name)
        if value is None:
            there = ", ".join(_names(within)) or "nothing"
            raise LogError(f"has no field {path!r}: there is no {name!r} among {there}")
    array = _array(value)
    if array is None:
        parts = [_array(_of(value, name)) for name in _names(value)]
        if not parts or any(part is None for part in parts):
            raise LogError(f"field {path!r} holds no numbers but {', '.join(_names(value)) or type(value).__name__}")
        array = np.concatenate([np.ravel(part) for part in parts if part is not None])
    return array


def sound_of(message: Message) -> tuple[bytes, int, int]:
    """Samples of 16 bits, their rate in Hz, and the number of channels. Raises LogError where they are others."""
    form = str(message.fields.get("format", ""))
    if form != "pcm-s16":
        raise LogError(f"has a {message.schema} in {form!r}; should be pcm-s16")
    channels = _of(message.fields, "number_of_channels")
    return _data(message), int(message.fields.get("sample_rate", 0)), int(channels or 1)


def _recorded(recorded: Any) -> NDArray[Any]:
    try:
        return array_of(recorded.data, recorded.datatype, tuple(recorded.shape))
    except (KeyError, ValueError) as error:
        raise LogError(
            f"has an input {recorded.name!r} that is no {recorded.datatype}{list(recorded.shape)}"
        ) from error


def _of(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    return getattr(value, name, None) if value is not None and name in _names(value) else None


def _names(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return list(value)
    if isinstance(value, ProtobufMessage):
        return [field.name for field in value.DESCRIPTOR.fields]
    return list(getattr(value, "__slots__", ()))


def _array(value: Any) -> NDArray[Any] | None:
    """Numbers as an array; None: it is or holds something else, or nothing."""
    if isinstance(value, bytes | bytearray | memoryview):
        return np.frombuffer(value, np.uint8)
    if isinstance(value, str | Mapping | ProtobufMessage) or value is None:
        return None
    try:
        array = np.asarray(value if isinstance(value, int | float | Sequence | np.ndarray) else list(value))
    except (TypeError, ValueError):  # no sequence, or rows of different lengths
        return None
    return array if array.dtype.kind in "biuf" and array.size else None


def _data(message: Message) -> bytes:
    data = message.fields.get("data")
    try:
        # JSON has bytes as base64.
        return base64.b64decode(data, validate=True) if isinstance(data, str) else bytes(memoryview(data))  # type: ignore[arg-type]
    except (TypeError, ValueError, binascii.Error) as error:
        raise LogError(f"has a {message.schema} without data ({error})") from error


def _pixels(message: Message) -> NDArray[Any]:
    try:
        encoding, step = str(message.fields["encoding"]), int(message.fields["step"])
        height, width = int(message.fields["height"]), int(message.fields["width"])
    except KeyError as error:
        raise LogError(f"has a {message.schema} without {error}") from error
    known, data = _PIXELS.get(encoding), _data(message)
    if known is None:
        raise LogError(f"has a {message.schema} in {encoding!r}; should be one of {', '.join(_PIXELS)}")
    dtype, order = known
    row_bytes = width * len(order) * dtype.itemsize
    if not 0 < row_bytes <= step or height < 1 or len(data) != step * height:
        raise LogError(
            f"has a {message.schema} of {width}x{height} in {encoding!r}, of {len(data)} bytes in rows of {step}"
        )
    big_endian = bool(_of(message.fields, "is_bigendian")) and dtype.itemsize > 1
    rows = np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(height, step)[:, :row_bytes])
    pixels = rows.view(dtype.newbyteorder(">") if big_endian else dtype).reshape(height, width, len(order))
    if len(order) == 1:
        return np.ascontiguousarray(pixels[:, :, 0], dtype)
    return np.ascontiguousarray(pixels[:, :, order[:3]], dtype)
