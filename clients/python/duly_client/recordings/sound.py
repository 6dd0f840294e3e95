"""Sound as frames: WAV files and raw samples, in chunks of the length that the model takes.

Samples are converted only where nothing is lost: 8 bits become 16, and 24 bits and floating point become FP32 where the
model takes FP32. For everything else the message says which ffmpeg command makes it fit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from duly_client.convert import Array
from duly_client.recordings.recording import Frame, PassOver, Recording, RecordingError, taken
from duly_client.recordings.wav import WavError, WavHeader, wav_header
from duly_client.types import Encoding, TensorSpec, Value

CHUNK_S = 0.032
"""Length of a chunk of sound where the model takes any length: 512 samples at 16 kHz."""

STDIN = "stdin"
"""The name of what comes through a pipe."""
SOUNDS = {".wav", ".wave"}
RAW_SOUNDS = {".pcm", ".raw"}


@dataclass(frozen=True, slots=True)
class _Samples:
    """A kind of samples, and how a chunk of them becomes what models take. None: not without loss."""

    sample_bytes: int
    to_int16: Callable[[bytes], Array] | None
    to_fp32: Callable[[bytes], Array]
    note: str = ""


def _int16(data: bytes) -> Array:
    return np.frombuffer(data, "<i2")


def _widened(data: bytes) -> Array:
    return (np.frombuffer(data, np.uint8).astype(np.int16) - 128) << 8


def _from_int24(data: bytes) -> Array:
    padded = np.zeros((len(data) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return np.asarray((padded.reshape(-1).view("<i4") >> 8) / np.float32(1 << 23), np.float32)


def _fp32(data: bytes) -> Array:
    return np.frombuffer(data, "<f4")


_SCALE = np.float32(1 << 15)
_PCM16 = _Samples(2, _int16, lambda data: np.asarray(_int16(data) / _SCALE))
_KINDS = {
    ("PCM", 16): _PCM16,
    ("PCM", 8): _Samples(1, _widened, lambda data: np.asarray(_widened(data) / _SCALE), ", 8 bits widened to 16"),
    ("PCM", 24): _Samples(3, None, _from_int24, ", 24 bits as FP32"),
    ("float", 32): _Samples(4, None, _fp32, ", floating point"),
}


def wav(path: Path, spec: TensorSpec) -> Recording:
    """Raises RecordingError where the file is no WAV, or does not fit the model without loss."""
    with path.open("rb") as file:
        header, samples = _opened(file, str(path), spec)
        there = path.stat().st_size - file.tell()
    data_bytes = there if header.data_bytes is None else min(there, header.data_bytes)

    def frames(pass_over: PassOver) -> Iterator[Frame]:
        if data_bytes < (frame_bytes := _chunk_samples(header.rate_hz, spec) * samples.sample_bytes):
            pass_over(RecordingError(f"{path}: {data_bytes:,} bytes of samples, a frame has {frame_bytes:,}"))
        with path.open("rb") as file:
            wav_header(file.read)
            yield from _frames(file.read, data_bytes, samples, header.rate_hz, spec)
        if header.data_bytes is not None and there < header.data_bytes:
            pass_over(RecordingError(f"{path}: cut off: {there:,} of the {header.data_bytes:,} bytes of its samples"))

    seconds = data_bytes / samples.sample_bytes / header.rate_hz
    description = f"{path}: {seconds:.1f} s of sound at {header.rate_hz} Hz{samples.note}"
    return _recording(description, frames, header.rate_hz, spec)


def raw_sound(path: Path, spec: TensorSpec) -> Recording:
    """Samples of 16 bits without a header, at the model's rate. Raises RecordingError where the model states none."""
    rate_hz = spec.sample_rate_hz
    if not rate_hz:
        raise RecordingError(f"{path} holds raw sound; the model takes {taken(spec)}")
    data_bytes = path.stat().st_size

    def frames(pass_over: PassOver) -> Iterator[Frame]:
        with path.open("rb") as file:
            yield from _frames(file.read, data_bytes, _PCM16, rate_hz, spec)

    description = f"{path}: {data_bytes / 2 / rate_hz:.1f} s of sound, taken to be at {rate_hz} Hz"
    return _recording(description, frames, rate_hz, spec)


