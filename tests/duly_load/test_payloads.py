"""Payloads: what is drawn, what comes out of recordings and logs for models of each kind, and what is refused."""

import base64
import json
import re
import sys
import wave
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from mcap.writer import Writer
from mcap_protobuf.writer import Writer as ProtobufWriter
from mcap_ros2.writer import Writer as Ros2Writer

from duly_client.convert import DATATYPES, DTYPES, spelled
from duly_client.types import Encoding, Payload, TensorSpec
from duly_client.wire import inputs_of
from duly_load.payloads import prepared as payloads_module
from duly_load.payloads.pictures import encoding_of
from duly_load.payloads.prepared import PayloadError, Prepared, bytes_of, check_held, prepare
from duly_load.scenario.mcap_log import message_times_ns
from duly_load.scenario.tables import Payloads
from duly_logs.log import LogError


def takes(datatype: str, *shape: int, encodings: tuple[Encoding, ...] = (), rate_hz: int = 0) -> TensorSpec:
    return TensorSpec("x", datatype, DTYPES[datatype], shape, encodings, sample_rate_hz=rate_hz)


CAMERA = takes("UINT8", -1, -1, 3, encodings=("JPEG", "PNG"))
PIXELS = takes("UINT8", -1, -1, 3)
SQUEEZENET = takes("FP32", 3, 224, 224)
VOICE = takes("FP32", 512, encodings=("PCM_S16LE",), rate_hz=16_000)


def prepared(*inputs: TensorSpec, seed: int = 1, **table: Any) -> Prepared:
    """As the sender does; every payload also has to pass the client's own check of what the model takes."""
    made = prepare(Payloads(**table), inputs, seed, "camera-0")
    for frame in made.frames:
        inputs_of(frame, made.encoding, inputs or None)
    return made


def described(made: Prepared) -> str:
    """How many frames there are, and in which forms: `16 as FP32[3,224,224]`."""
    return f"{len(made.frames)} as {' or '.join(sorted({form(frame, made.encoding) for frame in made.frames}))}"


def form(frame: Payload, encoding: Encoding | None) -> str:
    if isinstance(frame, Mapping):
        return ", ".join(form(value, encoding) for value in frame.values())
    if isinstance(frame, np.ndarray):
        return spelled(DATATYPES[frame.dtype], frame.shape)
    return encoding or encoding_of(bytes(frame))


def largest_bytes(made: Prepared) -> int:
    return max(map(bytes_of, made.frames))


def refused(words: str, *inputs: TensorSpec, **table: Any) -> None:
    with pytest.raises(PayloadError, match=f"^camera-0: .*{re.escape(words)}"):
        prepared(*inputs, **table)


def array(value: Any) -> Any:
    assert isinstance(value, np.ndarray)
    return value


def seen(picture: Any, flags: int = cv2.IMREAD_COLOR_RGB) -> Any:
    """Pixels of a compressed picture."""
    assert isinstance(picture, bytes)
    return cv2.imdecode(np.frombuffer(picture, np.uint8), flags)


@pytest.fixture
def red() -> Any:
    """RGB, 64x48, smooth, so that JPEG keeps it; red, so that a swap of colours shows; brighter to the right."""
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8), (48, 64))
    return np.dstack([ramp, np.zeros_like(ramp), np.zeros_like(ramp)])


def compressed(picture: Any, suffix: str = ".jpg") -> bytes:
    return bytes(cv2.imencode(suffix, np.ascontiguousarray(picture[:, :, ::-1]))[1])


def test_random_numbers_follow_from_the_seed() -> None:
    made = prepared(SQUEEZENET)
    assert described(made) == "16 as FP32[3,224,224]"
    assert (made.encoding, largest_bytes(made)) == (None, 3 * 224 * 224 * 4)
    values = np.stack([array(frame) for frame in made.frames])
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.std() == pytest.approx(1, abs=0.01)
    assert len(np.unique(values[:, 0, 0, 0])) == 16
    np.testing.assert_array_equal(values, prepared(SQUEEZENET).frames)
    assert not np.array_equal(values, np.stack([array(frame) for frame in prepared(SQUEEZENET, seed=2).frames]))


