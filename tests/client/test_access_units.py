"""Video files go to a model as they are encoded, where it takes that."""

from pathlib import Path

import numpy as np
import pytest

from duly_client.recordings import RecordingError, recording_for
from duly_client.types import Encoding, TensorSpec
from tests.encoded_video import decoded, save, units


def camera(*encodings: Encoding) -> TensorSpec:
    return TensorSpec("x", "UINT8", np.dtype(np.uint8), (-1, -1, 3), encodings)


@pytest.mark.parametrize(
    ("file", "encoding"), [("a.mp4", "H264"), ("a.mkv", "HEVC"), ("a.h264", "H264"), ("a.hevc", "HEVC")]
)
def test_access_units_come_with_start_codes_and_decode(tmp_path: Path, file: str, encoding: Encoding) -> None:
    data = units(encoding, 10)
    recording = recording_for(save(tmp_path / file, data, encoding), camera("JPEG", encoding))
    assert recording.encoding == encoding
    assert recording.description.endswith(f"as {encoding}")
    given = [bytes(value) for value in recording]
    assert all(each.startswith((b"\0\0\1", b"\0\0\0\1")) for each in given)
    np.testing.assert_array_equal(decoded(encoding, given), decoded(encoding, data))
    assert [bytes(value) for value in recording] == given


def test_another_encoding_goes_picture_by_picture_or_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", units("H264", 4), "H264")
    pictures = recording_for(path, camera("JPEG", "HEVC"))
    assert pictures.encoding is None
    assert [bytes(value)[:2] for value in pictures] == [b"\xff\xd8"] * 4
    other = TensorSpec("x", "FP32", np.dtype(np.float32), (-1, -1, 3), ("HEVC",))
    with pytest.raises(RecordingError, match=r"video in another encoding; the model takes FP32.* or HEVC: ffmpeg"):
        recording_for(path, other)


def test_pictures_out_of_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h264"
    path.write_bytes(b"".join(units("H264", 12, b_frames=2)))
    assert recording_for(path, camera("H264", "JPEG")).encoding is None  # one by one they can be had
    with pytest.raises(RecordingError, match=r"not in order \(B-frames\).*-tune zerolatency"):
        recording_for(path, camera("H264"))


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nothing of a video")
    with pytest.raises(RecordingError, match=r"a\.mp4: FFmpeg cannot read this video"):
        recording_for(tmp_path / "a.mp4", camera("H264"))
