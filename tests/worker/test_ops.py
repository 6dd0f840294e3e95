"""Operations as model.toml names them, and how they go together."""

from typing import get_args

import cv2
import numpy as np
import pytest

from duly.models.spec import Encoding, TensorSpec, YoloV2
from duly.models.steps import Gray, Layout, Normalise, Resize, Step, op_of
from duly.worker.channel import SENT_ENCODINGS
from duly.worker.decode import ENCODINGS
from duly.worker.errors import LoadError
from duly.worker.ops.order import POSTPROCESS, PREPROCESS
from duly.worker.reader import Reader


def test_whatever_model_toml_may_name_is_carried_out() -> None:
    assert set(PREPROCESS) == set(get_args(Step))
    assert set(POSTPROCESS) == {YoloV2}
    assert len({op_of(step) for step in PREPROCESS}) == len(PREPROCESS)
    assert set(ENCODINGS) == set(get_args(Encoding)) == set(SENT_ENCODINGS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gray_is_the_brightness_of_the_colours(dtype: type[np.generic]) -> None:
    made = PREPROCESS[Gray](Gray(op="gray"))
    datatype = {np.uint8: "UINT8", np.uint16: "UINT16", np.float32: "FP32"}[dtype]
    spec = TensorSpec.model_validate({"name": "x", "datatype": datatype, "shape": (-1, -1, 3)})
    assert made.fit((-1, -1, 3), spec, "input[0]") == (-1, -1, 1)
    picture = np.array([[[200, 100, 50], [7, 7, 7]]], dtype)
    gray, placement = made.move(picture, (0.0, 0.0, 1.0, 1.0))
    assert (gray.shape, gray.dtype, placement) == ((1, 2, 1), dtype, (0.0, 0.0, 1.0, 1.0))
    np.testing.assert_allclose(gray[0, :, 0], [0.299 * 200 + 0.587 * 100 + 0.114 * 50, 7], atol=0.5)


def test_a_picture_in_colour_becomes_gray_where_the_model_says_so() -> None:
    spec = TensorSpec(name="x", datatype="UINT8", shape=(-1, -1, 3), encodings=("PNG",), bytes_max=1 << 20)
    steps = (Gray(op="gray"), Resize(op="resize", width=2, height=2))
    made = Reader(spec, np.dtype(np.float32), [PREPROCESS[type(step)](step) for step in steps])
    assert made.row_shape == (2, 2, 1)
    payload = cv2.imencode(".png", np.full((4, 4, 3), (50, 100, 200), np.uint8))[1].tobytes()  # BGR
    row, _ = made.read(memoryview(payload), "PNG", (), None, None)
    np.testing.assert_array_equal(row, np.full((2, 2, 1), 124))


def test_gray_needs_colours() -> None:
    spec = TensorSpec(name="x", datatype="UINT8", shape=(8, 8, 1))
    with pytest.raises(LoadError, match="gray takes pictures of 3 channels, not 1; leave it out"):
        PREPROCESS[Gray](Gray(op="gray")).fit((8, 8, 1), spec, "input[0]")


def test_letterbox_reports_where_the_picture_lies_however_it_lay_before() -> None:
    made = PREPROCESS[Resize](Resize(op="resize", width=40, height=40, mode="letterbox"))
    made.fit((-1, -1, 3), TensorSpec(name="x", datatype="UINT8", shape=(-1, -1, 3)), "input[0]")
    picture = np.zeros((20, 40, 3), np.uint8)
    assert made.move(picture, (0.0, 0.0, 1.0, 1.0))[1] == pytest.approx((0, 0.25, 1, 0.5))
    # What was sent lies in the right half of it.
    assert made.move(picture, (0.5, 0.0, 0.5, 1.0))[1] == pytest.approx((0.5, 0.25, 0.5, 0.5))


def test_frames_share_no_buffer_where_rows_are_their_own() -> None:
    """Rows of frames with inputs of open size are kept until the batch runs."""
    spec = TensorSpec(name="x", datatype="UINT8", shape=(-1, -1, 3), bytes_max=1 << 20)
    steps = (Resize(op="resize", width=4, height=4), Layout(op="layout"))
    made = Reader(spec, np.dtype(np.uint8), [PREPROCESS[type(step)](step) for step in steps])
    rows = [made.read(memoryview(bytes([n] * 12)), "", (2, 2, 3), None, None)[0] for n in (1, 2)]
    assert [row.max() for row in rows] == [1, 2]


def test_factors_are_combined_once() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(2,), bytes_max=8)
    step = Normalise(op="normalise", scale=2)
    with pytest.raises(AssertionError, match="no operation before it computes anything"):
        Reader(spec, np.dtype(np.float32), [PREPROCESS[Normalise](step), PREPROCESS[Normalise](step)])
