"""Boxes and classes in the outputs of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duly_ros2.settings import Classification, Detections

BOXES_MAX = 1000
"""Boxes of one frame that are published, the first ones."""


class Unusable(ValueError):
    """Outputs are not what is to be published; says what they are and what would be right."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A class and how sure the model is of it."""

    name: str
    score: float


@dataclass(frozen=True, slots=True)
class Box:
    """A box around something, in pixels."""

    centre_x: float
    centre_y: float
    width: float
    height: float
    scored: Scored


def boxes_of(
    outputs: Mapping[str, NDArray[np.generic]],
    labels: Mapping[str, Sequence[str]],
    wanted: Detections,
    size: tuple[int, int],
) -> list[Box]:
    """Boxes in the picture's pixels, in the order of the outputs. `labels`: names of the classes, by output. `size`:
    width and height of the picture in pixels. Raises Unusable.
    """
    missing = [name for name in (wanted.boxes, wanted.scores, wanted.classes) if name not in outputs]
    if missing:
        raise Unusable(f"detections: the model has no output {missing[0]!r}; it has {', '.join(outputs)}")
    boxes = np.asarray(outputs[wanted.boxes], np.float64)[:BOXES_MAX]
    scores = np.asarray(outputs[wanted.scores], np.float64)[:BOXES_MAX]
    classes = np.asarray(outputs[wanted.classes], np.int64)[:BOXES_MAX]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1] or classes.shape != scores.shape:
        raise Unusable(
            f"detections: boxes are {list(boxes.shape)}, scores {list(scores.shape)} and classes "
            f"{list(classes.shape)}; expected [n, 4], [n] and [n]"
        )
    if wanted.units == "picture":
        if size == (0, 0) and len(boxes):
            raise Unusable("detections: boxes are in parts of a picture, whose size is not known; state units: pixels")
        boxes = boxes * [size[0], size[1], size[0], size[1]]
    names = labels.get(wanted.classes, ())
    return [
        Box((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, Scored(_name(names, which), score))
        for (x0, y0, x1, y1), score, which in zip(boxes.tolist(), scores.tolist(), classes.tolist(), strict=True)
    ]


def classes_of(
    outputs: Mapping[str, NDArray[np.generic]], labels: Mapping[str, Sequence[str]], wanted: Classification
) -> list[Scored]:
    """The classes with the best scores, the best first. Raises Unusable."""
    name = wanted.output or (next(iter(outputs)) if len(outputs) == 1 else "")
    if name not in outputs:
        raise Unusable(f"classification: output {name!r} is none of {', '.join(outputs)}")
    scores = np.asarray(outputs[name], np.float64).ravel()
    best = np.argsort(-scores, kind="stable")[: wanted.best]
    return [Scored(_name(labels.get(name, ()), int(which)), float(scores[which])) for which in best]


def _name(names: Sequence[str], which: int) -> str:
    return names[which] if 0 <= which < len(names) else str(which)
