"""What a robot logged on one topic: when its messages came, and what they hold as pictures and arrays of numbers.

MCAP is the container (https://mcap.dev/spec); messages in it are Protobuf or ROS 2 CDR, both with the schema that reads
them in the log itself, or JSON. Pictures are known by their schema: CompressedImage and RawImage of Foxglove
(https://docs.foxglove.dev/docs/visualization/message-schemas), in Protobuf or JSON, and CompressedImage and Image of
ROS 2 sensor_msgs. Every other message is taken as its fields that are arrays of numbers.

Out of scope: ROS 1, IDL schemas, FlatBuffers, compressed video and depth, fields within fields.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import Message as ProtobufMessage
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mcap.decoder import DecoderFactory
    from mcap.reader import McapReader
    from mcap.records import Schema
    from mcap.summary import Summary

MESSAGES_MAX = 2**20
"""The most messages of one topic whose times are read."""

_COMPRESSED = {"foxglove.CompressedImage", "sensor_msgs/msg/CompressedImage"}
_RAW = {"foxglove.RawImage", "sensor_msgs/msg/Image"}
_RGB_FROM: dict[str, list[int]] = {
    "rgb8": [0, 1, 2],
    "bgr8": [2, 1, 0],
    "8UC3": [2, 1, 0],
    "rgba8": [0, 1, 2, 3],
    "bgra8": [2, 1, 0, 3],
    "mono8": [0],
    "8UC1": [0],
}
"""Which byte of a pixel is red, green and blue, by the encoding's name in sensor_msgs; a fourth one is left out."""


class LogError(ValueError):
    """The log can't be read, or holds something else than it should; says what would be right."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, decoded."""

    schema: str
    """The schema's name; empty: there is none."""
    fields: Mapping[str, Any]
    """The message's fields, in the schema's order."""


@lru_cache(maxsize=32)
def _times_ns(file: Path, topic: str, changed_ns: int) -> NDArray[np.int64]:
    del changed_ns  # of the file: another one is read anew
    with _opened(file) as (reader, summary):
        topic = _chosen(summary, topic)
        if summary.statistics is None:
            raise LogError("has no statistics at its end; `mcap recover` makes a whole log of it")
        begin_ns = summary.statistics.message_start_time
        logged = reader.iter_messages(topics=[topic])
        times_ns = np.fromiter((message.log_time - begin_ns for *_, message in islice(logged, MESSAGES_MAX)), np.int64)
        if next(logged, None) is not None:
            raise LogError(f"has more than {MESSAGES_MAX} messages on {topic}")
        if not len(times_ns):
            raise LogError(f"has no messages on {topic}")
    times_ns.setflags(write=False)
    return times_ns


def message_times_ns(file: Path, topic: str) -> NDArray[np.int64]:
    """When messages of `topic` were logged, ns since the log's first message, of whatever topic: so sensors of one log
    keep their phases. `topic` may be empty where the log has only one. Raises LogError, OSError.
    """
    return _times_ns(file, topic, file.stat().st_mtime_ns)


def read_messages(file: Path, topic: str, count: int) -> Iterator[Message]:
    """The first `count` messages of `topic` in the order of time, decoded; `topic` may be empty where the log has only
    one. Raises LogError, OSError.
    """
    formats = _formats()
    with _opened(file) as (reader, summary):
        for schema, channel, message in islice(reader.iter_messages(topics=[_chosen(summary, topic)]), count):
            name = schema.name if schema else ""
            yield Message(name, _decoded(formats, channel.message_encoding, schema, message.data))


def picture_of(message: Message) -> bytes | NDArray[np.uint8] | None:
    """The picture that it holds: bytes as they were compressed, or pixels, RGB of shape [height, width, 3]; None: its
    schema is none of a picture. Raises LogError.
    """
    if message.schema in _COMPRESSED:
        return _data(message)
    if message.schema in _RAW:
        return _pixels(message)
    return None


