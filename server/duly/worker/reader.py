"""Turns what a client sends for one input of one frame into one row of the batch that the graph reads."""

from collections.abc import Callable, Sequence
from math import isfinite, prod
from typing import Any

import numpy as np

from duly.models.spec import VIDEO, TensorSpec
from duly.worker.channel import ROW_HEAD
from duly.worker.decode import ENCODINGS, Decode, tensor, texts
from duly.worker.dtypes import DTYPES, TEXT, Array
from duly.worker.errors import InvalidFrame
from duly.worker.graph import is_fixed
from duly.worker.opencv import cv2, raise_for_memory
from duly.worker.ops.operation import WHOLE_PICTURE, Operation, Placement, Shape


class Reader:
    """Reads the payloads of one input, with as few passes over the data as it can."""

    def __init__(
        self, spec: TensorSpec, dtype: "np.dtype[Any]", operations: Sequence[Operation] = (), place: str = ""
    ) -> None:
        """`spec`: what clients send. `dtype`: the element type of rows. `place`: the input in model.toml, for errors.

        Raises:
            LoadError: an operation cannot be applied to what comes to it.
        """
        self.spec = spec
        self.dtype = dtype
        shape = spec.shape
        affine = None
        for operation in operations:
            shape = operation.fit(shape, spec, place)
            affine = operation.arithmetic(affine)
        decoders = {name: ENCODINGS[name].decode for name in spec.encodings}
        self._decode: dict[str, Decode] = {name: each for name, each in decoders.items() if each is not None}
        self._factor = None if affine is None else affine.factor
        self._offset = None if affine is None else affine.offset
        self._silence: Array | float = 0.0 if self._offset is None else self._offset
        self._picture = any(operation.domain == "picture" for operation in operations)
        self._moves = [each.move for each in operations if type(each).move is not Operation.move]
        self._operations = operations
        self._places = [each.place for each in reversed(operations) if type(each).place is not Operation.place]
        self.row_shape = self._row_shape(shape)
        """The shape of one frame as the graph takes it, without the batch dimension; -1 stands for any extent."""
        self.context = sum(operation.context for operation in operations)
        """Elements at the end of a row that begin the stream's next one."""
        self.sized = is_fixed(self.row_shape) and dtype != TEXT
        """Whether all rows have the same size in bytes."""
        self._tensor = texts if spec.is_text else tensor
        self.as_is = (
            self.sized
            and self.row_shape == spec.shape
            and not self._moves
            and affine is None
            and dtype == DTYPES[spec.datatype]
            and spec.datatype != "BOOL"  # whose bytes must be looked at
            and not spec.encodings
        )
        """True where payloads are rows already and their size is fixed: nothing is to be read."""

    @property
    def remembers(self) -> bool:
        """Something of a frame is kept for the next frame of the same stream."""
        return bool(self.context) or not set(VIDEO).isdisjoint(self.spec.encodings)

    @property
    def computes(self) -> bool:
        """Some operation does arithmetic, whose results are floating point."""
        return self._factor is not None

    @property
    def arithmetic(self) -> str:
        """What is computed of each element, in words; empty: nothing."""
        return "" if self._factor is None else f" times {self._factor} plus {self._offset}"

    def read(
        self,
        payload: memoryview,
        encoding: str,
        shape: Shape,
        row: Array | None,
        context: Array | None,
        look: Callable[[Array], None] | None = None,
    ) -> tuple[Array, Placement]:
        """Fills `row`, or a new array where `row` is None. Returns it, and where a picture lies in it.

        `context`: the end of the stream's last row; None: the stream is new. `look` is called with what is decoded, for
        guards; None: there are none, or the row was read elsewhere and `look_of_row` has what was seen of it.

        Raises:
            InvalidFrame: the payload is not what the spec asks for.
            MemoryError: there is no memory for what comes out, whatever the payload is.
        """
        if encoding == "ROW":
            return self._take(payload, row)
        spec, decode = self.spec, self._decode.get(encoding)
        value = self._tensor(payload, encoding, shape, spec) if decode is None else decode(payload, encoding, spec)
        return self.fill(value, bool(encoding), row, context, look)

    def fill(
        self,
        value: Array,
        decoded: bool,
        row: Array | None,
        context: Array | None,
        look: Callable[[Array], None] | None = None,
    ) -> tuple[Array, Placement]:
        """Does as `read` with what is decoded, or came as it is. Raises InvalidFrame or MemoryError."""
        spec = self.spec
        if look is not None:
            look(value)
        if not value.size and (self._picture or decoded):
            raise InvalidFrame(f"input '{spec.name}' is empty: its shape is {list(value.shape)}")
        placement = WHOLE_PICTURE
        try:
            for move in self._moves:
                value, placement = move(value, placement)
        except cv2.error as error:
            raise_for_memory(error)
            raise
        factor = self._factor
        if row is None:
            untouched = factor is None and not self._moves and not self._places
            if untouched and value.dtype == self.dtype and value.flags.aligned:
                return value, placement
            row = np.empty(self._row_shape(value.shape), self.dtype)
        target = row
        for place in self._places:
            target = place(target, context, self._silence)
        if factor is None:
            np.copyto(target, value, casting="same_kind")
        else:
            np.multiply(value, factor, out=target, casting="same_kind")
            if self._offset is not None:
                np.add(target, self._offset, out=target, casting="same_kind")
        return row, placement

    def _take(self, payload: memoryview, row: Array | None) -> tuple[Array, Placement]:
        """Takes a row that was read elsewhere."""
        size = prod(self.row_shape) * self.dtype.itemsize
        if len(payload) != ROW_HEAD.size + size or not self.spec.pixels_max:
            raise InvalidFrame(f"input '{self.spec.name}': {len(payload)} bytes are no row of it")
        x, y, width, height = ROW_HEAD.unpack_from(payload)[:4]
        placement = x, y, width, height
        if not all(map(isfinite, placement)):
            raise InvalidFrame(f"input '{self.spec.name}': its picture lies nowhere")
        value = np.frombuffer(payload, self.dtype, offset=ROW_HEAD.size).reshape(self.row_shape)
        if row is None:
            return value.copy(), placement
        np.copyto(row, value)
        return row, placement

    def _row_shape(self, shape: Shape) -> Shape:
        for operation in self._operations:
            shape = operation.row_shape(shape)
        return shape
