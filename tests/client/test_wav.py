"""WAV files byte by byte: what recorders write around their samples."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from duly_client.convert import DTYPES
from duly_client.recordings import RecordingError, recording_for
from duly_client.recordings.wav import WavError, WavHeader, wav_header
from duly_client.types import Encoding, TensorSpec

SAMPLES = np.arange(8, dtype="<i2") * 1000
DATA = SAMPLES.tobytes()
PLAIN = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)


def chunk(name: bytes, data: bytes, size: int | None = None, pad: bytes = b"\0") -> bytes:
    return name + struct.pack("<I", len(data) if size is None else size) + data + pad * (len(data) % 2)


def riff(*chunks: bytes, kind: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return kind + struct.pack("<I", len(body)) + body


def extensible(number: int, bits: int = 16, guid_end: str = "000000001000800000aa00389b71") -> bytes:
    tail = struct.pack("<HHIH", 22, bits, 4, number) + bytes.fromhex(guid_end)
    return struct.pack("<HHIIHH", 0xFFFE, 1, 16_000, 2000 * bits, bits // 8, bits) + tail


def spec(datatype: str, *shape: int, encodings: tuple[Encoding, ...] = (), rate_hz: int = 16_000) -> TensorSpec:
    return TensorSpec("x", datatype, DTYPES[datatype], shape, encodings, sample_rate_hz=rate_hz)


def played(tmp_path: Path, data: bytes, wanted: TensorSpec) -> tuple[list[object], list[str]]:
    """The frames, and what was passed over."""
    (tmp_path / "a.wav").write_bytes(data)
    told: list[str] = []
    frames = recording_for(tmp_path / "a.wav", wanted).frames(lambda error: told.append(str(error)))
    return [np.asarray(frame.value).tolist() for frame in frames], told


@pytest.mark.parametrize(
    ("before", "size"),
    [
        ((), None),
        ((), 0),
        ((), 0xFFFFFFFF),
        ((), 0x7FFFFFFF - 36),
        ((chunk(b"JUNK", bytes(28)), chunk(b"LIST", b"INFOISFT")), None),
        ((chunk(b"LIST", b"odd"),), None),
        ((chunk(b"LIST", b"odd", pad=b""),), None),
        ((chunk(b"bext", bytes(602)), chunk(b"fact", bytes(4))), None),
    ],
)
def test_samples_are_found_behind_any_header(tmp_path: Path, before: tuple[bytes, ...], size: int | None) -> None:
    data = riff(*before[:1], chunk(b"fmt ", PLAIN), *before[1:], chunk(b"data", DATA, size))
    assert played(tmp_path, data, spec("INT16", 4)) == ([[0, 1000, 2000, 3000], [4000, 5000, 6000, 7000]], [])


def test_what_follows_the_samples_is_not_played(tmp_path: Path) -> None:
    data = riff(chunk(b"fmt ", PLAIN), chunk(b"data", DATA), chunk(b"LIST", bytes(100)))
    assert len(played(tmp_path, data, spec("INT16", 4))[0]) == 2


def test_what_is_cut_off_is_told(tmp_path: Path) -> None:
    data = riff(chunk(b"fmt ", PLAIN), chunk(b"data", DATA, size=5000))
    frames, told = played(tmp_path, data, spec("INT16", 4))
    assert (len(frames), told) == (2, [f"{tmp_path / 'a.wav'}: cut off: 16 of the 5,000 bytes of its samples"])


def test_a_file_shorter_than_a_frame_is_told(tmp_path: Path) -> None:
    data = riff(chunk(b"fmt ", PLAIN), chunk(b"data", DATA))
    told = f"{tmp_path / 'a.wav'}: 16 bytes of samples, a frame has 1,024"
    assert played(tmp_path, data, spec("FP32", 512)) == ([], [told])


def test_a_long_file_states_its_length_elsewhere() -> None:
    sizes = chunk(b"ds64", struct.pack("<QQQI", 5 << 32, 4 << 32, 2 << 32, 0))
    for kind in (b"RF64", b"BW64"):
        data = riff(sizes, chunk(b"fmt ", PLAIN), chunk(b"data", DATA, 0xFFFFFFFF), kind=kind)
        assert wav_header(io.BytesIO(data).read) == WavHeader("PCM", 16, 1, 16_000, 4 << 32)


def test_formats_become_what_models_take_where_nothing_is_lost(tmp_path: Path) -> None:
    fp32, int16 = spec("FP32", 4, encodings=("PCM_S16LE",)), spec("INT16", 4)
    bytes_24 = b"".join(value.to_bytes(3, "little", signed=True) for value in (1, -1, -(1 << 23), (1 << 23) - 1))
    deep = riff(chunk(b"fmt ", extensible(1, 24)), chunk(b"data", bytes_24))
    assert played(tmp_path, deep, fp32)[0] == [[2**-23, -(2**-23), -1.0, 1 - 2**-23]]
    floats = riff(chunk(b"fmt ", extensible(3, 32)), chunk(b"data", np.float32([0.1, -1, 1.5, 0]).tobytes()))
    assert played(tmp_path, floats, fp32)[0] == [np.float32([0.1, -1, 1.5, 0]).tolist()]
    eight = riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 16_000, 16_000, 1, 8)), chunk(b"data", b"\0\x7f\x80\xff"))
    assert played(tmp_path, eight, int16)[0] == [[-32768, -256, 0, 32512]]
    assert played(tmp_path, eight, spec("FP32", 4))[0] == [[-1.0, -1 / 128, 0.0, 127 / 128]]
    for lossy in (deep, floats):
        with pytest.raises(RecordingError, match=r"ffmpeg -i a\.wav -ac 1 -ar 16000 -c:a pcm_s16le converted\.wav$"):
            played(tmp_path, lossy, int16)


@pytest.mark.parametrize(
    ("format_chunk", "words"),
    [
        (struct.pack("<HHIIHH", 17, 1, 16_000, 8000, 256, 4), "1 channel(s) of IMA ADPCM with 4 bits at 16000 Hz"),
        (struct.pack("<HHIIHH", 0x2001, 1, 16_000, 8000, 1, 8), "of format 8193 with 8 bits"),
        (extensible(1, guid_end="ff" * 14), "of format 65534 with 16 bits"),
        (
            struct.pack("<HHIIHH", 1, 6, 48_000, 576_000, 12, 16),
            "6 channel(s) of PCM with 16 bits at 48000 Hz;",
        ),
        (struct.pack("<HHIIHH", 3, 1, 16_000, 128_000, 8, 64), "1 channel(s) of float with 64 bits at 16000 Hz"),
    ],
)
def test_other_formats_are_named_with_the_way_out(tmp_path: Path, format_chunk: bytes, words: str) -> None:
    data = riff(chunk(b"fmt ", format_chunk), chunk(b"data", DATA))
    with pytest.raises(RecordingError) as refused:
        played(tmp_path, data, spec("FP32", 4, encodings=("PCM_S16LE",)))
    assert words in str(refused.value)
    assert str(refused.value).endswith("ffmpeg -i a.wav -ac 1 -ar 16000 -c:a pcm_s16le converted.wav")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"RIFX\0\0\0\x24WAVEfmt ", "it is a WAV whose numbers are big-endian (RIFX)"),
        (b"fLaC\0\0\0\x22", "it is FLAC"),
        (b"ID3\4\0\0\0\0\0\0", "it is MP3"),
        (riff(), "it ends before its samples"),
        (riff(chunk(b"JUNK", b"ab", size=1 << 31)), "it ends before its samples"),
        (riff(chunk(b"data", DATA)), "its samples come before any format"),
        (riff(chunk(b"fmt ", PLAIN[:10]), chunk(b"data", DATA)), "its format chunk is cut off"),
        (riff(chunk(b"fmt ", PLAIN[:2] + bytes(14)), chunk(b"data", DATA)), "its format has 0 channels at 0 Hz"),
        (
            riff(chunk(b"fmt ", PLAIN[:4] + b"\xff" * 4 + PLAIN[8:]), chunk(b"data", DATA)),
            "its format has 1 channels at 4294967295 Hz",
        ),
    ],
)
def test_what_is_no_wav_is_named(data: bytes, words: str) -> None:
    with pytest.raises(WavError) as refused:
        wav_header(io.BytesIO(data).read)
    assert str(refused.value) == words
