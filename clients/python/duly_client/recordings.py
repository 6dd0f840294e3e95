"""Recordings as frames, for first tries, demonstrations and tests: pictures, video, sound, arrays; from files or stdin.

`open_recording` compares the file with what the model of an open stream takes, and refuses what does not fit.
`recording_for` does the same where no stream is open yet.
"""

import importlib
import wave
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duly_client.convert import Array, spelled
from duly_client.mjpeg import pictures_in
from duly_client.types import Encoding, StreamTerms, TensorSpec, Value

PERIOD_S = 0.1
"""Period of pictures and arrays, which state none."""
CHUNK_S = 0.032
"""Length of a chunk of sound where the model takes any length: 512 samples at 16 kHz."""
JPEG_QUALITY = 90

PICTURES = {".jpg", ".jpeg", ".png"}
VIDEOS = {".avi", ".mkv", ".mov", ".mp4", ".webm"}
SOUNDS = {".wav"}
RAW_SOUNDS = {".pcm", ".raw"}
ARRAYS = {".npy"}


class RecordingError(ValueError):
    """The recording cannot be read, or is not what the model takes."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Frames of one sensor. Iterating gives payloads for `Stream.send`; it works again only if `repeatable`."""

    description: str
    """What the recording is and how long, for people."""
    period_s: float
    """Time between frames; 0: not known, they are live."""
    encoding: Encoding | None
    """Encoding to pass to `Stream.send`."""
    repeatable: bool
    _frames: Callable[[], Iterator[Value]]

    def __iter__(self) -> Iterator[Value]:
        return self._frames()


def open_recording(path: str | Path, opened: StreamTerms) -> Recording:
    """Opens the recording at `path` as frames for the stream's model. "-" is stdin with pictures, one JPEG after the
    other, or raw sound. Raises FileNotFoundError, and RecordingError where recording and model do not fit together.
    """
    if len(opened.inputs) != 1:
        names = ", ".join(spec.name for spec in opened.inputs)
        raise RecordingError(f"a recording feeds models with one input; this one takes {names}")
    return recording_for(path, opened.inputs[0])


def recording_for(path: str | Path, spec: TensorSpec) -> Recording:
    """Does the same as `open_recording` for a model's only input, before any stream is open."""
    if str(path) == "-":
        return _stdin(spec)
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
        if not files:
            raise RecordingError(f"{path}: no pictures ({_listed(PICTURES)}) in this folder")
        return _pictures(files, f"{len(files)} pictures in {path}", spec)
    if not path.exists():
        raise FileNotFoundError(2, "no such file or folder", str(path))
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return _pictures([path], str(path), spec)
    if suffix in VIDEOS:
        return _video(path, spec)
    if suffix in SOUNDS:
        return _wav(path, spec)
    if suffix in RAW_SOUNDS:
        return _raw_sound(path, spec)
    if suffix in ARRAYS:
        return _arrays(path)
    known = _listed(PICTURES | VIDEOS | SOUNDS | RAW_SOUNDS | ARRAYS)
    raise RecordingError(f"{path}: unknown kind of recording; a folder of pictures or one of {known} would do")


def _stdin(spec: TensorSpec) -> Recording:
    source = open(0, "rb", closefd=False)  # noqa: SIM115 (stdin stays open)
    if spec.sample_rate_hz:

        def chunks(chunk_samples: int) -> Iterator[bytes]:
            return _chunks(source.read, chunk_samples * 2, chunk_samples * 2)

        return _sound(f"raw sound at {spec.sample_rate_hz} Hz from stdin", chunks, spec.sample_rate_hz, spec, live=True)
    if "JPEG" not in spec.encodings:
        raise RecordingError(f"stdin carries JPEG pictures or raw sound; the model takes {_taken(spec)}")
    return Recording("JPEG pictures from stdin", 0.0, None, False, lambda: pictures_in(source))


def _pictures(files: list[Path], description: str, spec: TensorSpec) -> Recording:
    if {"PNG" if file.suffix.lower() == ".png" else "JPEG" for file in files} <= set(spec.encodings):
        read: Callable[[Path], Value] = Path.read_bytes
    else:
        cv2 = _opencv("Decoding pictures")
        _check_pixels(description, spec)

        def read(file: Path) -> Value:
            picture = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
            if picture is None:
                raise RecordingError(f"{file}: neither a JPEG nor a PNG picture")
            return _rgb(picture)

    return Recording(description, PERIOD_S, None, True, lambda: map(read, files))


