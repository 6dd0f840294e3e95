"""Makes one channel of brightness out of a picture in colour."""

from duly.models.spec import TensorSpec
from duly.models.steps import Gray
from duly.worker.dtypes import Array
from duly.worker.errors import LoadError
from duly.worker.opencv import cv2
from duly.worker.ops.operation import PICTURE_DATATYPES, Operation, Placement, Shape


class GrayOperation(Operation):
    """0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601), which is the brightness that a JPEG holds."""

    domain = "picture"

    def __init__(self, settings: Gray) -> None:
        pass

    def takes(self, shape: Shape) -> Shape:
        return (*shape[:2], 3)

    def fit(self, shape: Shape, sent: TensorSpec, place: str) -> Shape:
        if shape[2] != 3:
            raise LoadError(f"{place}.preprocess: gray takes pictures of 3 channels, not {shape[2]}; leave it out")
        if sent.datatype not in PICTURE_DATATYPES:
            raise LoadError(f"{place}.datatype: gray takes {' or '.join(PICTURE_DATATYPES)}, not {sent.datatype}")
        return (*shape[:2], 1)

    def move(self, value: Array, placement: Placement) -> tuple[Array, Placement]:
        return cv2.cvtColor(value, cv2.COLOR_RGB2GRAY)[..., None], placement
