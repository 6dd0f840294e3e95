"""Recordings: what comes out of files of each kind, and what is refused."""

import re
import sys
import wave
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from duly_client import to_bfloat16, to_float32
from duly_client.convert import DTYPES
from duly_client.recordings import RecordingError, open_recording
from duly_client.types import Encoding, StreamTerms, TensorSpec


def terms(
    datatype: str, *shape: int, encodings: tuple[Encoding, ...] = (), rate_hz: int = 0, inputs: int = 1
) -> StreamTerms:
    spec = TensorSpec("x", datatype, DTYPES[datatype], shape, encodings, sample_rate_hz=rate_hz)
    return StreamTerms(1, "1", (spec,) * inputs, (), (), "", "", 0, "", "", 0, 0, 0.0, 0, 0, 0)


CAMERA = terms("UINT8", -1, -1, 3, encodings=("JPEG", "PNG"))
PIXELS = terms("UINT8", -1, -1, 3)
VOICE = terms("FP32", 512, encodings=("PCM_S16LE",), rate_hz=16_000)


@pytest.fixture
def picture() -> Any:
    """Smooth, so that JPEG keeps it; blue, so that a swap of colours shows."""
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    blue = np.broadcast_to(ramp[:, None], (48, 64))
    return np.dstack([blue, np.zeros_like(blue), np.zeros_like(blue)])  # OpenCV's order: blue first


def test_pictures(tmp_path: Path, picture: Any) -> None:
    for name in ("b.png", "a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(cv2.imencode(Path(name).suffix.replace(".txt", ".png"), picture)[1].tobytes())
    folder = open_recording(tmp_path, CAMERA)
    assert list(folder) == [(tmp_path / "a.jpg").read_bytes(), (tmp_path / "b.png").read_bytes()]
    assert list(folder) == list(folder)
    assert folder.description == f"2 pictures in {tmp_path}"
    assert (folder.period_s, folder.encoding) == (0.1, None)
    (decoded,) = open_recording(tmp_path / "b.png", PIXELS)
    np.testing.assert_array_equal(decoded, picture[:, :, ::-1])


def test_pictures_come_as_they_are_counted(tmp_path: Path, picture: Any) -> None:
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    for name in ("frame10.jpg", "frame9.jpg", "frame100.jpg", "frame1b2.jpg", "frame1b10.jpg", "10.jpg", "9.jpg"):
        (tmp_path / name).write_bytes(data)
    order = ["9", "10", "frame1b2", "frame1b10", "frame9", "frame10", "frame100"]
    assert [Path(frame.name).stem for frame in open_recording(tmp_path, CAMERA).frames()] == order


def test_a_picture_is_what_its_first_bytes_say(tmp_path: Path, picture: Any) -> None:
    png = cv2.imencode(".png", picture)[1].tobytes()
    (tmp_path / "a.jpg").write_bytes(png)
    assert list(open_recording(tmp_path, CAMERA)) == [png]
    (decoded,) = open_recording(tmp_path, terms("UINT8", -1, -1, 3, encodings=("JPEG",)))
    np.testing.assert_array_equal(decoded, picture[:, :, ::-1])


def test_a_picture_too_large_is_passed_over_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RecordingError, match=r"huge\.png: 1,099,511,627,776 bytes, a picture may have 33,554,432$"):
        list(open_recording(tmp_path, CAMERA))