@pytest.mark.parametrize("datatype", DTYPES)
def test_random_numbers_of_every_datatype(datatype: str) -> None:
    values = np.stack([array(frame) for frame in prepared(takes(datatype, 1000)).frames])
    assert values.dtype == DTYPES[datatype]
    if values.dtype.kind in "iu":
        small = np.iinfo(values.dtype)
        low, high = (small.min, small.max) if values.dtype.itemsize <= 2 else (0, 127)
        assert low <= values.min() < low + (high - low) / 50
        assert high - (high - low) / 50 < values.max() <= high
    elif datatype == "BOOL":
        assert values.mean() == pytest.approx(0.5, abs=0.03)


def test_several_inputs_get_an_array_each() -> None:
    two = (takes("FP32", 4), TensorSpec("ids", "INT64", DTYPES["INT64"], (1,)))
    made = prepared(*two, distinct=3)
    assert described(made) == "3 as FP32[4], INT64[1]"
    assert largest_bytes(made) == 4 * 4 + 8
    refused("payloads.shape is for models of one input, this one takes x FP32[4], ids INT64[1]", *two, shape=(4,))
    free = (two[0], TensorSpec("ids", "INT64", DTYPES["INT64"], (-1,)))
    refused("x FP32[4], ids INT64[?], where extents may be any: no model of several inputs may have such", *free)


def test_a_target_that_does_not_say_leaves_it_to_the_scenario() -> None:
    made = prepared(shape=(3, 8), datatype="INT8", distinct=2)
    assert described(made) == "2 as INT8[3,8]"
    refused("the target does not say what the model takes: payloads.shape should")


def test_extents_that_are_free_come_from_the_scenario() -> None:
    free = takes("FP32", -1, 40)
    assert described(prepared(free, shape=(100, 40))) == "16 as FP32[100,40]"
    refused("the model takes x FP32[?,40], where extents may be any: payloads.shape should say them", free)
    refused("payloads.shape is [100, 41], while the model takes x FP32[?,40]", free, shape=(100, 41))
    refused("payloads.shape is [40], while the model takes x FP32[?,40]", free, shape=(40,))


def test_random_pictures_and_sound() -> None:
    made = prepared(CAMERA)
    assert described(made) == "16 as JPEG"
    assert seen(made.frames[0]).shape == (480, 640, 3)
    assert 40_000 < largest_bytes(made) < 160_000, "as a photograph of this size"
    assert seen(prepared(CAMERA, shape=(90, 160, 3)).frames[0]).shape == (90, 160, 3)
    grey = takes("UINT8", 60, 80, 1, encodings=("JPEG",))
    assert seen(prepared(grey).frames[0], cv2.IMREAD_UNCHANGED).shape == (60, 80)
    voice = prepared(VOICE)
    assert (described(voice), voice.encoding) == ("16 as PCM_S16LE", "PCM_S16LE")
    assert largest_bytes(voice) == 1024
    samples = np.frombuffer(b"".join(map(bytes, voice.frames)), "<i2")  # type: ignore[arg-type]
    assert samples.std() == pytest.approx(3277, rel=0.05)
    assert described(prepared(takes("INT16", -1, rate_hz=8000))) == "16 as INT16[256]"


def test_recorded_pictures_go_as_they_are_where_the_model_takes_them(tmp_path: Path, red: Any) -> None:
    (tmp_path / "b.png").write_bytes(compressed(red, ".png"))
    (tmp_path / "a.jpg").write_bytes(compressed(red))
    made = prepared(CAMERA, recording=tmp_path)
    assert made.frames == [(tmp_path / "a.jpg").read_bytes(), (tmp_path / "b.png").read_bytes()]
    assert described(made) == "2 as JPEG or PNG"
    assert described(prepared(CAMERA, recording=tmp_path, distinct=1)) == "1 as JPEG"
    scaled = prepared(CAMERA, recording=tmp_path, shape=(24, 32, 3)).frames
    assert [seen(picture).shape for picture in scaled] == [(24, 32, 3)] * 2
    (pixels,) = prepared(PIXELS, recording=tmp_path / "b.png").frames
    np.testing.assert_array_equal(array(pixels), red)


