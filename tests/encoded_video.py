"""Encodes made-up pictures as cameras do, and decodes them plainly, all at once."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from duly.worker.video_units import is_key

Array = np.ndarray[Any, np.dtype[np.uint8]]
WIDTH, HEIGHT = 64, 48
_ENCODERS = {"H264": "libx264", "HEVC": "libx265"}
_DECODERS = {"H264": "h264", "HEVC": "hevc"}


def pictures(count: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> list[Array]:
    """A square that moves over a gradient; where it begins depends on the seed."""
    found = []
    for number in range(count):
        picture = np.zeros((height, width, 3), np.uint8)
        picture[..., seed % 3] = np.linspace(0, 200, width).astype(np.uint8)
        at = (3 * number + 7 * seed) % (width - 16)
        picture[8:24, at : at + 16] = 255 - 20 * seed
        found.append(picture)
    return found


@cache
def units(
    encoding: str, count: int, *, key_every: int = 8, b_frames: int = 0, seed: int = 0, height: int = HEIGHT
) -> tuple[bytes, ...]:
    """Access units of `count` pictures, with a key picture every so many."""
    codec: Any = av.CodecContext.create(_ENCODERS[encoding], "w")
    codec.width, codec.height, codec.pix_fmt = WIDTH, height, "yuv420p"
    codec.framerate, codec.time_base = Fraction(30), Fraction(1, 30)
    codec.thread_count, codec.max_b_frames = 1, b_frames
    if encoding == "H264":
        own = {"preset": "veryfast"} | ({} if b_frames else {"tune": "zerolatency"})
        codec.options = own | {"x264-params": f"keyint={key_every}:min-keyint={key_every}:scenecut=0"}
    else:
        own_params = f"log-level=none:bframes={b_frames}:repeat-headers=1:keyint={key_every}:min-keyint={key_every}"
        codec.options = {"preset": "ultrafast", "tune": "zerolatency", "x265-params": f"{own_params}:scenecut=0"}
    packets: list[Any] = []
    for number, picture in enumerate(pictures(count, seed, height)):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = number
        packets += codec.encode(frame)
    packets += codec.encode(None)
    assert len(packets) == count
    return tuple(map(bytes, packets))


def save(path: Path, data: Sequence[bytes], encoding: str) -> Path:
    """Writes access units into a video file, of the kind that its name says."""
    in_order = {"x265-params": "bframes=0:log-level=none"} if encoding == "HEVC" else {"tune": "zerolatency"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(_ENCODERS[encoding], rate=10, options=in_order)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, unit in enumerate(data):
            packet = av.Packet(unit)
            packet.stream, packet.time_base = stream, Fraction(1, 10)
            packet.pts = packet.dts = number
            packet.is_keyframe = is_key(unit, encoding)
            container.mux(packet)
    return path


def decoded(encoding: str, data: Sequence[bytes]) -> list[Array]:
    """All pictures, by a decoder that is given everything before it is asked for the last."""
    codec: Any = av.CodecContext.create(_DECODERS[encoding], "r")
    frames: list[Any] = []
    for unit in data:
        frames += codec.decode(av.Packet(unit))
    frames += codec.decode(None)
    return [frame.to_ndarray(format="rgb24", src_colorspace=5) for frame in frames]
