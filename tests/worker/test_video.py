"""How many streams' video one worker decodes, and what becomes of those beyond it."""

import numpy as np
import pytest

from duly.models.spec import TensorSpec
from duly.worker.errors import InvalidFrame
from duly.worker.video import VideoDecoders
from duly.worker.video_units import pack
from tests.encoded_video import HEIGHT, WIDTH, Array, decoded, units

INPUT = TensorSpec(
    name="x", datatype="UINT8", shape=(-1, -1, 3), encodings=("H264",), bytes_max=1 << 20, pixels_max=WIDTH * HEIGHT
)
DATA = units("H264", 16, key_every=8)
WANTED = decoded("H264", DATA)


def given(decoders: VideoDecoders, stream_id: int, frame_id: int) -> Array:
    payload = memoryview(pack(stream_id, frame_id, [DATA[frame_id]]))
    return decoders.picture(stream_id, 0, "H264", payload, INPUT)


@pytest.mark.parametrize(
    ("decoders", "words"),
    [
        (VideoDecoders(decoders_max=2), "2 streams of video are decoded already"),
        (VideoDecoders(pixels_all_max=3 * WIDTH * HEIGHT - 1), "more than 9,215 pixels together"),
    ],
    ids=["decoders", "pixels"],
)
def test_one_stream_too_many_is_invalid_and_costs_the_others_nothing(decoders: VideoDecoders, words: str) -> None:
    for frame_id in range(10):
        for stream_id in (1, 2):
            picture = given(decoders, stream_id, frame_id)
            assert np.abs(picture.astype(int) - WANTED[frame_id]).max() <= 1
        with pytest.raises(InvalidFrame, match=words if frame_id in (0, 8) or "already" in words else "key picture"):
            given(decoders, 3, frame_id)
    decoders.forget(1)
    with pytest.raises(InvalidFrame, match="key picture"):
        given(decoders, 3, 7)
    assert np.abs(given(decoders, 3, 8).astype(int) - WANTED[8]).max() <= 1
