"""How alike two sets of boxes are: the F1 of those that stand for the same thing."""

from dataclasses import dataclass

import numpy as np

from duly.agreement.measures import Array, Outputs

BOXES_MAX = 300
"""Of one answer, so many boxes are compared, the first of them, which are the best where a detector gives them so."""


@dataclass(frozen=True, slots=True)
class BoxesF1:
    """2 * matched / (expected + got), where boxes are matched one to one, the first ones first, if they are of one
    class and their intersection is at least `iou_min` of their union. Two answers without boxes are the same.

    The outputs are `boxes` [n, 4] (x0, y0, x1, y1), and `classes` [n] where the model gives them.
    """

    iou_min: float = 0.5
    boxes: str = "boxes"
    classes: str = "classes"
    name: str = "boxes"

    def of(self, expected: Outputs, got: Outputs) -> float:
        wanted, given = _boxes(expected[self.boxes]), _boxes(got[self.boxes])
        if not len(wanted) and not len(given):
            return 1.0
        if not len(wanted) or not len(given):
            return 0.0
        overlap = iou(wanted, given)
        if self.classes in expected and self.classes in got:
            of_wanted, of_given = (
                np.asarray(each[self.classes]).ravel()[: len(boxes)]
                for each, boxes in ((expected, wanted), (got, given))
            )
            if len(of_wanted) != len(wanted) or len(of_given) != len(given):
                return 0.0
            overlap = np.where(of_wanted[:, None] == of_given[None, :], overlap, 0.0)
        return 2.0 * _matched(overlap, self.iou_min) / (len(wanted) + len(given))

    def margin(self, expected: Outputs, got: Outputs) -> float:
        return self.of(expected, got)


def iou(a: Array, b: Array) -> Array:
    """Returns the intersection over union of each box of `a` [n, 4] with each of `b` [m, 4], as [n, m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = (np.prod(np.clip(each[:, 2:] - each[:, :2], 0, None), axis=1) for each in (a, b))
    union = area_a[:, None] + area_b[None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _boxes(boxes: Array) -> Array:
    return np.nan_to_num(np.asarray(boxes, np.float64).reshape(-1, 4)[:BOXES_MAX])


def _matched(overlap: Array, iou_min: float) -> int:
    """Counts the pairs: each expected box, in order, takes the box left that overlaps it most."""
    count = 0
    left = overlap.copy()
    for row in left:
        best = int(row.argmax())
        if row[best] >= iou_min and row[best] > 0:
            count += 1
            left[:, best] = 0.0
    return count
