"""Prints what the pictures of a video take on the wire as JPEG and as video, how near they stay to the original, and
how long decoding one takes: `python docs/measure_video.py FILE.mp4`. It needs the extras video and media.
"""

import sys
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from typing import Any

import av
import cv2
import numpy as np

PICTURES_MAX = 250
KEY_EVERY = 30


def main(path: str) -> None:
    with av.open(path) as container:
        decoded = islice(container.decode(video=0), PICTURES_MAX)
        pictures: list[Any] = [frame.to_ndarray(format="rgb24") for frame in decoded]
    height, width, _ = pictures[0].shape
    print(f"{path}: {len(pictures)} pictures of {width}x{height}, a key picture every {KEY_EVERY}\n")
    print("| as | bytes a picture | of JPEG 90 | PSNR, dB | decoding, ms a picture |\n| --- | --- | --- | --- | --- |")
    reference = 0.0
    for name, (units, decode) in {
        "JPEG 90": _jpeg(pictures, 90),
        "JPEG 75": _jpeg(pictures, 75),
        "H264, crf 23": _video(pictures, "libx264", "h264", {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}),
        "H264, crf 18": _video(pictures, "libx264", "h264", {"preset": "veryfast", "tune": "zerolatency", "crf": "18"}),
        "HEVC, crf 23": _video(
            pictures,
            "libx265",
            "hevc",
            {"preset": "veryfast", "tune": "zerolatency", "x265-params": "bframes=0:log-level=none:crf=23"},
        ),
    }.items():
        size = sum(map(len, units)) / len(units)
        reference = reference or size
        began_s = time.perf_counter()
        given = [decode(unit) for unit in units]
        took_ms = (time.perf_counter() - began_s) * 1e3 / len(units)
        noise = np.mean([np.mean((one.astype(float) - other) ** 2) for one, other in zip(given, pictures, strict=True)])
        print(
            f"| {name} | {size:,.0f} | {size / reference:.2f} | {10 * np.log10(255**2 / noise):.1f} | {took_ms:.2f} |"
        )


def _jpeg(pictures: list[Any], quality: int) -> tuple[list[bytes], Callable[[bytes], Any]]:
    units = [
        cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()
        for picture in pictures
    ]
    return units, lambda unit: cv2.imdecode(np.frombuffer(unit, np.uint8), cv2.IMREAD_COLOR_RGB)


def _video(
    pictures: list[Any], encoder: str, decoder: str, options: dict[str, str]
) -> tuple[list[bytes], Callable[[bytes], Any]]:
    codec: Any = av.CodecContext.create(encoder, "w")
    codec.height, codec.width, _ = pictures[0].shape
    codec.pix_fmt, codec.framerate, codec.time_base = "yuv420p", Fraction(25), Fraction(1, 25)
    codec.gop_size, codec.max_b_frames, codec.thread_count, codec.options = KEY_EVERY, 0, 1, options
    units: list[bytes] = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = number
        units += map(bytes, codec.encode(frame))
    units += map(bytes, codec.encode(None))
    context: Any = av.CodecContext.create(decoder, "r")
    context.thread_count = 1
    context.flags |= av.codec.context.Flags.low_delay
    return units, lambda unit: context.decode(av.Packet(unit))[-1].to_ndarray(format="rgb24")


if __name__ == "__main__":
    main(sys.argv[1])
