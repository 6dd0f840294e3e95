"""Cameras as sources where there is none: what is said. tests/peers/logs has real RTSP servers."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from duly_client.convert import DTYPES
from duly_client.recordings import RecordingError, recording_for
from duly_client.recordings.camera import camera, is_camera, without_password
from duly_client.types import TensorSpec

JPEGS = TensorSpec("image", "UINT8", DTYPES["UINT8"], (-1, -1, 3), ("JPEG",))


def test_what_is_a_camera() -> None:
    assert all(map(is_camera, ("rtsp://cam/1", "rtsps://u:p@cam:322/1", "/dev/video0", "/dev/video12")))
    assert not any(map(is_camera, ("srt://cam", "/dev/video", "video0", "/dev/videos0", "http://cam/rtsp://")))


def test_passwords_are_not_told() -> None:
    assert without_password("rtsp://me:se@cret@cam:8554/1?a=b") == "rtsp://cam:8554/1?a=b"
    assert recording_for("rtsp://me:secret@cam/1", JPEGS).description == "camera rtsp://cam/1"


def test_a_camera_is_opened_when_its_turn_comes_and_who_does_not_answer_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens at it
        recording = recording_for(f"rtsp://me:secret@127.0.0.1:{taken.getsockname()[1]}/1", JPEGS)
        with pytest.raises(RecordingError, match=r"^rtsp://127.0.0.1:\d+/1: cannot be opened: Connection ref"):
            next(iter(recording))


def test_a_device_that_is_not_there_or_no_camera_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(iter(camera("/dev/video63", JPEGS)))
    with pytest.raises(RecordingError, match=r"^/dev/null: cannot be opened: .*; a V4L2 camera is needed$"):
        next(iter(camera("/dev/null", JPEGS)))


def test_a_model_that_takes_no_pictures_of_eight_bits_is_told() -> None:
    with pytest.raises(RecordingError, match=r"rtsp://cam: pictures; the model takes FP32\[4\]"):
        camera("rtsp://cam", TensorSpec("x", "FP32", DTYPES["FP32"], (4,)))
    deep = replace(JPEGS, datatype="UINT16", dtype=DTYPES["UINT16"], encodings=())
    with pytest.raises(RecordingError, match="a camera, whose pictures have 8 bits a channel; the model takes UINT16"):
        camera("rtsp://cam", deep)


def test_without_pyav_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(RecordingError) as caught:
        camera("rtsp://me:secret@cam/1", JPEGS)
    assert str(caught.value) == (
        "rtsp://cam/1: cameras need PyAV: pip install 'duly[video]'; without it: ffmpeg -i rtsp://cam/1 -f mjpeg - | "
        "duly stream MODEL --input -"
    )
    with pytest.raises(RecordingError, match=r"ffmpeg -f v4l2 -i /dev/video0 -f mjpeg - \| duly stream"):
        camera("/dev/video0", JPEGS)