def live_sound(read: Callable[[int], bytes], spec: TensorSpec) -> Iterator[Frame]:
    """Raw samples of 16 bits, at the model's rate, until they end."""
    return _frames(read, None, _PCM16, spec.sample_rate_hz, spec)


def live_wav(file: BinaryIO, name: str, spec: TensorSpec) -> Iterator[Frame]:
    """A WAV that comes through a pipe. Raises RecordingError where it does not fit the model without loss."""
    header, samples = _opened(file, name, spec)
    return _frames(file.read, header.data_bytes, samples, header.rate_hz, spec)


def takes_sound(spec: TensorSpec) -> bool:
    """Whether the model takes samples in some form that a WAV can have."""
    return len(spec.shape) == 1 and ("PCM_S16LE" in spec.encodings or spec.datatype in ("INT16", "FP32"))


def encoding_of(spec: TensorSpec) -> Encoding | None:
    """How bytes of sound are to be sent."""
    return "PCM_S16LE" if "PCM_S16LE" in spec.encodings else None


def _opened(file: BinaryIO, name: str, spec: TensorSpec) -> tuple[WavHeader, _Samples]:
    try:
        header = wav_header(file.read)
    except WavError as error:
        way_out = _way_out(name, spec.sample_rate_hz)
        raise RecordingError(f"{name}: not a WAV file of samples: {error}; to make one: {way_out}") from error
    samples = _KINDS.get((header.format, header.bits))
    wanted_hz = spec.sample_rate_hz or header.rate_hz
    lossy = samples is None or (samples.to_int16 is None and spec.datatype != "FP32")
    if samples is None or lossy or (header.channels, header.rate_hz) != (1, wanted_hz):
        raise RecordingError(
            f"{name}: {header.channels} channel(s) of {header.format} with {header.bits} bits at {header.rate_hz} Hz; "
            f"1 of PCM with 16 bits at {wanted_hz} Hz is needed: {_way_out(name, wanted_hz)}"
        )
    return header, samples


def _way_out(name: str, rate_hz: int) -> str:
    """The command that makes a WAV that fits any model of this rate, or of any rate where it is 0."""
    source = "-" if name == STDIN or name.startswith("/dev/") else Path(name).name
    return f"ffmpeg -i {source}{f' -ac 1 -ar {rate_hz}' if rate_hz else ' -ac 1'} -c:a pcm_s16le converted.wav"


def _chunk_samples(rate_hz: int, spec: TensorSpec) -> int:
    return spec.shape[0] if spec.shape[0] > 0 else max(1, round(rate_hz * CHUNK_S))


def _frames(
    read: Callable[[int], bytes], data_bytes: int | None, samples: _Samples, rate_hz: int, spec: TensorSpec
) -> Iterator[Frame]:
    """Gives whole chunks; what is left at the end and shorter is left out. `data_bytes` None: until the end."""
    chunk_bytes = _chunk_samples(rate_hz, spec) * samples.sample_bytes
    while data_bytes is None or data_bytes >= chunk_bytes:
        data = read(chunk_bytes)
        if len(data) < chunk_bytes:
            return
        if data_bytes is not None:
            data_bytes -= chunk_bytes
        yield Frame(_as_taken(data, samples, spec))


def _as_taken(data: bytes, samples: _Samples, spec: TensorSpec) -> Value:
    if samples.to_int16 is None:
        return samples.to_fp32(data)
    if "PCM_S16LE" in spec.encodings:
        return samples.to_int16(data).astype("<i2").tobytes()
    return samples.to_int16(data) if spec.datatype == "INT16" else samples.to_fp32(data)


def _recording(
    description: str, frames: Callable[[PassOver], Iterator[Frame]], rate_hz: int, spec: TensorSpec
) -> Recording:
    if not takes_sound(spec):
        raise RecordingError(f"{description}; the model takes {taken(spec)}")
    return Recording(description, _chunk_samples(rate_hz, spec) / rate_hz, encoding_of(spec), True, frames)
