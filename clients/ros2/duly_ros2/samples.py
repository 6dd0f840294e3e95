"""What a message of a sensor holds, as a frame's input: an array that is a view of the message where it can be one, or
encoded bytes as they were.

Layouts are those of std_msgs, sensor_msgs and audio_common_msgs; `TYPES` has all that the node reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from duly_ros2.cdr import Reader, Unreadable
from duly_ros2.images import picture_size, pixels
from duly_ros2.point_clouds import points

Array = NDArray[np.generic]


@dataclass(slots=True)
class Sample:
    """One message, read."""

    value: Array | bytes
    stamp_ns: int = 0
    """Of its header, ns since the clock's beginning; 0: it has none."""
    frame_id: str = ""
    """Of its header: the coordinate frame that it is in."""
    size: tuple[int, int] = (0, 0)
    """Width and height of a picture in pixels; 0: not known, or no picture."""
    encoding: Literal["PCM_S16LE"] | None = None
    """How bytes are encoded that do not say so themselves."""


def read(kind: str, message: bytes, fields: tuple[str, ...]) -> Sample:
    """Reads a message of the type `kind`, one of TYPES. `fields`: which of its values make up the array, where a type
    has several; empty: as each type says. Raises Unreadable.
    """
    read_value, has_header = _READ[kind]
    reader = Reader(message)
    stamp_ns, frame_id = _header(reader) if has_header else (0, "")
    try:
        value = read_value(reader, fields)
    except ValueError as error:  # NumPy's own are such: of extents that no array may have
        unreadable = error if isinstance(error, Unreadable) else Unreadable(f"the message holds no array: {error}")
        unreadable.stamp_ns, unreadable.frame_id = stamp_ns, frame_id
        raise unreadable from None
    value.stamp_ns, value.frame_id = stamp_ns, frame_id
    return value


def header_of(kind: str, message: bytes) -> tuple[int, str]:
    """Returns the stamp of a message, in ns, and the coordinate frame that it is in; (0, ""): it says neither."""
    try:
        return _header(Reader(message)) if _READ[kind][1] else (0, "")
    except Unreadable:
        return 0, ""


def _header(reader: Reader) -> tuple[int, str]:
    seconds, nanoseconds = reader.numbers("iI")
    return int(seconds) * 1_000_000_000 + int(nanoseconds), reader.text()


def _compressed_image(reader: Reader, fields: tuple[str, ...]) -> Sample:
    """The picture's bytes, untouched."""
    format = reader.text()
    data = reader.data()
    if not data.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        raise Unreadable(
            f"the picture's format is {format!r} and it begins with {data[:4].hex()}; expected JPEG or PNG"
        )
    return Sample(data, size=picture_size(data))


def _image(reader: Reader, fields: tuple[str, ...]) -> Sample:
    """[height, width, 3] of UINT8 for colours, red first; [height, width] of UINT8, UINT16 or FP32 for one channel."""
    height, width = reader.integer(), reader.integer()
    encoding = reader.text()
    big_endian = bool(reader.integer("B"))
    step = reader.integer()
    return Sample(pixels(reader.array("u1"), width, height, step, encoding, big_endian), size=(width, height))


def _point_cloud(reader: Reader, fields: tuple[str, ...]) -> Sample:
    """[points, fields], by default of x, y and z."""
    return Sample(points(reader, fields or ("x", "y", "z")))


def _laser_scan(reader: Reader, fields: tuple[str, ...]) -> Sample:
    """FP32[beams] of the ranges, or of the field that is asked for; [beams, 2] of both."""
    reader.skip(7 * 4, 4)
    held = {"ranges": reader.array("f4"), "intensities": reader.array("f4")}
    asked = [held[name] for name in _among(fields or ("ranges",), tuple(held))]
    if len({len(each) for each in asked}) > 1:
        raise Unreadable(f"the scan has {len(held['ranges'])} ranges and {len(held['intensities'])} intensities")
    return Sample(asked[0] if len(asked) == 1 else np.stack(asked, axis=-1))


def _imu(reader: Reader, fields: tuple[str, ...]) -> Sample:
    """FP64[10]: orientation x, y, z, w, angular velocity and linear acceleration, or those of them asked for."""
    held: dict[str, tuple[int | float, ...]] = {}
    for name, count in (("orientation", 4), ("angular_velocity", 3), ("linear_acceleration", 3)):
        held[name] = reader.numbers("d" * count)
        reader.skip(9 * 8, 8)
    return Sample(np.array([number for name in _among(fields or tuple(held), tuple(held)) for number in held[name]]))


def _range(reader: Reader, fields: tuple[str, ...]) -> Sample:
    """FP32[1]: the distance in metres."""
    reader.integer("B")
    distance = reader.numbers("ffff")[3]
    return Sample(np.array([distance], np.float32))


def _audio(reader: Reader, fields: tuple[str, ...]) -> Sample:
    """Samples of 16 bits, little-endian."""
    return Sample(reader.data(), encoding="PCM_S16LE")


def _multi_array(kind: str) -> Callable[[Reader, tuple[str, ...]], Sample]:
    def read_it(reader: Reader, fields: tuple[str, ...]) -> Sample:
        """Of the extents that its layout says; without a layout a vector."""
        shape = []
        for _ in range(reader.integer()):
            reader.text()
            shape.append(reader.integer())
            reader.integer()
        offset = reader.integer()
        array = reader.array(kind)[offset:]
        if shape and int(np.prod(shape, dtype=object)) != len(array):
            raise Unreadable(f"the layout says {shape}, and there are {len(array)} numbers from its offset {offset} on")
        return Sample(array.reshape(shape) if shape else array)

    return read_it


def _among(asked: tuple[str, ...], held: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [name for name in asked if name not in held]
    if wrong:
        raise Unreadable(f"fields: {wrong[0]!r} is none of {', '.join(held)}")
    return asked


_READ: dict[str, tuple[Callable[[Reader, tuple[str, ...]], Sample], bool]] = {
    "sensor_msgs/msg/CompressedImage": (_compressed_image, True),
    "sensor_msgs/msg/Image": (_image, True),
    "sensor_msgs/msg/PointCloud2": (_point_cloud, True),
    "sensor_msgs/msg/LaserScan": (_laser_scan, True),
    "sensor_msgs/msg/Imu": (_imu, True),
    "sensor_msgs/msg/Range": (_range, True),
    "audio_common_msgs/msg/AudioData": (_audio, False),
    "audio_common_msgs/msg/AudioDataStamped": (_audio, True),
    "std_msgs/msg/Float32MultiArray": (_multi_array("f4"), False),
    "std_msgs/msg/Float64MultiArray": (_multi_array("f8"), False),
    "std_msgs/msg/Int16MultiArray": (_multi_array("i2"), False),
    "std_msgs/msg/Int32MultiArray": (_multi_array("i4"), False),
    "std_msgs/msg/UInt8MultiArray": (_multi_array("u1"), False),
}
TYPES = tuple(_READ)
"""The types of messages that the node reads."""