@pytest.mark.parametrize(
    ("spec", "dims"),
    [
        (SQUEEZENET, (3, 224, 224)),
        (takes("FP16", 3, 24, 32), (3, 24, 32)),
        (takes("FP32", 24, 32, 3), (24, 32, 3)),
        (takes("FP32", 3, -1, -1), (3, 48, 64)),
        (takes("UINT8", 24, 32, 3), (24, 32, 3)),
        (takes("FP32", 1, 24, 32), (1, 24, 32)),
        (takes("FP64", -1, -1, 1), (48, 64, 1)),
    ],
    ids=str,
)
def test_recorded_pictures_are_made_to_fit(tmp_path: Path, red: Any, spec: TensorSpec, dims: tuple[int, ...]) -> None:
    (tmp_path / "a.png").write_bytes(compressed(red, ".png"))
    (value,) = prepared(spec, recording=tmp_path / "a.png").frames
    value = array(value)
    assert (value.shape, value.dtype) == (dims, spec.dtype)
    planes = value if dims[0] in (1, 3) else value.transpose(2, 0, 1)
    top = 255 if spec.datatype == "UINT8" else 1
    first = planes[0].astype(float) / top
    share = 0.299 if len(planes) == 1 else 1.0  # of red in grey, ITU-R BT.601
    np.testing.assert_allclose(first[:, [0, -1]].mean(axis=0), [0, share], atol=0.02)
    assert np.all(np.diff(first.mean(axis=0)) >= 0)
    assert not planes[1:].any()


def test_recorded_video(tmp_path: Path, red: Any) -> None:
    path = tmp_path / "street.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (64, 48))
    for _ in range(5):
        writer.write(np.ascontiguousarray(red[:, :, ::-1]))
    writer.release()
    made = prepared(CAMERA, recording=path)
    assert described(made) == "5 as JPEG"
    assert np.abs(seen(made.frames[4]).astype(int) - red).mean() < 4
    assert largest_bytes(made) == max(len(bytes(frame)) for frame in made.frames)  # type: ignore[arg-type]
    made = prepared(SQUEEZENET, recording=path, distinct=2)
    assert described(made) == "2 as FP32[3,224,224]"
    assert array(made.frames[0])[:, :, -1].mean(axis=1).tolist() == pytest.approx([1, 0, 0], abs=0.03)


def test_recorded_sound(tmp_path: Path) -> None:
    samples = np.arange(-1000, 1000, dtype="<i2") * 16
    path = tmp_path / "voice.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(samples.tobytes())
    made = prepared(VOICE, recording=path)
    assert (described(made), made.encoding) == ("3 as PCM_S16LE", "PCM_S16LE")
    assert b"".join(map(bytes, made.frames)) == samples[: 3 * 512].tobytes()  # type: ignore[arg-type]
    assert described(prepared(shape=(100,), recording=path)) == "16 as FP32[100]"
    refused("4,000 bytes of samples, a frame has 8,000", takes("INT16", 4000), recording=path)
    refused("the model takes FP64[512]", takes("FP64", 512), recording=path)


def test_recorded_arrays(tmp_path: Path) -> None:
    path = tmp_path / "imu.npy"
    values = np.random.default_rng(3).normal(size=(7, 2, 3)).astype(np.float32)
    np.save(path, values)
    made = prepared(takes("FP32", -1, 3), recording=path, distinct=4)
    np.testing.assert_array_equal(made.frames, values[:4])
    assert described(made) == "4 as FP32[2,3]"
    refused("got FP32[2,3], expected FP32[3,2]", takes("FP32", 3, 2), recording=path)
    refused(
        "got FP32[2,3], expected FP64[2,3]; np.save(path, array.astype(np.float64))",
        takes("FP64", 2, 3),
        recording=path,
    )


