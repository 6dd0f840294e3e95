"""Detections in the outputs of a model, and the size of the picture that they are in."""

import struct
from typing import NamedTuple

import numpy as np

from duly_client.convert import Array

DETECTIONS_MAX = 256
"""The most of one frame that are written; the best come first."""
NORMALISED_MAX = 1.5
"""Boxes of which no edge lies beyond are in shares of the picture, others in pixels."""


class Detection(NamedTuple):
    label: str
    score: float
    x0: float
    """Edges in shares of the picture's width and height, or in pixels, as the model gives them."""
    y0: float
    x1: float
    y1: float

    def in_pixels(self, size: tuple[int, int]) -> "Detection":
        """The same in a picture of this width and height."""
        if max(self[2:]) > NORMALISED_MAX:
            return self
        width, height = size
        return Detection(self.label, self.score, self.x0 * width, self.y0 * height, self.x1 * width, self.y1 * height)


def detections_of(outputs: dict[str, Array], labels: tuple[str, ...]) -> list[Detection]:
    """What stands in the outputs `boxes` [n,4], `scores` [n] and `classes` [n]; nothing where there are no such."""
    if not outputs.keys() >= {"boxes", "scores", "classes"}:
        return []
    boxes, scores, classes = outputs["boxes"], outputs["scores"].ravel(), outputs["classes"].ravel()
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes) == len(scores) == len(classes):
        return []
    found = []
    for box, score, number in zip(boxes.tolist(), scores.tolist(), classes.tolist(), strict=True):
        if np.isfinite((*box, score)).all():
            label = labels[int(number)] if 0 <= number < len(labels) else f"class {int(number)}"
            found.append(Detection(label, float(score), *map(float, box)))
    return found[:DETECTIONS_MAX]


def size_of(picture: bytes) -> tuple[int, int]:
    """Width and height in pixels as the header of a JPEG or PNG states them; (0, 0): it states none."""
    if picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) >= 24:
        width, height = struct.unpack(">II", picture[16:24])
        return width, height
    at = 2
    while picture[:2] == b"\xff\xd8" and at + 9 <= len(picture):
        if picture[at] != 0xFF:
            break
        marker, length = picture[at + 1], int.from_bytes(picture[at + 2 : at + 4], "big")
        if marker == 0xFF:  # padding
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", picture[at + 5 : at + 9])
            return width, height
        at += 2 + max(2, length)
    return 0, 0
