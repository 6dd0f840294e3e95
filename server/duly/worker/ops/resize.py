"""Resizes a picture to the height and width that the graph takes."""

import numpy as np

from duly.models.spec import Resize, TensorSpec
from duly.worker.dtypes import DTYPES, Array
from duly.worker.errors import LoadError
from duly.worker.opencv import cv2
from duly.worker.ops.operation import Operation, Placement, Shape


class ResizeOperation(Operation):
    """Bilinear, as OpenCV does it. A picture that has the size already is not touched."""

    domain = "picture"
    datatype = "UINT8"

    def __init__(self, settings: Resize) -> None:
        self._settings = settings

    def takes(self, shape: Shape) -> Shape:
        return (-1, -1, *shape[2:])

    def fit(self, shape: Shape, sent: TensorSpec, place: str) -> Shape:
        if sent.datatype != self.datatype:
            raise LoadError(f"{place}.datatype: resize takes {self.datatype}, not {sent.datatype}")
        resized = (self._settings.height, self._settings.width, shape[2])
        self._canvas = np.empty(resized, DTYPES[sent.datatype])
        return resized

    def move(self, value: Array, placement: Placement) -> tuple[Array, Placement]:
        canvas = self._canvas
        if value.shape == canvas.shape:
            return value, placement
        height, width = canvas.shape[:2]
        if self._settings.mode == "stretch":
            cv2.resize(value, (width, height), dst=canvas)
            return canvas, placement
        scale = min(height / value.shape[0], width / value.shape[1])
        inner_height = max(1, round(value.shape[0] * scale))
        inner_width = max(1, round(value.shape[1] * scale))
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        canvas.fill(self._settings.pad)
        inner = canvas[top : top + inner_height, left : left + inner_width]
        inner[...] = cv2.resize(value, (inner_width, inner_height)).reshape(inner.shape)
        before_left, before_top, before_width, before_height = placement
        return canvas, (
            (left + before_left * inner_width) / width,
            (top + before_top * inner_height) / height,
            before_width * inner_width / width,
            before_height * inner_height / height,
        )
