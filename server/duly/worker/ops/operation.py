"""What an operation of `preprocess` and one of `postprocess` have to say and do.

A preprocessing operation takes part in the way of a frame at one or two of three places, which keep the number of
passes over the data small. `move` brings the elements into another shape or order, in the element type that the client
sends. Then one pass casts them to the graph's type and does the arithmetic of all operations (`arithmetic`) as it goes.
What that pass writes to is the row of the batch, or the part of it that `place` leaves for the frame.

Everything that can be wrong with an operation's settings is found when the model is loaded, by `fit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from duly.models.spec import TensorSpec
from duly.worker.dtypes import Array

Shape = tuple[int, ...]
"""Extents of one frame, without the batch dimension; -1 stands for any."""
PICTURE_DATATYPES = ("UINT8", "UINT16", "FP32")
"""The element types that a picture may have."""
Placement = tuple[float, float, float, float]
"""Where the picture lies in what the graph sees: left, top, width and height in 0..1."""
WHOLE_PICTURE: Placement = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Affine:
    """x * factor + offset, both of float32. They broadcast over the elements as the moves have left them."""

    factor: Array
    offset: Array | None
    """None is zero."""


class Operation:
    """A preprocessing operation of one input. A subclass is made from its settings and overrides what it does."""

    domain: ClassVar[Literal["picture", "sound"] | None] = None
    """What the operation can be applied to; None: to any numbers. Pictures are [height, width, channels]."""
    datatype: ClassVar[str | None] = None
    """The element type that clients send where the model states none; None: the operation does not care."""
    context = 0
    """Elements at the end of a row that begin the next row of the same stream."""

    # ---- when the model is loaded ----

    def takes(self, shape: Shape) -> Shape:
        """The shape that must come in for `shape` to come out. It is used where the model states no shape."""
        return shape

    def fit(self, shape: Shape, sent: TensorSpec, place: str) -> Shape:
        """Checks the settings against what comes in; returns the shape that comes out of `move`.

        `sent`: what clients send, whose element type the elements still have. `place`: the input in model.toml, for
        errors.

        Raises:
            LoadError: the operation cannot be applied.
        """
        return shape

    def row_shape(self, shape: Shape) -> Shape:
        """The shape of the row in which `place` finds room for elements of `shape`."""
        return shape

    def arithmetic(self, before: Affine | None) -> Affine | None:
        """`before` is what the operations before this one compute; the result includes what this one computes.

        An operation that moves channels has to move the factors of `before` likewise.
        """
        return before

    # ---- for every frame ----

    def move(self, value: Array, placement: Placement) -> tuple[Array, Placement]:
        """The elements in their new shape or order, and where a picture lies in them now.

        The result may be a buffer of the operation's own, which the next frame overwrites.

        Raises:
            InvalidFrame: the operation cannot be applied to this frame.
        """
        return value, placement

    def place(self, row: Array, context: Array | None, silence: Array | float) -> Array:
        """The part of `row` that is for the frame's own elements; the operation fills the rest.

        `context`: the end of the stream's last row; None: the stream is new. `silence`: what a zero that a client sends
        becomes in a row.
        """
        return row


class PostOperation(Protocol):
    """A postprocessing operation: one output of the graph becomes one or more outputs that clients get."""

    tensor: str
    """The graph output."""
    dtype: np.dtype[np.generic]
    """Its element type."""
    row_shape: Shape
    """Its shape for one frame."""
    specs: Sequence[TensorSpec]
    """What clients get."""

    def apply(self, row: Array, placement: Placement) -> Sequence[Array]:
        """One array for each of `specs`. `placement`: where the picture lies in what the graph saw."""
        ...
