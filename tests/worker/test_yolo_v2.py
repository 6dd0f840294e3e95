"""YOLOv2's grid to boxes, against the same written out cell by cell."""

from math import exp

import numpy as np
import pytest

from duly.models.spec import YoloV2
from duly.worker.dtypes import Array
from duly.worker.ops.yolo_v2 import yolo_v2

ANCHORS = ((1.0, 2.0), (3.0, 1.5))
CLASSES = 3
HIGH, WIDE = 4, 5


def config(**changes: object) -> YoloV2:
    return YoloV2.model_validate({"op": "yolo_v2", "tensor": "grid", "anchors": ANCHORS} | changes)


def silent_grid() -> Array:
    """Nothing is seen anywhere: every objectness is about exp(-20)."""
    grid = np.zeros((len(ANCHORS), 5 + CLASSES, HIGH, WIDE), np.float32)
    grid[:, 4] = -20
    return grid


def flat(grid: Array) -> Array:
    return grid.reshape(-1, HIGH, WIDE)


def slowly(grid: Array, score_min: float, iou_max: float) -> list[tuple[list[float], float, int]]:
    """Boxes, scores and classes as the paper and the region layer's own code have them."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + exp(-x))

    found = []
    for a, (anchor_width, anchor_height) in enumerate(ANCHORS):
        for row in range(HIGH):
            for column in range(WIDE):
                x, y, w, h, objectness, *classes = (float(v) for v in grid[a, :, row, column])
                powers = [exp(c - max(classes)) for c in classes]
                cx, cy = (column + sigmoid(x)) / WIDE, (row + sigmoid(y)) / HIGH
                bw, bh = anchor_width * exp(w) / WIDE, anchor_height * exp(h) / HIGH
                box = [min(max(v, 0), 1) for v in (cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2)]
                for index, power in enumerate(powers):
                    score = sigmoid(objectness) * power / sum(powers)
                    if score >= score_min:
                        found.append((box, score, index))
    found.sort(key=lambda detection: -detection[1])
    kept: list[tuple[list[float], float, int]] = []
    for box, score, index in found:
        if all(other != index or iou(box, better) <= iou_max for better, _, other in kept):
            kept.append((box, score, index))
    return kept


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


@pytest.mark.parametrize("seed", range(20))
def test_random_grids(seed: int) -> None:
    grid = np.random.default_rng(seed).normal(0, 1.5, (len(ANCHORS), 5 + CLASSES, HIGH, WIDE)).astype(np.float32)
    expected = slowly(grid, 0.2, 0.3)
    boxes, scores, classes = yolo_v2(flat(grid), config(score_min=0.2, iou_max=0.3))
    assert len(expected) > 3
    assert (boxes.dtype, scores.dtype, classes.dtype) == (np.float32, np.float32, np.int64)
    assert classes.tolist() == [index for _, _, index in expected]
    np.testing.assert_allclose(scores, [score for _, score, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(boxes, [box for box, _, _ in expected], atol=1e-5)


def test_nothing_seen_is_empty_arrays() -> None:
    boxes, scores, classes = yolo_v2(flat(silent_grid()), config())
    assert (boxes.shape, scores.shape, classes.shape) == ((0, 4), (0,), (0,))


def test_letterboxed_box_is_told_in_the_pictures_own_coordinates() -> None:
    # One box in the middle: half the height and half the width of what the graph saw.
    grid = silent_grid()
    column, row = 2, 2
    grid[0, :, row, column] = [0, -20, np.log(0.5 * WIDE / 1.0), np.log(0.5 * HIGH / 2.0), 20, 20, 0, 0]
    whole, _, _ = yolo_v2(flat(grid), config())
    np.testing.assert_allclose(whole, [[0.25, 0.25, 0.75, 0.75]], atol=1e-5)
    # The picture was wide: it lies in the middle half of the height, and fills the width.
    wide, _, _ = yolo_v2(flat(grid), config(), (0, 0.25, 1, 0.5))
    np.testing.assert_allclose(wide, [[0.25, 0, 0.75, 1]], atol=1e-5)
    tall, _, _ = yolo_v2(flat(grid), config(), (0.25, 0, 0.5, 1))
    np.testing.assert_allclose(tall, [[0, 0.25, 1, 0.75]], atol=1e-5)


def test_best_detections_are_kept_when_there_are_too_many() -> None:
    grid = silent_grid()
    grid[0, 2:4] = -2  # small boxes that do not touch
    grid[0, 4] = np.linspace(1, 6, HIGH * WIDE).reshape(HIGH, WIDE)
    grid[0, 5] = 20
    boxes, scores, _ = yolo_v2(flat(grid), config(detections_max=4))
    assert len(boxes) == 4
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.linspace(1, 6, 20)[::-1][:4])), rtol=1e-5)


def test_numbers_that_a_broken_model_gives_harm_nobody() -> None:
    grid = silent_grid()
    grid[0, :, 0, 0] = np.nan
    grid[0, :, 1, 1] = [0, 0, 500, 500, 500, 500, 0, 0]  # a box as large as float32 can say
    grid[1, :, 2, 2] = [-500, 500, -500, -500, 500, -500, 500, 0]
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        boxes, scores, classes = yolo_v2(flat(grid), config())
    assert classes.tolist() == [0, 1]
    np.testing.assert_array_equal(boxes[0], [0, 0, 1, 1])
    assert np.isfinite(boxes).all()
    np.testing.assert_array_equal(scores, [1, 1])


def test_half_precision_grid() -> None:
    grid = silent_grid().astype(np.float16)
    grid[0, :, 1, 1] = [0, 0, 0, 0, 8, 8, 0, 0]
    boxes, _, classes = yolo_v2(flat(grid), config())
    assert boxes.dtype == np.float32
    assert classes.tolist() == [0]
