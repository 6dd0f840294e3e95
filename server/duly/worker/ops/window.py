"""Puts the end of a stream's last sound before the samples of its next frame."""

from duly.models.spec import TensorSpec
from duly.models.steps import Window
from duly.worker.dtypes import Array
from duly.worker.errors import LoadError
from duly.worker.ops.operation import Operation, Shape


class WindowOperation(Operation):
    domain = "sound"
    datatype = "FP32"

    def __init__(self, settings: Window) -> None:
        self._samples = settings.samples
        self.context = settings.context

    def takes(self, shape: Shape) -> Shape:
        return (self._samples,)

    def fit(self, shape: Shape, sent: TensorSpec, place: str) -> Shape:
        if shape != (self._samples,):
            raise LoadError(f"{place}.shape: {list(shape)} is not the window's {[self._samples]}; leave it out")
        return shape

    def row_shape(self, shape: Shape) -> Shape:
        return (self.context + self._samples,)

    def place(self, row: Array, context: Array | None, silence: Array | float) -> Array:
        row[: self.context] = silence if context is None else context
        return row[self.context :]