def test_what_does_not_go_together_is_refused(tmp_path: Path, red: Any) -> None:
    picture, other = tmp_path / "a.png", tmp_path / "a.mp3"
    picture.write_bytes(compressed(red, ".png"))
    other.write_bytes(b"")
    refused("a.png: pictures, while the model takes FP32[512] or PCM_S16LE", VOICE, recording=picture)
    refused("a.png: pictures, while the model takes INT32[4,4,3]", takes("INT32", 4, 4, 3), recording=picture)
    refused("a recording feeds models of one input, this one takes x FP32", VOICE, VOICE, recording=picture)
    refused("payloads.topic goes with a recording that is an .mcap", CAMERA, recording=picture, topic="/camera")
    refused("a.mp3: unknown kind of recording", CAMERA, recording=other)
    gone = Payloads(recording=picture)
    picture.write_bytes(compressed(red, ".png")[:60])
    refused("a.png: the PNG of 60 bytes is damaged or cut off", PIXELS, recording=picture)
    picture.unlink()
    with pytest.raises(PayloadError, match=re.escape("a.png: can't be read: no such file")):
        prepare(gone, [PIXELS], 1, "camera-0")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads_module, "PAYLOAD_BYTES_MAX", 2**20)
    assert len(prepared(takes("FP32", 2**14)).frames) == 16
    refused("17 frames are more than the 1 MiB that are held in memory: payloads.distinct should be at most 16",
            takes("FP32", 2**14), distinct=17)  # fmt: skip
    refused("one frame takes 4096 MiB, more than the 1 allowed", takes("FP32", 2**30))


def test_what_one_process_holds_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads_module, "PROCESS_BYTES_MAX", 2**20)
    half = prepared(takes("FP32", 2**14), distinct=8)
    check_held([half, half])
    with pytest.raises(PayloadError, match="of one sender process may take 1 MiB, would take 2 or more"):
        check_held([half, half, half])


def foxglove(name: str, **fields: Any) -> Any:
    """A Protobuf message of that schema with these fields, numbered in this order."""
    types = {bytes: "TYPE_BYTES", str: "TYPE_STRING", int: "TYPE_FIXED32", list: "TYPE_DOUBLE"}
    described = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="foxglove", syntax="proto3")
    content = described.message_type.add(name=name)
    for number, (field, value) in enumerate(fields.items(), 1):
        label = "LABEL_REPEATED" if isinstance(value, list) else "LABEL_OPTIONAL"
        content.field.add(name=field, number=number, type=types[type(value)], label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(described)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"foxglove.{name}"))(**fields)


def write_protobuf(path: Path, topics: dict[str, Sequence[Any]]) -> Path:
    """Messages of every topic, one a second, each topic 100 ms after the one before it."""
    with path.open("wb") as file, ProtobufWriter(file) as log:
        for offset, (topic, messages) in enumerate(topics.items()):
            for nth, message in enumerate(messages):
                log.write_message(topic, message, 10**18 + nth * 10**9 + offset * 10**8)
    return path


def write_ros2(path: Path, schema: str, definition: str, messages: Sequence[dict[str, Any]]) -> Path:
    with path.open("wb") as file, Ros2Writer(file) as log:
        described = log.register_msgdef(schema, definition)
        for nth, message in enumerate(messages):
            log.write_message("/sensor", described, message, nth)
    return path


def write_json(path: Path, schema: str, messages: Sequence[Any], encoding: str = "json") -> Path:
    with path.open("wb") as file:
        log = Writer(file)
        log.start()
        channel = log.register_channel("/sensor", encoding, log.register_schema(schema, "jsonschema", b"{}"))
        for nth, message in enumerate(messages):
            log.add_message(channel, nth, json.dumps(message).encode(), nth)
        log.finish()  # type: ignore[no-untyped-call]
    return path


