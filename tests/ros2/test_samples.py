"""What messages hold, as arrays: values, types, and that pictures are views of the message and no copies."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly_ros2.cdr import Unreadable
from duly_ros2.images import picture_size
from duly_ros2.samples import TYPES, read
from tests.ros2.cdr import Writer, image

IMAGE = "sensor_msgs/msg/Image"
CLOUD = "sensor_msgs/msg/PointCloud2"
PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def memory_of(array: np.ndarray) -> object:
    """What holds the elements of a view of a view."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("encoding", "step", "padding", "want"),
    [
        ("rgb8", 9, 0, PIXELS),
        ("rgb8", 12, 3, PIXELS),
        ("bgr8", 9, 0, PIXELS[:, :, ::-1]),
        ("mono8", 3, 0, PIXELS[:, :, 0]),
        ("16UC1", 6, 0, PIXELS[:, :, 1].astype(np.uint16) * 300),
        ("32FC1", 14, 2, PIXELS[:, :, 2].astype(np.float32) / 3),
    ],
)
def test_an_image_is_a_view_of_its_message(
    encoding: str, step: int, padding: int, want: np.ndarray, order: str
) -> None:
    held = PIXELS if encoding in ("rgb8", "bgr8") else want
    rows = [row.astype(held.dtype.newbyteorder(order)).tobytes() + b"\xee" * padding for row in held]
    message = image(encoding, 3, 2, step, b"".join(rows), big_endian=order == ">", order=order)
    sample = read(IMAGE, message, ())
    np.testing.assert_array_equal(sample.value, want)
    assert memory_of(sample.value) is message
    assert (sample.stamp_ns, sample.frame_id, sample.size) == (1_500_000_000, "cam", (3, 2))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (image("bayer_rggb8", 2, 2, 2, bytes(4)), "'bayer_rggb8'; expected one of rgb8, bgr8, mono8, 16UC1, 32FC1"),
        (image("rgb8", 3, 2, 8, bytes(18)), "3x2 in 'rgb8', and has 18 bytes in rows of 8"),
        (image("rgb8", 3, 2, 9, bytes(17)), "17 bytes in rows of 9"),
        (image("rgb8", 0, 2, 9, bytes(18)), "the image is 0x2"),
        (image("rgb8", 3, 2, 9, bytes(18))[:-1], "ends after"),
    ],
)
def test_an_image_that_cannot_be_read_says_why_and_keeps_its_header(message: bytes, said: str) -> None:
    with pytest.raises(Unreadable, match=said) as raised:
        read(IMAGE, message, ())
    assert (raised.value.stamp_ns, raised.value.frame_id) == (1_500_000_000, "cam")


def test_a_compressed_picture_is_untouched() -> None:
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", 480, 640) + bytes(9)
    sample = read("sensor_msgs/msg/CompressedImage", Writer().header().text("jpeg").data(jpeg).message, ())
    assert sample.value == jpeg
    assert sample.size == picture_size(jpeg) == (640, 480)
    depth = Writer().header().text("16UC1; compressedDepth png").data(b"\0" * 12 + b"\x89PNG").message
    with pytest.raises(Unreadable, match=r"compressedDepth png.*expected JPEG or PNG"):
        read("sensor_msgs/msg/CompressedImage", depth, ())


def cloud(fields: list[tuple[str, int, int]], step: int, data: bytes, count: int, row_step: int = 0) -> bytes:
    writer = Writer().header().numbers("III", 1, count, len(fields))
    for name, offset, kind in fields:
        writer.text(name).numbers("IBI", offset, kind, 1)
    return writer.numbers("BII", 0, step, row_step or step * count).data(data).numbers("B", 1).message