def arrays_of(message: Message) -> dict[str, NDArray[Any]]:
    """Its fields that are arrays of numbers, by name, in the schema's order; byte strings are arrays of UINT8."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in message.fields.items():
        if isinstance(value, bytes):
            arrays[name] = np.frombuffer(value, np.uint8)
        elif hasattr(value, "__len__") and not isinstance(value, str | Mapping):
            try:
                array = np.asarray(value)
            except ValueError:  # rows of different lengths
                continue
            if array.dtype.kind in "biuf" and array.size:
                arrays[name] = array
    return arrays


@contextmanager
def _opened(file: Path) -> "Iterator[tuple[McapReader, Summary]]":
    try:
        from mcap.reader import SeekingReader
    except ImportError as error:
        raise LogError("reading .mcap needs the package mcap: pip install 'duly[load]'") from error
    with file.open("rb") as content:
        try:
            reader = SeekingReader(content)
            summary = reader.get_summary()
            if summary is None or not summary.chunk_indexes:
                raise LogError("has no messages, or no index of them; `mcap recover` makes a log with an index of it")
            yield reader, summary
        except (LogError, OSError):
            raise
        except Exception as error:  # of the container and of two decompressors, none of which says what it raises
            said = str(error) or type(error).__name__
            raise LogError(f"is damaged or no MCAP ({said}); `mcap doctor` says more") from error


def _chosen(summary: "Summary", topic: str) -> str:
    topics = sorted({channel.topic for channel in summary.channels.values()})
    if topic in topics:
        return topic
    if not topic and len(topics) == 1:
        return topics[0]
    shown = ", ".join([*topics[:20], *(["..."] if len(topics) > 20 else [])]) or "none"
    raise LogError(f"{f'has no topic {topic!r}' if topic else 'needs a topic'}; it has {shown}")


def _formats() -> "tuple[DecoderFactory, ...]":
    try:
        from mcap_protobuf.decoder import DecoderFactory as Protobuf
        from mcap_ros2.decoder import DecoderFactory as Ros2
    except ImportError as error:
        raise LogError(
            "reading messages needs the packages mcap-protobuf-support and mcap-ros2-support: pip install 'duly[load]'"
        ) from error
    return Protobuf(), Ros2()


def _decoded(
    formats: "tuple[DecoderFactory, ...]", message_encoding: str, schema: "Schema | None", data: bytes
) -> Mapping[str, Any]:
    if message_encoding == "json":
        fields = json.loads(data)
        return fields if isinstance(fields, dict) else {"message": fields}
    decode = next(filter(None, (format.decoder_for(message_encoding, schema) for format in formats)), None)
    if decode is None:
        form = f"{message_encoding} with " + (f"{schema.name} in {schema.encoding}" if schema else "no schema")
        raise LogError(f"has messages in {form}; should be in JSON, Protobuf or CDR with a ros2msg schema")
    content = decode(data)
    names = [f.name for f in content.DESCRIPTOR.fields] if isinstance(content, ProtobufMessage) else content.__slots__
    return {name: getattr(content, name) for name in names}


def _data(message: Message) -> bytes:
    data = message.fields.get("data")
    try:
        # JSON has bytes as base64.
        return base64.b64decode(data, validate=True) if isinstance(data, str) else memoryview(data).tobytes()  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise LogError(f"has a {message.schema} without data ({error})") from error


def _pixels(message: Message) -> NDArray[np.uint8]:
    try:
        encoding, step = str(message.fields["encoding"]), int(message.fields["step"])
        height, width = int(message.fields["height"]), int(message.fields["width"])
    except KeyError as error:
        raise LogError(f"has a {message.schema} without {error}") from error
    order, data = _RGB_FROM.get(encoding), _data(message)
    if order is None:
        raise LogError(f"has a {message.schema} in {encoding!r}; should be one of {', '.join(_RGB_FROM)}")
    if not 0 < width * len(order) <= step or height < 1 or len(data) != step * height:
        raise LogError(
            f"has a {message.schema} of {width}x{height} in {encoding!r}, of {len(data)} bytes in rows of {step}"
        )
    rows = np.frombuffer(data, np.uint8).reshape(height, step)[:, : width * len(order)]
    pixels = rows.reshape(height, width, len(order))[:, :, order[:3]]
    return np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3)))
