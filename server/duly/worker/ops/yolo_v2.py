"""The region layer of YOLOv2 turns the grid that a graph gives into boxes, scores and classes."""

import numpy as np

from duly.models.spec import ELEMENT_BYTES, TensorSpec, YoloV2
from duly.worker.dtypes import DTYPES, Array
from duly.worker.errors import LoadError
from duly.worker.graph import GraphTensor, extents
from duly.worker.ops.operation import WHOLE_PICTURE, Placement, PostOperation

CANDIDATES_MAX = 2048
"""The number of best boxes that enter non-maximum suppression. Precedent: torchvision's detectors keep 1000 or 2000."""


class YoloV2Operation(PostOperation):
    def __init__(self, settings: YoloV2, grid: GraphTensor) -> None:
        """Raises LoadError where the graph's output is no grid for these settings."""
        shape = extents(grid.shape)[1:]
        if grid.datatype not in ("FP16", "FP32", "FP64") or len(shape) != 3 or shape[0] < 0:
            raise LoadError(
                f"postprocess.tensor: '{grid.name}' is {grid.datatype}{list(grid.shape)}; "
                "a grid must be of floating point and [batch, channels, H, W] with its channels fixed"
            )
        anchors = len(settings.anchors)
        values, rest = divmod(shape[0], anchors)
        if rest or values <= 5:
            raise LoadError(
                f"postprocess.anchors: {anchors} anchors do not fit the grid's {shape[0]} channels, which must be "
                "anchors * (5 + classes)"
            )
        count = settings.detections_max
        self._settings = settings
        self.tensor = grid.name
        self.dtype = DTYPES[grid.datatype]
        self.row_shape = shape
        self.specs = (
            TensorSpec(name="boxes", datatype="FP32", shape=(-1, 4), bytes_max=count * 4 * ELEMENT_BYTES["FP32"]),
            TensorSpec(name="scores", datatype="FP32", shape=(-1,), bytes_max=count * ELEMENT_BYTES["FP32"]),
            TensorSpec(name="classes", datatype="INT64", shape=(-1,), bytes_max=count * ELEMENT_BYTES["INT64"]),
        )

    def apply(self, row: Array, placement: Placement) -> tuple[Array, Array, Array]:
        return yolo_v2(row, self._settings, placement)


def yolo_v2(grid: Array, config: YoloV2, placement: Placement = WHOLE_PICTURE) -> tuple[Array, Array, Array]:
    """Returns boxes FP32[n,4] (x0, y0, x1, y1 in 0..1 of the picture), scores FP32[n] and classes INT64[n], best first.

    This is the region layer of YOLO9000 (Redmon and Farhadi 2016, section 2). A sigmoid gives x and y within the cell,
    an exponential times the anchor gives width and height, and a score is objectness * softmax of the classes.

    Args:
        grid: [anchors * (5 + classes), H, W], floating point.
        config: anchors in cells, thresholds and bounds.
        placement: where the picture lies in what the graph saw; a letterbox does not fill it.
    """
    anchors = np.asarray(config.anchors, np.float32)
    _, rows, columns = grid.shape
    cells = grid.reshape(len(anchors), -1, rows, columns)
    with np.errstate(over="ignore", invalid="ignore"):
        objectness = _sigmoid(cells[:, 4].astype(np.float32))
        # A score is at most the objectness, so few cells are left for what follows.
        anchor, row, column = np.nonzero(objectness >= config.score_min)
        found = cells[anchor, :, row, column].astype(np.float32)
        scores = objectness[anchor, row, column, None] * _softmax(found[:, 5:])
        cell, classes = np.nonzero(scores >= config.score_min)
        scores = scores[cell, classes]
        best = np.argsort(-scores, kind="stable")[:CANDIDATES_MAX]
        cell, classes, scores = cell[best], classes[best], scores[best]
        centre_x = (_sigmoid(found[cell, 0]) + column[cell]) / columns
        centre_y = (_sigmoid(found[cell, 1]) + row[cell]) / rows
        width = np.exp(found[cell, 2]) * anchors[anchor[cell], 0] / columns
        height = np.exp(found[cell, 3]) * anchors[anchor[cell], 1] / rows
    boxes = np.stack((centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2), axis=1)
    left, top, extent_x, extent_y = placement
    boxes = (boxes - (left, top, left, top)) / (extent_x, extent_y, extent_x, extent_y)
    boxes = np.clip(boxes, 0, 1).astype(np.float32)
    kept = _suppress(boxes, classes, config.iou_max, config.detections_max)
    return boxes[kept], scores[kept].astype(np.float32), classes[kept].astype(np.int64)


def _suppress(boxes: Array, classes: Array, iou_max: float, detections_max: int) -> list[int]:
    """Returns the indices, best first, of boxes that overlap no better one of their class by more than `iou_max`."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    waiting = np.arange(len(boxes))
    kept: list[int] = []
    while len(waiting) and len(kept) < detections_max:
        best, waiting = int(waiting[0]), waiting[1:]
        kept.append(best)
        corner_low = np.maximum(boxes[best, :2], boxes[waiting, :2])
        corner_high = np.minimum(boxes[best, 2:], boxes[waiting, 2:])
        overlap = np.prod(np.maximum(corner_high - corner_low, 0), axis=1)
        together = areas[best] + areas[waiting] - overlap
        waiting = waiting[(classes[waiting] != classes[best]) | (overlap <= iou_max * together)]
    return kept


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
