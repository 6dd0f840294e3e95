"""Pictures of sensor_msgs/Image as arrays, without a copy, and how large an encoded picture is."""

import struct

import numpy as np
from numpy.typing import NDArray

from duly_ros2.cdr import Unreadable

Array = NDArray[np.generic]

ENCODINGS: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "mono8": ("u1", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
}
"""Element type and channels of the encodings that are read, by the names of sensor_msgs."""


def pixels(data: NDArray[np.generic], width: int, height: int, step: int, encoding: str, big_endian: bool) -> Array:
    """Returns a picture as [height, width, 3], red first, or [height, width] where it has one channel: a view of
    `data`, also where rows have padding (`step` bytes a row) or blue comes first. Raises Unreadable.
    """
    if encoding not in ENCODINGS:
        raise Unreadable(f"the image's encoding is {encoding!r}; expected one of {', '.join(ENCODINGS)}")
    kind, channels = ENCODINGS[encoding]
    dtype = np.dtype(kind).newbyteorder(">" if big_endian else "<")
    if not width or not height:
        raise Unreadable(f"the image is {width}x{height}")
    if step < width * channels * dtype.itemsize or len(data) < step * height:
        raise Unreadable(f"the image is {width}x{height} in {encoding!r}, and has {len(data)} bytes in rows of {step}")
    if channels == 1:
        return np.ndarray((height, width), dtype, data.data, strides=(step, dtype.itemsize))
    colours = np.ndarray((height, width, 3), dtype, data.data, strides=(step, 3, 1))
    return colours[:, :, ::-1] if encoding == "bgr8" else colours


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG or PNG by its header; (0, 0) where that is not as it should be."""
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the start of a frame
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return 0, 0