@pytest.mark.parametrize(
    "header",
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4", "{'descr': '<f4', 'shape': (2, 4)}", "{{{", "\0\1", ""],
)
def test_arrays_with_a_damaged_header_are_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(32))
    with pytest.raises(RecordingError, match=r"a\.npy: not a \.npy file of numbers: its header is damaged or cut off$"):
        open_recording(path, terms("FP32", 4))
    whole = "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 4)}\n"
    path.write_bytes(b"\x93NUMPY\1\0" + len(whole).to_bytes(2, "little") + whole.encode() + bytes(32))
    with pytest.raises(RecordingError, match=r"its header states the shape \[-2, 4\]$"):
        open_recording(path, terms("FP32", 4))


def test_arrays_are_checked_before_memory_is_taken_for_them(tmp_path: Path) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': (2, {1 << 40}), }}".ljust(117) + "\n"
    path = tmp_path / "claims.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(RecordingError, match=r"claims\.npy: an array has more than 67,108,864 bytes"):
        open_recording(path, terms("FP32", -1))


def test_video(tmp_path: Path, picture: Any) -> None:
    path = tmp_path / "street.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (64, 48))
    for _ in range(5):
        writer.write(picture)
    writer.release()
    video = open_recording(str(path), CAMERA)
    assert video.period_s == pytest.approx(0.08)
    assert video.description == f"{path}: 5 pictures of 64x48 at 12.5 Hz, as JPEG of quality 90"
    frames = list(video)
    assert len(frames) == 5
    seen = cv2.imdecode(np.frombuffer(bytes(frames[0]), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(seen.astype(int) - picture).mean() < 4
    pixels = list(open_recording(path, PIXELS))
    assert np.abs(np.asarray(pixels[4]).astype(int) - picture[:, :, ::-1]).mean() < 4


def write_wav(path: Path, samples: Any, rate_hz: int = 16_000, channels: int = 1, width: int = 2) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate_hz)
        sound.writeframes(samples.tobytes())
    return path


def test_sound(tmp_path: Path) -> None:
    samples = np.arange(-1000, 1000, dtype="<i2") * 16
    path = write_wav(tmp_path / "voice.wav", samples)
    sound = open_recording(path, VOICE)
    assert (sound.period_s, sound.encoding) == (0.032, "PCM_S16LE")
    assert b"".join(map(bytes, sound)) == samples[: 3 * 512].tobytes(), "the rest is shorter than a chunk"
    as_floats = list(open_recording(path, terms("FP32", 512, rate_hz=16_000)))
    np.testing.assert_array_equal(np.concatenate(as_floats), samples[: 3 * 512] / np.float32(32768))
    assert as_floats[0].dtype == np.float32
    whole = list(open_recording(path, terms("INT16", -1)))
    assert whole[0].shape == (512,)
    assert whole[0].dtype == np.int16
    raw = tmp_path / "voice.raw"
    raw.write_bytes(samples.tobytes())
    assert list(open_recording(raw, VOICE)) == list(sound)


def test_arrays(tmp_path: Path) -> None:
    array = np.random.default_rng(3).normal(size=(7, 4)).astype(np.float32)
    np.save(tmp_path / "imu.npy", array)
    recording = open_recording(tmp_path / "imu.npy", terms("FP32", 4))
    np.testing.assert_array_equal(np.stack([np.asarray(frame) for frame in recording]), array)
    assert recording.description == f"{tmp_path / 'imu.npy'}: 7 arrays float32[4]"
    np.save(tmp_path / "one.npy", array[0])
    np.testing.assert_array_equal(list(open_recording(tmp_path / "one.npy", terms("FP32", 4))), array[:1])


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    ramp = np.arange(2000, dtype="<i2")
    cases: list[tuple[Path, StreamTerms, str]] = [
        (write_wav(tmp_path / "fast.wav", ramp, 44_100), VOICE, "ffmpeg -i fast.wav -ac 1 -ar 16000 -c:a pcm_s16le"),
        (
            write_wav(tmp_path / "two.wav", ramp, channels=2),
            VOICE,
            "2 channel(s) of PCM with 16 bits at 16000 Hz;",
        ),
        (write_wav(tmp_path / "mono.wav", ramp), CAMERA, "0.1 s of sound at 16000 Hz; the model takes UINT8[?,?,3] or"),
        (write_wav(tmp_path / "mono.wav", ramp), terms("FP64", 512), "the model takes FP64[512]"),
        (tmp_path / "noise.raw", CAMERA, "holds raw sound; the model takes UINT8[?,?,3] or JPEG or PNG"),
        (tmp_path / "broken.wav", VOICE, "not a WAV file of samples: it is text; to make one: ffmpeg -i"),
        (tmp_path / "broken.avi", CAMERA, "OpenCV cannot read this video"),
        (tmp_path / "broken.npy", VOICE, "not a .npy file of numbers"),
        (tmp_path / "one.jpg", VOICE, "pictures; the model takes FP32[512] or PCM_S16LE"),
        (
            tmp_path / "film.mp3",
            VOICE,
            "unknown kind of recording; a folder of pictures or one of .264, .265, .avi, .h264, .h265, .hevc, .jfif,",
        ),
        (tmp_path / "empty", CAMERA, "no pictures (.jfif, .jpe, .jpeg, .jpg, .png) in this folder"),
        (tmp_path, terms("FP32", 4, inputs=2), "models with one input; this one takes x, x"),
    ]
    (tmp_path / "empty").mkdir()
    for path, opened, message in cases:
        if not path.exists():
            path.write_bytes(b"nothing of the kind")
        with pytest.raises(RecordingError, match=re.escape(message)):
            list(open_recording(path, opened))
    with pytest.raises(FileNotFoundError):
        open_recording(tmp_path / "missing.jpg", CAMERA)


def test_opencv_is_only_needed_for_decoding(tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    assert len(list(open_recording(tmp_path / "a.jpg", CAMERA))) == 1
    with pytest.raises(RecordingError, match=re.escape("pip install 'duly[media]'")):
        open_recording(tmp_path / "a.jpg", PIXELS)


SENTENCE = terms("STRING")


def test_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("left\n\nzwölf\r\n\tlast".encode())
    recording = open_recording(path, SENTENCE)
    assert [frame.item() for frame in recording] == ["left", "", "zwölf", "\tlast"]
    assert (recording.description, recording.period_s, recording.repeatable) == (f"{path}: lines of text", 0.1, True)
    assert [frame.shape for frame in open_recording(path, terms("STRING", -1))] == [(1,)] * 4


def test_lines_of_several_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\nc\n\te\n")
    told: list[RecordingError] = []
    frames = list(open_recording(path, terms("STRING", 2)).frames(told.append))
    assert [frame.value.tolist() for frame in frames] == [["a", "b"], ["", "e"]]  # type: ignore[union-attr]
    assert [str(each) for each in told] == [f"{path}: line 2: 1 texts between tabs; the model takes STRING[2]"]


def test_lines_that_are_none_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n\xff\n" + b"x" * 3_000_000 + b"\nb\n")
    told: list[RecordingError] = []
    frames = list(open_recording(path, SENTENCE).frames(told.append))
    assert [(frame.value.item(), frame.name) for frame in frames] == [  # type: ignore[union-attr]
        ("a", f"{path}: line 1"),
        ("b", f"{path}: line 4"),
    ]
    assert [str(each) for each in told] == [
        f"{path}: line 2: no UTF-8: byte 0 is 0xff",
        f"{path}: line 3: more than 1,048,576 bytes",
    ]
    path.write_bytes(bytes(40))
    with pytest.raises(RecordingError, match="no text"):
        open_recording(path, SENTENCE)


def test_arrays_of_text_and_bf16(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(["a", "bc"]))
    assert [frame.item() for frame in open_recording(tmp_path / "a.npy", SENTENCE)] == ["a", "bc"]
    np.save(tmp_path / "half.npy", to_bfloat16([[1, 2], [3, 4]]))
    frames = [to_float32(frame).tolist() for frame in open_recording(tmp_path / "half.npy", terms("BF16", 2))]
    assert frames == [[1, 2], [3, 4]]
