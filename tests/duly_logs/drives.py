"""Recorded drives, made of the packages' recordings or of small pictures, in the ways in which recorders write them."""

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawAudio_pb2 import RawAudio
from google.protobuf.message import Message
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from mcap_protobuf.writer import Writer as ProtobufWriter
from mcap_ros2.writer import Writer as Ros2Writer

from duly_logs.schemas import timestamp

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
CAMERA = "/camera/image/compressed"

HEADER = "std_msgs/Header header\n"
HEADER_TYPE = """
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
COMPRESSED_IMAGE = f"{HEADER}string format\nuint8[] data\n{HEADER_TYPE}"
IMAGE = (
    f"{HEADER}uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data\n"
    f"{HEADER_TYPE}"
)
IMU = (
    f"{HEADER}Vector3 angular_velocity\nVector3 linear_acceleration\n{HEADER_TYPE}"
    "================================================================================\n"
    "MSG: geometry_msgs/Vector3\nfloat64 x\nfloat64 y\nfloat64 z\n"
).replace("Vector3 ", "geometry_msgs/Vector3 ")


def pictures(count: int, width: int = 64, height: int = 48) -> list[bytes]:
    """Small JPEG pictures, each of another gray."""
    shades = ((number * 7) % 256 for number in range(count))
    return [cv2.imencode(".jpg", np.full((height, width, 3), shade, np.uint8))[1].tobytes() for shade in shades]


def video_pictures(file: Path, first: int, count: int) -> list[bytes]:
    """JPEG pictures of a video."""
    video, found = cv2.VideoCapture(str(file)), []
    for number in range(first + count):
        there, picture = video.read()
        assert there
        if number >= first:
            found.append(cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 90))[1].tobytes())
    return found


def times(count: int, period_ns: int = PERIOD_NS) -> list[int]:
    return [START_NS + number * period_ns for number in range(count)]


def header(time_ns: int) -> dict[str, Any]:
    return {"stamp": {"sec": time_ns // 10**9, "nanosec": time_ns % 10**9}, "frame_id": "camera"}


def ros2_drive(
    file: Path,
    jpegs: Sequence[bytes],
    at_ns: Sequence[int] | None = None,
    *,
    topics: Iterable[str] = (CAMERA,),
    stamps_ns: Sequence[int] | None = None,
    compression: CompressionType = CompressionType.ZSTD,
    chunk_size: int = 1 << 20,
    imu: bool = True,
) -> Path:
    """An MCAP as `ros2 bag record` writes it: a camera, or several, and an IMU that runs ten times as fast."""
    at_ns = at_ns or times(len(jpegs))
    with file.open("wb") as out, Ros2Writer(out, compression=compression, chunk_size=chunk_size) as writer:
        camera = writer.register_msgdef("sensor_msgs/msg/CompressedImage", COMPRESSED_IMAGE)
        motion = writer.register_msgdef("sensor_msgs/msg/Imu", IMU)
        for number, (time_ns, jpeg) in enumerate(zip(at_ns, jpegs, strict=True)):
            stamp = header(stamps_ns[number] if stamps_ns else time_ns - 5_000_000)
            for topic in topics:
                message = {"header": stamp, "format": "jpeg", "data": jpeg}
                writer.write_message(topic, camera, message, time_ns, time_ns, number)
            for part in range(10 if imu else 0):
                turn = {"x": 0.0, "y": 0.1 * part, "z": float(number)}
                message = {"header": stamp, "angular_velocity": turn, "linear_acceleration": turn}
                at = time_ns + part * PERIOD_NS // 10
                writer.write_message("/imu", motion, message, at, at, number * 10 + part)
    return file


def protobuf_drive(file: Path, jpegs: Sequence[bytes], sound: bytes = b"") -> Path:
    """An MCAP as Foxglove's SDK writes it: a camera, and a microphone in blocks of 20 ms at 16 kHz."""
    with file.open("wb") as out, ProtobufWriter(out) as writer:
        for time_ns, jpeg in zip(times(len(jpegs)), jpegs, strict=True):
            image = CompressedImage(timestamp=timestamp(time_ns), format="jpeg", data=jpeg)
            writer.write_message("/camera", image, time_ns, time_ns)
        for number, start in enumerate(range(0, len(sound), 640)):
            time_ns = START_NS + (number + 1) * 20_000_000
            block = RawAudio(
                timestamp=timestamp(time_ns),
                data=sound[start : start + 640],
                format="pcm-s16",
                sample_rate=16000,
                number_of_channels=1,
            )
            writer.write_message("/microphone", block, time_ns, time_ns)
    return file


def json_drive(file: Path, topics: dict[str, list[dict[str, Any]]], schema: str = "") -> Path:
    """An MCAP of JSON messages, with a schema of this name or without any."""
    with file.open("wb") as out:
        writer = McapWriter(out)
        writer.start()
        for topic, messages in topics.items():
            number = writer.register_schema(schema, "jsonschema", b'{"type": "object"}') if schema else 0
            channel = writer.register_channel(topic, "json", number)
            for time_ns, message in zip(times(len(messages)), messages, strict=True):
                writer.add_message(channel, time_ns, json.dumps(message).encode(), time_ns)
        writer.finish()
    return file


def json_picture(jpeg: bytes) -> dict[str, Any]:
    return {"timestamp": {"sec": 0, "nsec": 0}, "format": "jpeg", "data": base64.b64encode(jpeg).decode()}


def fields(message: Message) -> dict[str, Any]:
    """The fields of a Protobuf message by their names."""
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
