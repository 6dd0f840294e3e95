"""Boxes and classes in the outputs of a model, and arrays in the form of its inputs."""

import numpy as np
import pytest

from duly_ros2.fitting import fitted
from duly_ros2.results import Box, Scored, Unusable, boxes_of, classes_of
from duly_ros2.settings import Classification, Detections

OUTPUTS = {
    "boxes": np.array([[0.25, 0.5, 0.75, 1.0]], np.float32),
    "scores": np.array([0.5], np.float32),
    "classes": np.array([1], np.int64),
}
LABELS = {"classes": ("person", "bicycle")}


def test_boxes_are_in_pixels() -> None:
    want = [Box(320, 360, 320, 240, Scored("bicycle", 0.5))]
    assert boxes_of(OUTPUTS, LABELS, Detections("~/b"), (640, 480)) == want
    pixels = OUTPUTS | {"boxes": np.array([[160, 240, 480, 480]], np.float32)}
    assert boxes_of(pixels, LABELS, Detections("~/b", units="pixels"), (0, 0)) == want
    assert boxes_of(OUTPUTS, {}, Detections("~/b"), (640, 480))[0].scored.name == "1"


@pytest.mark.parametrize(
    ("outputs", "size", "said"),
    [
        (OUTPUTS, (0, 0), "whose size is not known; state units: pixels"),
        ({"y": np.zeros(3)}, (1, 1), "the model has no output 'boxes'; it has y"),
        (
            OUTPUTS | {"scores": np.zeros(2)},
            (1, 1),
            r"scores \[2\] and classes \[1\]; expected \[n, 4\], \[n\] and \[n\]",
        ),
    ],
)
def test_outputs_that_are_no_boxes(outputs: dict[str, np.ndarray], size: tuple[int, int], said: str) -> None:
    with pytest.raises(Unusable, match=said):
        boxes_of(outputs, {}, Detections("~/b"), size)


def test_the_best_classes_come_first() -> None:
    outputs = {"scores": np.array([0.1, 0.7, 0.2], np.float32)}
    found = classes_of(outputs, {"scores": ("cat", "dog", "cup")}, Classification("~/c", best=2))
    assert [scored.name for scored in found] == ["dog", "cup"]
    with pytest.raises(Unusable, match="output 'other' is none of scores"):
        classes_of(outputs, {}, Classification("~/c", output="other"))


def test_arrays_take_the_form_of_an_input_without_a_copy() -> None:
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3)
    grey = fitted(picture, (-1, -1, 3), np.dtype(np.uint8), picture=True)
    assert grey.shape == (2, 3, 3)
    assert grey[1, 2].tolist() == [5, 5, 5]
    for shape in ((2, 3), (2, 3, 1), (1, 2, 3), (-1, -1), (1, 2, 3, 1)):
        made = fitted(picture, shape, np.dtype(np.uint8), picture=False)
        assert made.ndim == len(shape)
        assert np.shares_memory(made, picture)
    assert fitted(np.zeros(3), (3,), np.dtype(np.float32), picture=False).dtype == np.float32
    assert fitted(np.zeros(3, np.int16), (3,), np.dtype(np.float32), picture=False).dtype == np.int16
    assert fitted(picture, (9,), np.dtype(np.uint8), picture=False) is picture