def test_a_cloud_of_even_fields_is_a_view_and_others_are_gathered() -> None:
    points = np.arange(12, dtype=np.float32).reshape(3, 4)
    fields = [("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("intensity", 12, 7)]
    message = cloud(fields, 16, points.tobytes(), 3)
    sample = read(CLOUD, message, ())
    np.testing.assert_array_equal(sample.value, points[:, :3])
    assert memory_of(sample.value) is message
    np.testing.assert_array_equal(read(CLOUD, message, ("z", "intensity")).value, points[:, 2:])
    np.testing.assert_array_equal(read(CLOUD, message, ("z", "x")).value, points[:, [2, 0]])

    mixed = b"".join(struct.pack("<fHf", x, 7, x + 1) for x in (1.0, 2.0))
    gathered = read(CLOUD, cloud([("x", 0, 7), ("ring", 4, 4), ("y", 6, 7)], 10, mixed, 2), ("x", "ring", "y")).value
    np.testing.assert_array_equal(gathered, [[1, 7, 2], [2, 7, 3]])
    assert gathered.dtype == np.float32


@pytest.mark.parametrize(
    ("message", "fields", "said"),
    [
        (cloud([("x", 0, 7)], 4, bytes(8), 2), ("z",), "no field 'z'; it has x"),
        (cloud([("x", 0, 7)], 4, bytes(7), 2), ("x",), "has 7 bytes"),
        (cloud([("x", 4, 7)], 4, bytes(8), 2), ("x",), "of which fields need 8"),
        (cloud([("x", 0, 7)], 4, bytes(8), 2, row_step=4), ("x",), "in rows of 4"),
    ],
)
def test_a_cloud_that_cannot_be_read_says_why(message: bytes, fields: tuple[str, ...], said: str) -> None:
    with pytest.raises(Unreadable, match=said):
        read(CLOUD, message, fields)


def test_plain_sensors() -> None:
    scan = Writer().header().numbers("f" * 7, *range(7)).sequence("f", [1.5, 2.5]).sequence("f", [7, 8]).message
    assert read("sensor_msgs/msg/LaserScan", scan, ()).value.tolist() == [1.5, 2.5]
    both = read("sensor_msgs/msg/LaserScan", scan, ("intensities", "ranges")).value
    assert both.tolist() == [[7, 1.5], [8, 2.5]]
    with pytest.raises(Unreadable, match="'range' is none of ranges, intensities"):
        read("sensor_msgs/msg/LaserScan", scan, ("range",))

    writer = Writer().header(frame_id="imu_link")
    for values in ((0, 0, 0, 1), (2, 3, 4), (5, 6, 7)):
        writer.numbers("d" * len(values), *values).numbers("d" * 9, *range(9))
    imu = read("sensor_msgs/msg/Imu", writer.message, ())
    assert imu.value.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    turned = read("sensor_msgs/msg/Imu", writer.message, ("linear_acceleration", "angular_velocity"))
    assert turned.value.tolist() == [5, 6, 7, 2, 3, 4]

    distance = Writer().header().numbers("Bfffff", 1, 0.1, 0.2, 9.0, 3.5, 0).message
    assert read("sensor_msgs/msg/Range", distance, ()).value.tolist() == [3.5]
    audio = read("audio_common_msgs/msg/AudioDataStamped", Writer().header().data(b"\1\2").message, ())
    assert (audio.value, audio.encoding, audio.frame_id) == (b"\1\2", "PCM_S16LE", "cam")
    assert read("audio_common_msgs/msg/AudioData", Writer().data(b"\1\2").message, ()).stamp_ns == 0


def test_a_multi_array_has_the_extents_of_its_layout() -> None:
    def message(*extents: int) -> bytes:
        writer = Writer().numbers("I", len(extents))
        for extent in extents:
            writer.text("").numbers("II", extent, 0)
        return writer.numbers("I", 0).sequence("d", [1, 2, 3, 4, 5, 6]).message

    kind = "std_msgs/msg/Float64MultiArray"
    assert read(kind, message(), ()).value.tolist() == [1, 2, 3, 4, 5, 6]
    assert read(kind, message(2, 3), ()).value.tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(Unreadable, match=r"the layout says \[7\], and there are 6 numbers"):
        read(kind, message(7), ())


@pytest.mark.parametrize("extents", [(0, *(1 << 31,) * 4), (1,) * 70], ids=["beyond any array", "too many"])
def test_an_array_of_extents_that_none_may_have_is_unreadable(extents: tuple[int, ...]) -> None:
    writer = Writer().numbers("I", len(extents))
    for extent in extents:
        writer.text("").numbers("II", extent, 0)
    message = writer.numbers("I", 0).sequence("f", [1.0] * min(extents)).message
    with pytest.raises(Unreadable, match="holds no array"):
        read("std_msgs/msg/Float32MultiArray", message, ())


@given(kind=st.sampled_from(TYPES), head=st.sampled_from([b"\0\1\0\0", b"\0\0\0\0", b""]), body=st.binary(max_size=200))
def test_any_bytes_are_read_or_said_to_be_unreadable(kind: str, head: bytes, body: bytes) -> None:
    with contextlib.suppress(Unreadable):  # and no other error
        assert read(kind, head + body, ()).value is not None
