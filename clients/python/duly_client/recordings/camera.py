"""Cameras as live recordings, through PyAV: RTSP cameras in the network and V4L2 devices of this machine.

JPEG, H.264 and H.265 that a camera sends go to the model as they are, where it takes them. Other video is decoded here,
and sent as JPEG or as pixels like that of files. Pictures come when they come: what is late is not waited for.
"""

import importlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from duly_client.recordings.pictures import check_takes_pictures, gray_or_colours, opencv
from duly_client.recordings.recording import Frame, PassOver, Recording, RecordingError, taken
from duly_client.recordings.video import JPEG_QUALITY
from duly_client.types import Encoding, TensorSpec, Value

OPEN_TIMEOUT_S = 10.0
"""How long a camera may take to answer and say what it sends."""
READ_TIMEOUT_S = 10.0
"""How long a camera may be silent before it counts as lost."""

_RTSP_OPTIONS = {
    "rtsp_transport": "tcp",
    "analyzeduration": "500000",  # microseconds in which FFmpeg looks at what comes
    "fflags": "nobuffer",  # and what it has looked at is not shown late
    "flags": "low_delay",
    "max_delay": "0",
}
_ENCODINGS: dict[str, Encoding] = {"h264": "H264", "hevc": "HEVC"}
_DEVICE_FORMATS: tuple[dict[str, str], ...] = ({"input_format": "mjpeg"}, {})
"""What a V4L2 device is asked for, in this order: JPEG, then whatever it gives."""


def is_camera(path: str) -> bool:
    """Whether a path names a camera: rtsp://..., rtsps://... or /dev/videoN."""
    return re.match(r"rtsps?://", path) is not None or re.fullmatch(r"/dev/video\d+", path) is not None


def camera(path: str, spec: TensorSpec) -> Recording:
    """Raises RecordingError where PyAV is not installed, or the model takes no pictures that a camera gives."""
    name = without_password(path)
    check_takes_pictures(name, spec)
    as_jpeg = "JPEG" in spec.encodings
    if not as_jpeg and spec.datatype != "UINT8":
        raise RecordingError(f"{name}: a camera, whose pictures have 8 bits a channel; the model takes {taken(spec)}")
    av = _pyav(name, path)
    encoding = next((each for each in _ENCODINGS.values() if each in spec.encodings), None)

    def frames(pass_over: PassOver) -> Iterator[Frame]:
        return _frames(av, path, name, spec, encoding, pass_over)

    return Recording(f"camera {name}", 0.0, encoding, True, frames)


def without_password(path: str) -> str:
    """The address without the user and password that may stand in it."""
    parts = urlsplit(path)
    if "@" not in parts.netloc:
        return path
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _pyav(name: str, path: str) -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        source = f"-f v4l2 -i {name}" if path.startswith("/dev/") else f"-i {name}"
        raise RecordingError(
            f"{name}: cameras need PyAV: pip install 'duly[video]'; without it: ffmpeg {source} -f mjpeg - | "
            "duly stream MODEL --input -"
        ) from error


def _frames(
    av: Any, path: str, name: str, spec: TensorSpec, encoding: Encoding | None, pass_over: PassOver
) -> Iterator[Frame]:
    container = _opened(av, path, name)
    given = 0
    try:
        if not container.streams.video:
            raise RecordingError(f"{name}: sends no video")
        stream = container.streams.video[0]
        codec = stream.codec_context
        codec.thread_type = "SLICE"  # threads that each decode a picture of their own give it pictures later
        as_it_is = (codec.name == "mjpeg" and "JPEG" in spec.encodings) or encoding == _ENCODINGS.get(codec.name, "")
        # A camera may state the parameter sets of its video once, before any picture; a decoder wants them at each key.
        whole = av.BitStreamFilterContext("dump_extra", stream) if as_it_is and codec.name != "mjpeg" else None
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                raise RecordingError(f"{name}: lost after {given} pictures: {_said(error)}") from error
            if packet is None:
                return
            if whole is not None and not given and not packet.is_keyframe:
                continue  # nothing can begin with it
            values: list[Value]
            try:
                if whole is not None:
                    values = [bytes(each) for each in whole.filter(packet)] if packet.size else []
                else:
                    values = [bytes(packet)] if as_it_is else [_value(each, spec) for each in packet.decode()]
            except (av.error.FFmpegError, RecordingError) as error:
                said = _said(error) if isinstance(error, av.error.FFmpegError) else error
                pass_over(RecordingError(f"{name}: picture {given + 1}: {said}"))
                continue
            for value in values:
                if len(value):
                    given += 1
                    yield Frame(value, f"{name}: picture {given}")
    finally:
        container.close()


def _opened(av: Any, path: str, name: str) -> Any:
    """Raises RecordingError, and OSError where a device may not be opened."""
    device = path.startswith("/dev/")
    if device:
        with open(path, "rb"):
            pass  # who may not read it hears that, and not what FFmpeg makes of it
    error: Exception | None = None
    for options in _DEVICE_FORMATS if device else (_RTSP_OPTIONS,):
        try:
            return av.open(
                path, format="v4l2" if device else None, options=dict(options), timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S)
            )
        except (av.error.FFmpegError, OSError) as failed:
            error = failed
    right = "a V4L2 camera is needed" if device else "is it on, and are host, port, path, user and password right?"
    raise RecordingError(f"{name}: cannot be opened: {_said(error)}; {right}") from error


def _said(error: Exception | None) -> str:
    """What FFmpeg says, without the address, in which a password may stand."""
    return str(getattr(error, "strerror", "") or type(error).__name__)


def _value(frame: Any, spec: TensorSpec) -> Value:
    """A decoded picture as the model takes it."""
    pixels = np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
    if "JPEG" not in spec.encodings:
        return gray_or_colours(pixels, spec)
    cv2 = opencv("Encoding pictures")
    gray = spec.shape[2:] == (1,)
    picture = gray_or_colours(pixels, spec) if gray else pixels[:, :, ::-1]
    return bytes(cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1])