def image_protobuf(path: Path, jpeg: bytes) -> Path:
    return write_protobuf(path, {"/camera": [foxglove("CompressedImage", frame_id="front", data=jpeg, format="jpeg")]})


def image_ros2(path: Path, jpeg: bytes) -> Path:
    image = {"format": "jpeg", "data": jpeg}
    return write_ros2(path, "sensor_msgs/msg/CompressedImage", "string format\nuint8[] data\n", [image])


def image_json(path: Path, jpeg: bytes) -> Path:
    image = {"frame_id": "front", "data": base64.b64encode(jpeg).decode(), "format": "jpeg"}
    return write_json(path, "foxglove.CompressedImage", [image])


@pytest.mark.parametrize("write", [image_protobuf, image_ros2, image_json])
def test_logged_pictures(tmp_path: Path, red: Any, write: Callable[[Path, bytes], Path]) -> None:
    jpeg = compressed(red)
    path = write(tmp_path / "rig.mcap", jpeg)
    made = prepared(CAMERA, recording=path)
    assert (made.frames, described(made)) == ([jpeg], "1 as JPEG")
    (planes,) = prepared(SQUEEZENET, recording=path).frames
    assert array(planes)[:, :, -1].mean(axis=1).tolist() == pytest.approx([1, 0, 0], abs=0.03)
    refused("pictures, while the model takes FP32[512]", VOICE, recording=path)


@pytest.mark.parametrize(
    ("encoding", "channels"),
    [("rgb8", (0, 1, 2)), ("bgr8", (2, 1, 0)), ("rgba8", (0, 1, 2, 0)), ("bgra8", (2, 1, 0, 0)), ("mono8", (0,))],
)
def test_logged_pixels(tmp_path: Path, red: Any, encoding: str, channels: tuple[int, ...]) -> None:
    rows = red[:, :, channels].reshape(48, -1)
    padded = np.hstack([rows, np.full((48, 5), 77, np.uint8)])
    image = {"height": 48, "width": 64, "encoding": encoding, "step": padded.shape[1], "data": padded.tobytes()}
    expected = np.repeat(red[:, :, :1], 3, 2) if encoding == "mono8" else red
    definition = "uint32 height\nuint32 width\nstring encoding\nuint32 step\nuint8[] data\n"
    for path in (
        write_protobuf(tmp_path / "p.mcap", {"/camera": [foxglove("RawImage", **image)]}),
        write_ros2(tmp_path / "r.mcap", "sensor_msgs/msg/Image", definition, [image]),
    ):
        (pixels,) = prepared(PIXELS, recording=path).frames
        np.testing.assert_array_equal(array(pixels), expected)
    cut = write_protobuf(tmp_path / "c.mcap", {"/camera": [foxglove("RawImage", **(image | {"data": b"short"}))]})
    refused(f"has a foxglove.RawImage of 64x48 in {encoding!r}, of 5 bytes in rows", PIXELS, recording=cut)
    odd = write_protobuf(tmp_path / "o.mcap", {"/camera": [foxglove("RawImage", **(image | {"encoding": "yuyv"}))]})
    refused("in 'yuyv'; should be one of rgb8, bgr8", PIXELS, recording=odd)


