"""Resizes a picture to the height and width that the graph takes."""

import numpy as np

from duly.models.spec import TensorSpec
from duly.models.steps import Resize
from duly.worker.dtypes import DTYPES, Array
from duly.worker.errors import LoadError
from duly.worker.opencv import cv2
from duly.worker.ops.operation import PICTURE_DATATYPES, Operation, Placement, Shape

PAD = 114
"""The gray that letterbox fills UINT8 with, as YOLO's authors do."""


class ResizeOperation(Operation):
    """Bilinear, as OpenCV does it. A picture that has the size already is not touched."""

    domain = "picture"
    datatype = "UINT8"

    def __init__(self, settings: Resize) -> None:
        self._settings = settings

    def takes(self, shape: Shape) -> Shape:
        return (-1, -1, *shape[2:])

    def fit(self, shape: Shape, sent: TensorSpec, place: str) -> Shape:
        if sent.datatype not in PICTURE_DATATYPES:
            raise LoadError(f"{place}.datatype: resize takes {' or '.join(PICTURE_DATATYPES)}, not {sent.datatype}")
        resized = (self._settings.height, self._settings.width, shape[2])
        self._canvas = np.empty(resized, DTYPES[sent.datatype])
        self._pad = self._fitting_pad(sent.datatype, place)
        return resized

    def _fitting_pad(self, datatype: str, place: str) -> int:
        """Returns what letterbox fills with. Raises LoadError where there is no such pixel, or none is usual."""
        pad = self._settings.pad
        if self._settings.mode != "letterbox":
            return 0
        if pad is None and datatype != "UINT8":
            raise LoadError(f"{place}.preprocess: resize.pad: letterbox of {datatype} has no usual pad; state one")
        if pad is not None and pad > 255 and datatype == "UINT8":
            raise LoadError(f"{place}.preprocess: resize.pad: {pad} is no UINT8; it must be 0 to 255")
        return PAD if pad is None else pad

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
        canvas.fill(self._pad)
        inner = canvas[top : top + inner_height, left : left + inner_width]
        inner[...] = cv2.resize(value, (inner_width, inner_height)).reshape(inner.shape)
        before_left, before_top, before_width, before_height = placement
        return canvas, (
            (left + before_left * inner_width) / width,
            (top + before_top * inner_height) / height,
            before_width * inner_width / width,
            before_height * inner_height / height,
        )
