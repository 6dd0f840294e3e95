"""Which topic of a log feeds which model, and what becomes of its messages."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mcap.writer import Writer as McapWriter
from mcap_ros2.writer import Writer as Ros2Writer

from duly_client.convert import DTYPES
from duly_client.recordings.recording import RecordingError
from duly_client.types import Encoding, StreamTerms, TensorSpec
from duly_logs.feeds import Frame, TopicUnclear, find_feed
from duly_logs.log import LogError
from duly_logs.opening import open_log
from tests.duly_logs.drives import (
    CAMERA,
    IMAGE,
    START_NS,
    header,
    json_drive,
    json_picture,
    pictures,
    protobuf_drive,
    ros2_drive,
    times,
)

TERMS = StreamTerms(1, "1", (), (), (), "STANDARD", "LATEST", 1, "ARRIVAL", "", 10**8, 10**6, 0.0, 64, 1 << 26, 1 << 22)


def takes(datatype: str, *shape: int, name: str = "x", encodings: tuple[Encoding, ...] = (), rate_hz: int = 0) -> Any:
    spec = TensorSpec(name, datatype, DTYPES[datatype], shape, encodings, sample_rate_hz=rate_hz)
    return replace(TERMS, inputs=(spec,))


JPEGS = takes("UINT8", -1, -1, 3, encodings=("JPEG", "PNG"))
FOUR = takes("FP32", 4)
VOICE = takes("FP32", 512, encodings=("PCM_S16LE",), rate_hz=16000)


def frames(file: Path, terms: StreamTerms, topic: str = "", *fields: str) -> tuple[list[Frame], list[str]]:
    """The frames, and what was passed over."""
    told: list[RecordingError] = []
    found = list(find_feed(open_log(file), terms, topic, fields).frames(told.append))
    return found, [str(error) for error in told]


def test_pictures_of_ros2_go_as_they_are(tmp_path: Path) -> None:
    jpegs = pictures(3)
    found, told = frames(ros2_drive(tmp_path / "drive.mcap", jpegs), JPEGS)
    assert not told
    assert [frame.value for frame in found] == jpegs
    assert [frame.time_ns for frame in found] == times(3)
    assert [frame.stamp_ns for frame in found] == [time_ns - 5_000_000 for time_ns in times(3)]
    assert [frame.number for frame in found] == [1, 2, 3]


def test_pictures_of_foxglove_and_of_json(tmp_path: Path) -> None:
    jpegs = pictures(3)
    assert [frame.value for frame in frames(protobuf_drive(tmp_path / "p.mcap", jpegs), JPEGS)[0]] == jpegs
    messages = {"/camera": [json_picture(jpeg) for jpeg in jpegs]}
    file = json_drive(tmp_path / "j.mcap", messages, "foxglove.CompressedImage")
    assert [frame.value for frame in frames(file, JPEGS)[0]] == jpegs


@pytest.mark.parametrize(
    ("encoding", "dtype", "pixel", "shown"),
    [
        ("rgb8", np.uint8, [1, 2, 3], [1, 2, 3]),
        ("bgr8", np.uint8, [1, 2, 3], [3, 2, 1]),
        ("bgra8", np.uint8, [1, 2, 3, 255], [3, 2, 1]),
        ("mono8", np.uint8, [7], [7, 7, 7]),
    ],
)
def test_raw_pictures_of_ros2(tmp_path: Path, encoding: str, dtype: Any, pixel: list[int], shown: list[int]) -> None:
    """Rows have four bytes more than their pixels."""
    row = np.concatenate([np.array(pixel * 5, dtype).view(np.uint8), np.zeros(4, np.uint8)])
    file = tmp_path / "raw.mcap"
    with file.open("wb") as out, Ros2Writer(out) as writer:
        schema = writer.register_msgdef("sensor_msgs/msg/Image", IMAGE)
        message = {"header": header(START_NS), "height": 3, "width": 5, "encoding": encoding, "is_bigendian": 0}
        writer.write_message("/raw", schema, message | {"step": len(row), "data": row.tobytes() * 3}, START_NS)
    ((frame,), told) = frames(file, takes("UINT8", -1, -1, 3))
    assert not told
    assert frame.value.shape == (3, 5, 3)  # type: ignore[union-attr]
    assert (frame.value == shown).all()
    ((frame,), _) = frames(file, takes("UINT8", -1, -1, 3, encodings=("PNG",)))
    assert isinstance(frame.value, np.ndarray), "pixels are not compressed where the model takes them"


def test_depth_keeps_its_bits_and_does_not_fit_what_takes_eight(tmp_path: Path) -> None:
    depth = np.arange(12, dtype=">u2").reshape(3, 4)
    file = tmp_path / "depth.mcap"
    with file.open("wb") as out, Ros2Writer(out) as writer:
        schema = writer.register_msgdef("sensor_msgs/msg/Image", IMAGE)
        message = {"header": header(START_NS), "height": 3, "width": 4, "encoding": "16UC1", "is_bigendian": 1}
        writer.write_message("/depth", schema, message | {"step": 8, "data": depth.tobytes()}, START_NS)
    ((frame,), _) = frames(file, takes("UINT16", -1, -1, 1))
    assert (frame.value == depth[:, :, None]).all()
    with pytest.raises(LogError, match=r"no topic fits .*\n/depth: pixels uint16\[3,4\]; the model takes UINT8"):
        frames(file, JPEGS)


def test_arrays_fit_by_name_or_by_shape(tmp_path: Path) -> None:
    messages = [{"x": [1, 2, 3, number], "other": [5, 6, 7, 8], "name": "a"} for number in range(2)]
    found, _ = frames(json_drive(tmp_path / "named.mcap", {"/a": messages}), FOUR)
    assert [frame.value["x"].tolist() for frame in found] == [[1, 2, 3, 0], [1, 2, 3, 1]]  # type: ignore[index]
    only = json_drive(tmp_path / "only.mcap", {"/a": [{"values": [1.5, 2, 3, 4], "short": [1, 2]}]})
    assert frames(only, FOUR)[0][0].value.tolist() == [1.5, 2, 3, 4]  # type: ignore[union-attr]
    several = json_drive(tmp_path / "several.mcap", {"/a": [{"p": [1, 2, 3, 4], "q": [1, 2, 3, 4]}]})
    with pytest.raises(LogError, match=r"has p int64\[4\], q int64\[4\], of which 2 fit FP32\[4\]; say which"):
        frames(several, FOUR)
    assert frames(several, FOUR, "", "q")[0][0].value.tolist() == [1, 2, 3, 4]  # type: ignore[union-attr]


def test_an_imu_feeds_a_model_of_six_numbers_by_fields(tmp_path: Path) -> None:
    file = ros2_drive(tmp_path / "drive.mcap", pictures(2))
    six = takes("FP32", 6)
    found, told = frames(file, six, "/imu", "angular_velocity", "linear_acceleration")
    assert not told
    assert np.allclose(found[13].value, [0, 0.3, 1, 0, 0.3, 1])  # type: ignore[arg-type]
    with pytest.raises(LogError, match="has no field 'speed': there is no 'speed' among header, angular_velocity"):
        frames(file, six, "/imu", "speed")
    with pytest.raises(LogError, match="there is no 'w' among x, y, z"):
        frames(file, six, "/imu", "angular_velocity.w")
    with pytest.raises(LogError, match=r"field 'angular_velocity' is float64\[3\]; the model takes FP32\[6\]"):
        frames(file, six, "/imu", "angular_velocity")


def test_fractions_are_not_made_integers_and_numbers_are_not_cut(tmp_path: Path) -> None:
    file = json_drive(tmp_path / "a.mcap", {"/a": [{"x": [0.5, 300]}]})
    with pytest.raises(LogError, match=r"field 'x' is float64\[2\]; the model takes UINT8\[2\]"):
        frames(file, takes("UINT8", 2))
    file = json_drive(tmp_path / "b.mcap", {"/a": [{"x": [1, 300]}]})
    with pytest.raises(LogError, match="field 'x' has numbers that UINT8 cannot hold"):
        frames(file, takes("UINT8", 2))


def test_sound_comes_in_chunks_of_the_models_length(tmp_path: Path) -> None:
    samples = np.arange(16000, dtype="<i2").tobytes()
    found, told = frames(protobuf_drive(tmp_path / "drive.mcap", [], samples), VOICE)
    assert not told
    assert b"".join(frame.value for frame in found) == samples[: 31 * 1024]  # type: ignore[misc]
    assert found[0].encoding == "PCM_S16LE"
    ends = [round((frame.time_ns - START_NS) / 1e6) for frame in found]
    assert ends == [32 * number for number in range(1, 32)], "each is captured when its last sample is there"
    with pytest.raises(LogError, match=r"/microphone: 1 channel\(s\) at 16000 Hz; the model takes 1 at 8000 Hz"):
        frames(tmp_path / "drive.mcap", takes("FP32", 512, encodings=("PCM_S16LE",), rate_hz=8000))


def test_no_topic_fits(tmp_path: Path) -> None:
    file = ros2_drive(tmp_path / "drive.mcap", pictures(2))
    with pytest.raises(LogError) as caught:
        frames(file, takes("FP32", 7))
    first, camera, imu = str(caught.value).splitlines()
    assert first == f"{file}: no topic fits the model, which takes x: FP32[7]"
    assert camera == f"{CAMERA}: pictures (sensor_msgs/msg/CompressedImage)"
    assert imu.startswith("/imu: has no array, of which none fit FP32[7]; --field takes")


def test_two_topics_fit(tmp_path: Path) -> None:
    file = ros2_drive(tmp_path / "drive.mcap", pictures(2), topics=("/left", "/right"))
    with pytest.raises(TopicUnclear, match="2 topics fit the model: say which with --topic: /left, /right"):
        frames(file, JPEGS)
    assert len(frames(file, JPEGS, "/right")[0]) == 2
    with pytest.raises(TopicUnclear, match="has no topic '/middle'; it has /imu, /left, /right"):
        frames(file, JPEGS, "/middle")


def test_an_empty_log(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="an empty log: 0 topics, and no message in any of them"):
        frames(json_drive(tmp_path / "a.mcap", {}), JPEGS)
    with pytest.raises(LogError, match="an empty log: 1 topics, and no message in any of them"):
        frames(json_drive(tmp_path / "b.mcap", {"/a": []}), JPEGS)


@pytest.mark.parametrize(
    ("form", "schema", "why"),
    [
        (
            "cdr",
            ("pkg/msg/X", "ros2idl"),
            "has messages in cdr with pkg/msg/X in ros2idl; should be in JSON",
        ),
        ("flatbuffer", ("X", "flatbuffer"), "has messages in flatbuffer with X in flatbuffer; should be in JSON"),
        ("", None, "has messages in no stated encoding with no schema; should be in JSON"),
        ("cdr", ("pkg/msg/X", "ros2msg"), r"a message of /a is no pkg/msg/X \("),
        ("protobuf", ("pkg.X", "protobuf"), r"a message of /a is no pkg.X \("),
        ("json", None, r"a message of /a is no JSON \("),
    ],
)
def test_messages_that_cannot_be_read_are_named(tmp_path: Path, form: str, schema: Any, why: str) -> None:
    file = tmp_path / "odd.mcap"
    with file.open("wb") as out:
        writer = McapWriter(out)
        writer.start()
        number = writer.register_schema(*schema, b"uint32[] x\n") if schema else 0
        writer.add_message(writer.register_channel("/a", form, number), START_NS, b"\0\1\0\0\xff", START_NS)
        writer.finish()
    with pytest.raises(LogError, match=why):
        frames(file, FOUR)


def test_a_damaged_message_is_passed_over_and_the_others_go(tmp_path: Path) -> None:
    jpegs = pictures(4)
    jpegs[2] = b"no picture"
    found, told = frames(ros2_drive(tmp_path / "drive.mcap", jpegs), JPEGS)
    assert [frame.number for frame in found] == [1, 2, 4]
    (line,) = told
    assert f"{CAMERA}: message 3: neither a JPEG nor a PNG picture: " in line


def test_a_model_with_two_inputs_takes_the_fields_of_their_names(tmp_path: Path) -> None:
    two = replace(TERMS, inputs=(*takes("FP32", 2, name="a").inputs, *takes("INT64", 1, name="b").inputs))
    file = json_drive(tmp_path / "ab.mcap", {"/ab": [{"a": [1, 2], "b": [3]}], "/a": [{"a": [1, 2]}]})
    ((frame,), _) = frames(file, two)
    assert {name: array.tolist() for name, array in frame.value.items()} == {"a": [1, 2], "b": [3]}  # type: ignore[union-attr]
    with pytest.raises(LogError, match=r"/a does not fit the model, .*: has no array b; it has a"):
        frames(file, two, "/a")


def test_a_picture_is_jpeg_where_the_model_takes_nothing_else(tmp_path: Path) -> None:
    row = np.full((4, 6, 3), 90, np.uint8)
    message = {"width": 6, "height": 4, "encoding": "rgb8", "step": 18, "data": json_picture(row.tobytes())["data"]}
    file = json_drive(tmp_path / "raw.mcap", {"/raw": [message]}, "foxglove.RawImage")
    ((frame,), _) = frames(file, takes("FP32", 3, 4, 6, encodings=("JPEG",)))
    decoded = cv2.imdecode(np.frombuffer(frame.value, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[arg-type]
    assert decoded.shape == (4, 6, 3)
    assert abs(int(decoded.mean()) - 90) < 2
    assert json.dumps(message)
