"""Video files whose pictures go to the server as they are encoded, for models that take H264 or HEVC."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duly_client.recordings.recording import PERIOD_S, Frame, PassOver, Recording, RecordingError, taken
from duly_client.types import Encoding, TensorSpec

RAW_VIDEOS = {".264", ".265", ".h264", ".h265", ".hevc"}
_ENCODINGS: dict[str, Encoding] = {"h264": "H264", "hevc": "HEVC"}


def takes_video(spec: TensorSpec) -> bool:
    """Whether the model takes video as it is encoded."""
    return not {"H264", "HEVC"}.isdisjoint(spec.encodings)


def access_units(path: Path, spec: TensorSpec) -> Recording | None:
    """The pictures of a video, one access unit each. None: its encoding is none that the model takes, or its pictures
    are out of order and the model takes JPEG or PNG as well. Raises RecordingError where there is no video, PyAV is
    not installed, or pictures are out of order.
    """
    av = _pyav(path)
    try:
        with av.open(str(path)) as container:
            videos = container.streams.video
            codec = videos[0].codec_context if videos else None
            name = codec.name if codec is not None else ""
            later = codec is not None and codec.has_b_frames
            rate_hz = float(videos[0].average_rate or 0) if videos else 0.0
            size = f"{codec.width}x{codec.height}" if codec is not None else ""
            count = videos[0].frames if videos else 0
    except (av.FFmpegError, ValueError) as error:
        raise RecordingError(f"{path}: FFmpeg cannot read this video: {error}") from None
    encoding = _ENCODINGS.get(name)
    if encoding is None or encoding not in spec.encodings:
        return None
    if later and not {"JPEG", "PNG"}.isdisjoint(spec.encodings):
        return None
    if later:
        raise RecordingError(
            f"{path}: its pictures are not in order (B-frames), so that each would wait for a later one; in order: "
            f"ffmpeg -i {path.name} -c:v {'libx264' if encoding == 'H264' else 'libx265'} -tune zerolatency ordered.mp4"
        )

    def frames(pass_over: PassOver) -> Iterator[Frame]:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            to_start_codes = av.BitStreamFilterContext(f"{name}_mp4toannexb", stream)
            number = 0
            try:
                for packet in container.demux(stream):
                    if packet.size:
                        for each in to_start_codes.filter(packet):
                            number += 1
                            yield Frame(bytes(each), f"{path}: picture {number}")
            except av.FFmpegError as error:
                pass_over(RecordingError(f"{path}: broken off after {number} pictures: {error}"))

    rate = f" at {rate_hz:g} Hz" if rate_hz > 0 else ""
    numbered = f"{count} pictures" if count > 0 else "pictures"
    described = f"{path}: {numbered} of {size}{rate}, as {encoding}"
    return Recording(described, 1 / rate_hz if rate_hz > 0 else PERIOD_S, encoding, True, frames)


def not_encoded_so(path: Path, spec: TensorSpec) -> RecordingError:
    """What is to be done with a video that the model does not take."""
    return RecordingError(
        f"{path}: video in another encoding; the model takes {taken(spec)}: ffmpeg -i {path.name} -c:v libx264 -tune "
        "zerolatency h264.mp4"
    )


def _pyav(path: Path) -> Any:
    try:
        av = importlib.import_module("av")
    except ImportError:
        raise RecordingError(f"{path}: reading encoded video needs PyAV: pip install 'duly[video]'") from None
    av.logging.set_level(None)
    return av
