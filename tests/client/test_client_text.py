"""Text and BF16 between a program's arrays and the wire, and what is said where they do not fit."""

import os
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from duly.v1 import inference_pb2, tensor_pb2
from duly.worker.text import read_texts, write_texts
from duly_client import BFLOAT16, to_bfloat16, to_float32, wire
from duly_client.convert import DTYPES, tensor_array
from duly_client.errors import ProtocolError
from duly_client.types import TensorSpec

TEXTS = some.lists(some.text(some.characters(exclude_categories=["Cs"]), max_size=9), max_size=6)


def spec(datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec("x", datatype, DTYPES[datatype], shape)


def sent(payload: Any, *specs: TensorSpec) -> tensor_pb2.Tensor:
    """The tensor as the server parses it."""
    message, _ = wire.frames_message([(b"", wire.inputs_of(payload, None, specs or None))])
    (frame,) = inference_pb2.StreamRequest.FromString(message).frames.frames
    return frame.tensors[0]


@given(TEXTS, some.sampled_from(["O", "T"]))
def test_text_comes_back_as_it_was(texts: list[str], kind: str) -> None:
    array = np.array(texts, np.dtypes.StringDType() if kind == "T" else object)
    tensor = sent(array, spec("STRING", -1))
    assert read_texts(tensor.data, len(texts)) == texts, "what the server reads"
    back = tensor_array(tensor)
    assert (back.tolist(), back.shape, back.dtype) == (texts, (len(texts),), np.dtype(object))
    assert not back.flags.writeable


@given(TEXTS)
def test_the_server_and_the_client_write_alike(texts: list[str]) -> None:
    assert sent(np.array(texts, object), spec("STRING", -1)).data == write_texts(texts)


@pytest.mark.parametrize(
    ("payload", "shape", "wanted"),
    [
        ("left", (), ["left"]),
        ("left", (1,), ["left"]),
        ("left", (-1,), ["left"]),
        (np.array(["a", "bcd"]), (2,), ["a", "bcd"]),
        (np.array([b"a", "é".encode()]), (2,), ["a", "é"]),
        (np.array([["a", "b"], ["c", "d"]]).T, (2, 2), ["a", "c", "b", "d"]),
        (np.array([["a", "b"]]), (2,), ["a", "b"]),
        ({"x": "left"}, (), ["left"]),
    ],
)
def test_what_stands_for_text(payload: Any, shape: tuple[int, ...], wanted: list[str]) -> None:
    tensor = sent(payload, spec("STRING", *shape))
    assert tensor.datatype == tensor_pb2.DATA_TYPE_STRING
    assert tensor_array(tensor).ravel().tolist() == wanted


def test_text_is_sent_unchecked_too() -> None:
    assert list(sent("left").shape) == []
    assert list(sent(np.array(["a", "b"])).shape) == [2]


@pytest.mark.parametrize(
    ("payload", "model", "error", "words"),
    [
        (np.array(["a", 5], object), spec("STRING", 2), TypeError, r"element \[1\] is int; text is str, or bytes"),
        (np.array("\ud800", object), spec("STRING"), ValueError, r"element \(\) has half a character"),
        (np.array(["a"]), spec("STRING", 2), ValueError, r"got STRING\[1\], expected STRING\[2\]"),
        (np.array(["a", "b"]), spec("FP32", 2), ValueError, r"got STRING\[2\], expected FP32\[2\]"),
        ("left", spec("FP32"), TypeError, r"got str, expected FP32\[\]"),
        (np.zeros(2, np.float32), spec("STRING", 2), ValueError, r"got FP32\[2\], expected STRING\[2\]"),
        (np.zeros(2, np.uint16), spec("BF16", 2), ValueError, r"got UINT16\[2\], expected BF16\[2\]"),
        (np.zeros(2, np.float32), spec("BF16", 2), ValueError, r"got FP32\[2\], expected BF16\[2\]"),
        (b"left", spec("STRING"), ValueError, r"expected STRING\[\]"),
    ],
)
def test_what_does_not_fit_is_named(payload: Any, model: TensorSpec, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sent(payload, model)


@pytest.mark.parametrize(
    ("data", "shape", "words"),
    [
        (b"", [1], "there are fewer"),
        (b"\5\0\0\0ab", [1], "element 0 ends behind them"),
        (b"\xff\xff\xff\xff", [1], "element 0 ends behind them"),
        (write_texts(["a", "bcde"]), [3], "they end after 2"),
        (write_texts(["a", "b"]), [1], "5 bytes follow the last element"),
        (b"", [-1], "there are fewer"),
        (b"", [1 << 62], "there are fewer"),
        (b"\1\0\0\0\xff", [1], "invalid start byte"),
    ],
)
def test_a_server_that_sends_no_text_is_told_apart(data: bytes, shape: list[int], words: str) -> None:
    tensor = tensor_pb2.Tensor(name="y", datatype=tensor_pb2.DATA_TYPE_STRING, shape=shape, data=data)
    with pytest.raises(ProtocolError, match=rf"tensor 'y': {len(data)} bytes do not fill STRING.*{words}"):
        tensor_array(tensor)


def test_an_empty_tensor_of_text() -> None:
    assert sent(np.empty((0, 3), object), spec("STRING", -1, 3)).data == b""


@pytest.mark.parametrize("transposed", [False, True])
def test_bf16_comes_back_as_it_was(transposed: bool) -> None:
    array = to_bfloat16([[1, -2.5], [3e38, 0.1]])
    assert array.dtype == BFLOAT16 == np.dtype(ml_dtypes.bfloat16)
    array = array.T if transposed else array
    tensor = sent(array, spec("BF16", 2, 2))
    assert (tensor.datatype, tensor.data) == (tensor_pb2.DATA_TYPE_BF16, array.tobytes())
    back = tensor_array(tensor)
    assert back.dtype == BFLOAT16
    np.testing.assert_array_equal(to_float32(back), array.astype(np.float32))


@given(some.floats(width=32))
def test_numbers_are_rounded_as_ml_dtypes_rounds_them(number: float) -> None:
    ours, theirs = to_bfloat16(number), np.float32(number).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(to_float32(ours), np.asarray(theirs, np.float32))


def test_bf16_where_there_is_no_ml_dtypes() -> None:
    script = """
import sys
sys.modules["ml_dtypes"] = None
import numpy as np
from duly.v1 import inference_pb2, tensor_pb2
from duly_client import BFLOAT16, to_bfloat16, to_float32, wire
from duly_client.convert import DTYPES, tensor_array
from duly_client.types import TensorSpec
array = to_bfloat16([1.0, 2.5])
assert array["bits"].tolist() == [0x3F80, 0x4020]
assert (array.view(np.uint16).view(BFLOAT16) == array).all()
message, _ = wire.frames_message([(b"", wire.inputs_of(array, None, [TensorSpec("x", "BF16", BFLOAT16, (2,))]))])
tensor = inference_pb2.StreamRequest.FromString(message).frames.frames[0].tensors[0]
assert (tensor.datatype, tensor.data) == (tensor_pb2.DATA_TYPE_BF16, array.tobytes())
assert to_float32(tensor_array(tensor)).tolist() == [1.0, 2.5]
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