def _video(path: Path, spec: TensorSpec) -> Recording:
    cv2 = _opencv("Reading video")
    as_jpeg = "JPEG" in spec.encodings
    if not as_jpeg:
        _check_pixels(str(path), spec)
    video = cv2.VideoCapture(str(path))
    rate_hz, count = video.get(cv2.CAP_PROP_FPS), int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    width, height = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
    readable = video.isOpened() and rate_hz > 0
    video.release()
    if not readable:
        raise RecordingError(f"{path}: OpenCV cannot read this video")

    def frames() -> Iterator[Value]:
        video = cv2.VideoCapture(str(path))
        try:
            while True:
                there, picture = video.read()
                if not there:
                    return
                if as_jpeg:
                    yield cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()
                else:
                    yield _rgb(picture)
        finally:
            video.release()

    description = f"{path}: {count} pictures of {width}x{height} at {rate_hz:g} Hz"
    return Recording(description, 1 / rate_hz, None, True, frames)


def _wav(path: Path, spec: TensorSpec) -> Recording:
    try:
        with wave.open(str(path), "rb") as sound:
            channels, width, rate_hz = sound.getnchannels(), sound.getsampwidth(), sound.getframerate()
            samples = sound.getnframes()
    except (wave.Error, EOFError) as error:
        raise RecordingError(f"{path}: not a WAV file of PCM samples ({error})") from error
    wanted_hz = spec.sample_rate_hz or rate_hz
    if (channels, width, rate_hz) != (1, 2, wanted_hz):
        raise RecordingError(
            f"{path}: {channels} channel(s) of {8 * width} bits at {rate_hz} Hz; 1 of 16 bits at {wanted_hz} Hz is "
            f"needed: ffmpeg -i {path.name} -ac 1 -ar {wanted_hz} -c:a pcm_s16le converted.wav"
        )

    def chunks(chunk_samples: int) -> Iterator[bytes]:
        with wave.open(str(path), "rb") as sound:
            yield from _chunks(sound.readframes, chunk_samples, chunk_samples * 2)

    return _sound(f"{path}: {samples / rate_hz:.1f} s of sound at {rate_hz} Hz", chunks, rate_hz, spec)


def _raw_sound(path: Path, spec: TensorSpec) -> Recording:
    def chunks(chunk_samples: int) -> Iterator[bytes]:
        with path.open("rb") as file:
            yield from _chunks(file.read, chunk_samples * 2, chunk_samples * 2)

    rate_hz = spec.sample_rate_hz
    if not rate_hz:
        raise RecordingError(f"{path} holds raw sound; the model takes {_taken(spec)}")
    seconds = path.stat().st_size / 2 / rate_hz
    return _sound(f"{path}: {seconds:.1f} s of sound, taken to be at {rate_hz} Hz", chunks, rate_hz, spec)


def _chunks(read: Callable[[int], bytes], count: int, chunk_bytes: int) -> Iterator[bytes]:
    """Gives what `read(count)` returns until that is shorter than `chunk_bytes`; the rest is left out."""
    while len(chunk := read(count)) == chunk_bytes:
        yield chunk


def _sound(
    description: str, chunks: Callable[[int], Iterator[bytes]], rate_hz: int, spec: TensorSpec, live: bool = False
) -> Recording:
    if len(spec.shape) != 1:
        raise RecordingError(f"{description}; the model takes {_taken(spec)}")
    chunk_samples = spec.shape[0] if spec.shape[0] > 0 else round(rate_hz * CHUNK_S)
    encoding: Encoding | None = None
    if "PCM_S16LE" in spec.encodings:
        encoding = "PCM_S16LE"

        def frames() -> Iterator[Value]:
            return chunks(chunk_samples)
    elif spec.datatype == "INT16":

        def frames() -> Iterator[Value]:
            return (np.frombuffer(chunk, "<i2") for chunk in chunks(chunk_samples))
    elif spec.datatype == "FP32":

        def frames() -> Iterator[Value]:
            return (np.frombuffer(chunk, "<i2") / np.float32(32768) for chunk in chunks(chunk_samples))
    else:
        raise RecordingError(f"{description}; the model takes {_taken(spec)}")
    period_s = 0.0 if live else chunk_samples / rate_hz
    return Recording(description, period_s, encoding, not live, frames)


def _arrays(path: Path) -> Recording:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise RecordingError(f"{path}: not a .npy file of numbers ({error})") from error
    if array.ndim == 0:
        raise RecordingError(f"{path}: a single number; frames lie along the first axis")
    description = f"{path}: {len(array)} arrays {spelled(str(array.dtype), array.shape[1:])}"
    return Recording(description, PERIOD_S, None, True, lambda: map(np.asarray, array))


def _check_pixels(description: str, spec: TensorSpec) -> None:
    if spec.datatype != "UINT8" or len(spec.shape) != 3 or spec.shape[2] != 3:
        raise RecordingError(f"{description}: pictures; the model takes {_taken(spec)}")


def _rgb(picture: Array) -> Array:
    """Turns a picture of OpenCV, which is BGR, into RGB."""
    return np.ascontiguousarray(picture[:, :, ::-1])


def _opencv(purpose: str) -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise RecordingError(f"{purpose} needs OpenCV: pip install 'duly[media]'") from error


def _taken(spec: TensorSpec) -> str:
    return " or ".join((spelled(spec.datatype, spec.shape), *spec.encodings))


def _listed(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffixes))