def test_logged_numbers(tmp_path: Path) -> None:
    scans = [foxglove("LaserScan", frame_id="lidar", ranges=[nth + 0.5, 2.0, 3.0, 4.0]) for nth in range(3)]
    path = write_protobuf(tmp_path / "scan.mcap", {"/scan": scans})
    made = prepared(takes("FP32", 4), recording=path, distinct=2)
    assert described(made) == "2 as FP32[4]"
    np.testing.assert_array_equal(made.frames, [[0.5, 2, 3, 4], [1.5, 2, 3, 4]])
    assert array(prepared(takes("FP32", 2, -1), recording=path).frames[2]).tolist() == [[2.5, 2], [3, 4]]
    refused("foxglove.LaserScan has ranges FP64[4], while the model takes FP32[5]", takes("FP32", 5), recording=path)
    refused("foxglove.LaserScan has ranges FP64[4], while the model takes INT8[4]", takes("INT8", 4), recording=path)
    joints = [{"name": ["a", "b"], "position": [0.25, 0.5]}]
    definition = "string[] name\nfloat64[] position\n"
    path = write_ros2(tmp_path / "joints.mcap", "sensor_msgs/msg/JointState", definition, joints)
    assert array(prepared(takes("FP32", 2), recording=path).frames[0]).tolist() == [0.25, 0.5]
    path = write_json(tmp_path / "card.mcap", "Payment", [{"id": "x", "odd": [[1], [2, 3]], "scores": [1, 255]}])
    assert array(prepared(takes("UINT8", 2), recording=path).frames[0]).tolist() == [1, 255]
    refused("Payment has scores INT64[2], while the model takes INT8[2]", takes("INT8", 2), recording=path)


def test_a_log_with_several_topics_needs_one_named(tmp_path: Path, red: Any) -> None:
    image = foxglove("CompressedImage", data=compressed(red), format="jpeg")
    scan = foxglove("LaserScan", ranges=[1.0, 2.0])
    path = write_protobuf(tmp_path / "rig.mcap", {"/camera": [image] * 3, "/scan": [scan] * 2})
    made = prepared(CAMERA, recording=path, topic="/camera")
    assert described(made) == "3 as JPEG"
    refused("rig.mcap: needs a topic; it has /camera, /scan", CAMERA, recording=path)
    refused("rig.mcap: has no topic '/lidar'; it has /camera, /scan", CAMERA, recording=path, topic="/lidar")
    assert message_times_ns(path, "/scan").tolist() == [10**8, 11 * 10**8]
    with pytest.raises(LogError, match="needs a topic; it has /camera, /scan"):
        message_times_ns(path, "")


def test_logs_that_are_wrong_are_refused(tmp_path: Path, red: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image_json(tmp_path / "rig.mcap", compressed(red))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("rig.mcap: is damaged or no MCAP", CAMERA, recording=path)
    path.write_bytes(b"nothing of the kind")
    refused("rig.mcap: is damaged or no MCAP (not a valid MCAP file", CAMERA, recording=path)
    write_json(path, "foxglove.CompressedImage", [{"format": "jpeg"}])
    refused("rig.mcap: has a foxglove.CompressedImage without data", CAMERA, recording=path)
    write_json(path, "foxglove.CompressedImage", [{"data": base64.b64encode(b"RIFF....").decode()}])
    refused("a picture begins with 52 49 46 46 2E 2E 2E 2E: it should be a JPEG or a PNG", CAMERA, recording=path)
    write_json(path, "foxglove.CompressedImage", [{"data": base64.b64encode(compressed(red)[:60]).decode()}])
    refused("rig.mcap: a JPEG of 60 bytes is damaged or cut off", PIXELS, recording=path)
    write_json(path, "Thing", [{}], encoding="msgpack")
    refused("has messages in msgpack with Thing in jsonschema; should be in JSON,", CAMERA, recording=path)
    write_json(path, "Thing", [{"name": "x"}])
    refused("rig.mcap: Thing has no pictures and no arrays of numbers, while the model", VOICE, recording=path)
    write_json(path, "Thing", [])
    refused("rig.mcap: has no messages, or no index of them", VOICE, recording=path)
    monkeypatch.delitem(sys.modules, "duly_logs.messages")
    monkeypatch.setitem(sys.modules, "mcap_ros2.decoder", None)  # as if it were not installed
    refused("rig.mcap: reading messages needs the packages mcap-protobuf-support and mcap-ros2", VOICE, recording=path)
    monkeypatch.setitem(sys.modules, "mcap.reader", None)
    with pytest.raises(LogError, match=re.escape("needs the package mcap: pip install 'duly[load]'")):
        message_times_ns(path, "")
