"""What a frame may hold for its model: every misfit is named, and what fits is taken as it came."""

from math import prod

import cv2
import numpy as np
import pytest

from duly.models.spec import Signature, TensorSpec
from duly.streams.errors import InvalidFrame
from duly.streams.inputs import InputChecks
from duly.worker.channel import DIMS_MAX, ENCODINGS

X = TensorSpec(name="x", datatype="FP32", shape=(2,), bytes_max=8)
ANY = TensorSpec(name="any", datatype="UINT8", shape=(-1, 3), bytes_max=6)
PICTURE = TensorSpec(name="picture", datatype="UINT8", shape=(-1,), encodings=("JPEG",), bytes_max=4)


def checks(*inputs: TensorSpec) -> InputChecks:
    return InputChecks(Signature(inputs=inputs, outputs=(), batch_sizes=(1,), any_size=True, stateful=False))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "text"),
    [
        ("INT32", (2,), bytes(8), "datatype INT32, the model takes FP32"),
        ("FP32", (3,), bytes(12), "shape [3], the model takes [2]"),
        ("FP32", (2, 1), bytes(8), "shape [2, 1], the model takes [2]"),
        ("FP32", (1, 1, 2), bytes(8), "shape [1, 1, 2], the model takes [2]"),
        ("FP32", (2, 2), bytes(16), "shape [2, 2], the model takes [2]"),
        ("FP32", (2,), bytes(7), "7 bytes, FP32[2] takes 8"),
        ("FP32", (1,) * (DIMS_MAX + 1), bytes(8), f"{DIMS_MAX + 1} dimensions, at most {DIMS_MAX} are taken"),
    ],
)
def test_an_array_that_does_not_fit_is_named(datatype: str, shape: tuple[int, ...], data: bytes, text: str) -> None:
    with pytest.raises(InvalidFrame) as error:
        checks(X).tensor(0, datatype, shape, data)
    assert str(error.value) == f"input 'x': {text}"


def test_a_free_shape_has_a_limit_and_may_be_empty() -> None:
    with pytest.raises(InvalidFrame, match="9 bytes, at most 6 are taken"):
        checks(ANY).tensor(0, "UINT8", (3, 3), bytes(9))
    assert checks(ANY).tensor(0, "UINT8", (0, 3), b"") == (0, (0, 3), b"")
    assert checks(ANY).tensor(0, "UINT8", (2, 3), bytes(6)) == (0, (2, 3), bytes(6))


@pytest.mark.parametrize("shape", [(0, 7), (2**31, 0), (-1, 0)])
def test_an_empty_array_has_no_extents_that_no_frame_could_have(shape: tuple[int, int]) -> None:
    """What a graph makes of an array may be as large as its other extents say."""
    free = TensorSpec(name="free", datatype="UINT8", shape=(-1, -1), bytes_max=6)
    with pytest.raises(InvalidFrame):
        checks(free).tensor(0, "UINT8", shape, b"")
    assert checks(free).tensor(0, "UINT8", (6, 0), b"").shape == (6, 0)


@pytest.mark.parametrize(
    ("spec", "sent", "taken"),
    [
        ((2,), (1, 2), (2,)),
        ((-1, 3), (1, 2, 3), (2, 3)),
        ((), (1,), ()),
        ((1, 2), (2,), (1, 2)),
        ((-1, 3), (3,), (1, 3)),
        ((1, 2), (1, 1, 2), (1, 2)),
        ((-1, -1), (1, 6), (1, 6)),  # it fits as it is, so that nothing is taken away
    ],
)
def test_a_first_dimension_of_one_may_be_too_many_or_missing(
    spec: tuple[int, ...], sent: tuple[int, ...], taken: tuple[int, ...]
) -> None:
    taking = checks(TensorSpec(name="x", datatype="UINT8", shape=spec, bytes_max=64))
    data = bytes(prod(sent))
    assert taking.tensor(0, "UINT8", sent, data) == (0, taken, data)


def test_what_the_model_knows_need_not_be_said() -> None:
    assert checks(X).tensor(checks(X).index(""), "", (), bytes(8)) == (0, (2,), bytes(8))


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        ("PNG", b"1", "PNG is not taken, the model takes JPEG"),
        ("JPEG", b"", "no bytes"),
        ("JPEG", bytes(5), "5 bytes, at most 4 are taken (bytes_max of [[input]], or less by the server's limits)"),
    ],
)
def test_a_picture_that_does_not_fit_is_named(encoding: str, data: bytes, text: str) -> None:
    with pytest.raises(InvalidFrame) as error:
        checks(PICTURE).encoded(0, encoding, data)
    assert str(error.value) == f"input 'picture': {text}"


def test_a_picture_that_fits_keeps_its_encoding_and_has_the_size_of_its_header() -> None:
    spec = PICTURE.model_copy(update={"bytes_max": 1 << 20})
    data = cv2.imencode(".jpg", np.zeros((5, 7, 3), np.uint8))[1].tobytes()
    assert checks(spec).encoded(0, "JPEG", data) == (ENCODINGS.index("JPEG"), (5, 7, 1), data)


def test_each_input_comes_once_and_by_its_name() -> None:
    both = checks(X, ANY)
    with pytest.raises(InvalidFrame, match="an input has no name; the model takes 'x', 'any'"):
        both.index("")
    with pytest.raises(InvalidFrame, match="there is no input 'z'; the model takes 'x', 'any'"):
        both.index("z")
    payload: list[object] = [None, None]
    both.put(payload, 0, both.tensor(0, "FP32", (2,), bytes(8)))  # type: ignore[arg-type]
    with pytest.raises(InvalidFrame, match="input 'x' is there twice"):
        both.put(payload, 0, both.tensor(0, "FP32", (2,), bytes(8)))  # type: ignore[arg-type]
    with pytest.raises(InvalidFrame, match="input 'any' is missing; the model takes 'x', 'any'"):
        both.complete(payload)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "size", "text"),
    [
        ((2, 3), 23, "23 bytes, STRING[2, 3] takes at least 24"),
        ((0, 3), 1, "1 bytes, STRING[0, 3] takes at least 0"),
        ((1, 3), 1_000_001, "1000001 bytes, at most 1000000 are taken"),
        ((30_000, 3), 360_000, "90,000 elements of text, at most 65,536 are taken"),
        ((30_000, 3), 400_000, "90,000 elements of text, at most 65,536 are taken"),
        ((1 << 30, 3), 12, "takes at least 12884901888"),
        ((1, 4), 16, "shape [1, 4], the model takes [-1, 3]"),
    ],
)
def test_text_that_does_not_fit_is_named(shape: tuple[int, ...], size: int, text: str) -> None:
    words = TensorSpec(name="x", datatype="STRING", shape=(-1, 3), bytes_max=1_000_000)
    with pytest.raises(InvalidFrame) as caught:
        checks(words).tensor(0, "STRING", shape, bytes(size))
    assert text in str(caught.value)


def test_few_texts_have_the_room_of_their_input() -> None:
    words = checks(TensorSpec(name="x", datatype="STRING", shape=(-1, 3), bytes_max=30))
    for size in (12, 13, 30):
        assert len(words.tensor(0, "", (1, 3), bytes(size)).data) == size
    with pytest.raises(InvalidFrame, match="36 bytes, at most 30 are taken"):
        words.tensor(0, "", (3, 3), bytes(36))
    fixed = checks(TensorSpec(name="x", datatype="STRING", shape=(2,), bytes_max=30))
    assert fixed.tensor(0, "", (), bytes(20)).shape == (2,)
