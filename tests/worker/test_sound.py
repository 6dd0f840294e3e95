"""Sound and other numbers to rows."""

import numpy as np
import pytest

from duly.models.spec import TensorSpec
from duly.models.steps import Normalise, Window
from duly.worker.dtypes import Array
from duly.worker.errors import InvalidFrame
from duly.worker.ops.order import PREPROCESS
from duly.worker.reader import Reader

FP32 = np.dtype(np.float32)


def sound(samples: int, context: int = 0, normalise: Normalise | None = None) -> Reader:
    spec = TensorSpec(
        name="audio", datatype="FP32", shape=(samples,), encodings=("PCM_S16LE",), finite=True, bytes_max=1 << 16
    )
    window = Window(op="window", samples=samples, context=context) if context else None
    return Reader(spec, FP32, [PREPROCESS[type(step)](step) for step in (window, normalise) if step is not None])


def read(made: Reader, value: Array, encoding: str = "", context: Array | None = None) -> Array:
    row = None if -1 in made.row_shape else np.full(made.row_shape, 77, made.dtype)
    return made.read(memoryview(value.tobytes()), encoding, value.shape, row, context)[0]


def test_pcm_spans_minus_one_to_one() -> None:
    values = np.int16([-32768, -1, 0, 1, 32767])
    np.testing.assert_array_equal(read(sound(5), values, "PCM_S16LE"), values.astype(np.float32) / 32768)
    np.testing.assert_array_equal(read(sound(-1), values, "PCM_S16LE"), values.astype(np.float32) / 32768)


def test_window_begins_with_the_end_of_the_last_and_with_silence_at_first() -> None:
    made = sound(3, context=2)
    np.testing.assert_array_equal(read(made, np.float32([1, 2, 3])), [0, 0, 1, 2, 3])
    np.testing.assert_array_equal(read(made, np.float32([4, 5, 6]), context=np.float32([2, 3])), [2, 3, 4, 5, 6])


def test_window_fills_a_row_of_its_own_where_none_is_given() -> None:
    """As happens where another input of the model has no fixed size."""
    value = np.float32([1, 2, 3])
    row, _ = sound(3, context=2).read(memoryview(value.tobytes()), "", value.shape, None, np.float32([8, 9]))
    np.testing.assert_array_equal(row, [8, 9, 1, 2, 3])


def test_silence_is_normalised_as_sound_is() -> None:
    made = sound(2, context=2, normalise=Normalise(op="normalise", scale=2, mean=(6,), std=(2,)))
    np.testing.assert_array_equal(read(made, np.float32([0, 10])), [-3, -3, -3, 7])


def test_values_by_channel() -> None:
    spec = TensorSpec(name="imu", datatype="FP64", shape=(-1, 3), bytes_max=1 << 16)
    normalise = Normalise(op="normalise", mean=(1, 2, 3), std=(1, 2, 4))
    made = Reader(spec, FP32, [PREPROCESS[Normalise](normalise)])
    row = read(made, np.float64([[1, 2, 3], [2, 4, 7]]))
    assert row.dtype == np.float32
    np.testing.assert_array_equal(row, [[0, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("value", "encoding", "why"),
    [
        (np.zeros(3, np.uint8), "PCM_S16LE", "input 'audio': 3 bytes are no whole number of 16-bit samples"),
        (
            np.frombuffer(b"RIFF\x24\x00\x00\x00WAVEfmt ", np.uint8),
            "PCM_S16LE",
            "input 'audio': a whole WAV file, the model takes PCM_S16LE: send its samples alone",
        ),
        (np.zeros(3, np.int16), "PCM_S16LE", "input 'audio' has shape [3], wanted is [4]"),
        (np.zeros(3, np.float32), "", "input 'audio' has shape [3], wanted is [4]"),
        (np.zeros(4, np.int16), "", "input 'audio': 8 bytes, but FP32[4] has 16"),
        (np.float32([1, np.nan, 0, 0]), "", "input 'audio': an element is NaN or infinite"),
        (np.zeros(4, np.int16), "PNG", "input 'audio' takes no PNG, but PCM_S16LE, FP32[4]"),
    ],
)
def test_what_is_no_sound_is_invalid(value: Array, encoding: str, why: str) -> None:
    with pytest.raises(InvalidFrame) as refused:
        read(sound(4), value, encoding)
    assert str(refused.value) == why


def test_open_sound_must_not_be_empty() -> None:
    with pytest.raises(InvalidFrame, match=r"^input 'audio' is empty: its shape is \[0\]$"):
        read(sound(-1), np.int16([]), "PCM_S16LE")


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        (b"BW64\xff\xff\xff\xffWAVE", "WAV"),
        (b"RIFX\x00\x00\x08\x24WAVE", "WAV"),
        (b"riff\x2e\x91\xcf\x11", "Wave64"),
        (b"fLaC\x00\x00\x00\x22", "FLAC"),
        (b"OggS\x00\x02\x00\x00", "Ogg"),
        (b"ID3\x04\x00\x00\x00\x00", "MP3"),
        (b"FORM\x00\x00\x08\x2eAIFF", "AIFF"),
        (b".snd\x00\x00\x00\x18", "AU"),
        (b"caff\x00\x01\x00\x00", "CAF"),
        (b"\x00\x00\x00\x1cftypM4A ", "MP4"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B", "WebM or Matroska"),
    ],
)
def test_a_file_of_sound_is_not_taken_for_samples(begin: bytes, kind: str) -> None:
    with pytest.raises(InvalidFrame) as refused:
        read(sound(-1), np.frombuffer(begin + bytes(32), np.uint8), "PCM_S16LE")
    why = f"input 'audio': a whole {kind} file, the model takes PCM_S16LE: send its samples alone"
    assert str(refused.value) == why
