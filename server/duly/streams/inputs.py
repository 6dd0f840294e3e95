"""Checks what a frame holds against what its model takes, and turns it into a payload.

A frame that does not fit is INVALID with a reason; it never ends its stream. Bytes are only measured here, and of a
picture no more than its header is read: decoding it and searching for NaN is the worker's work.
"""

from math import prod

from duly.models.spec import ELEMENT_BYTES, PIXELS_MAX, TEXT_ELEMENTS_MAX, VIDEO, Signature, TensorSpec
from duly.runtime.held_frames import InputData
from duly.runtime.shared_memory import SharedData
from duly.streams.errors import InvalidFrame
from duly.worker.channel import DIMS_MAX, ENCODINGS
from duly.worker.picture_size import beyond, no_picture, picture_size
from duly.worker.video_units import begins_as_video, packed_bytes

_SOUND = "PCM_S16LE"
_ENCODING = {name: index for index, name in enumerate(ENCODINGS)}


class _Input:
    __slots__ = ("element_bytes", "encodings", "fixed_bytes", "is_text", "needed_max", "pixels_max", "samples", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.element_bytes = ELEMENT_BYTES[spec.datatype]
        self.is_text = spec.is_text
        self.fixed_bytes = 0 if -1 in spec.shape else prod(spec.shape) * self.element_bytes
        """Length of the data where the shape is fixed, else 0; of text the least."""
        self.needed_max = (
            min(spec.bytes_max, TEXT_ELEMENTS_MAX * self.element_bytes) if spec.is_text else spec.bytes_max
        )
        """What a shape may take; of text, as many elements as are read."""
        self.encodings = frozenset(spec.encodings)
        self.pixels_max = spec.pixels_max or PIXELS_MAX
        self.samples = spec.shape[0] if _SOUND in spec.encodings and spec.shape[0] > 0 else 0
        """Samples of each sound where their number is fixed, else 0."""


class InputChecks:
    """Checks the inputs of frames for one model version."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.count = len(signature.inputs)
        self._inputs = [_Input(spec) for spec in signature.inputs]
        self._index = {spec.name: index for index, spec in enumerate(signature.inputs)}
        if self.count == 1:
            self._index[""] = 0  # the only one need not be named

    def index(self, name: str) -> int:
        """Returns the place of an input in the payload. Raises InvalidFrame where the model has no such input."""
        index = self._index.get(name)
        if index is None:
            what = f"there is no input {name!r}" if name else "an input has no name"
            raise InvalidFrame(f"{what}; the model takes {self._names()}")
        return index

    def tensor(
        self, index: int, datatype: str, shape: tuple[int, ...], data: bytes | memoryview | SharedData
    ) -> InputData:
        """Returns an array for that input. `data` is little-endian and row-major; only its length is looked at. An
        empty `datatype` stands for the model's own, and an empty `shape` for the model's own where that is fixed.
        Raises InvalidFrame.
        """
        expected = self._inputs[index]
        spec = expected.spec
        if datatype != spec.datatype and datatype:
            raise InvalidFrame(f"input {spec.name!r}: datatype {datatype}, the model takes {spec.datatype}")
        if len(shape) > DIMS_MAX:
            raise InvalidFrame(f"input {spec.name!r}: {len(shape)} dimensions, at most {DIMS_MAX} are taken")
        if not shape and expected.fixed_bytes:
            shape = spec.shape
        elif (shape != spec.shape or -1 in shape) and not fits(shape, spec.shape):
            fitted = _with_or_without_one(shape, spec.shape)
            if fitted is None:
                raise InvalidFrame(f"input {spec.name!r}: shape {list(shape)}, the model takes {list(spec.shape)}")
            shape = fitted
        needed = expected.fixed_bytes or prod(shape) * expected.element_bytes
        if len(data) != needed:
            _check_length(expected, shape, len(data), needed)
        if needed > expected.needed_max:
            raise InvalidFrame(_too_many(spec, shape, needed))
        if (
            not needed
            and -1 in spec.shape
            and prod(max(extent, 1) for extent in shape) * expected.element_bytes > spec.bytes_max
        ):
            text = f"shape {list(shape)} is empty, but its other extents are beyond any frame's"
            raise InvalidFrame(f"input {spec.name!r}: {text}")
        return InputData(0, shape, data)

    def check_encoded(self, index: int, encoding: str, size_bytes: int) -> None:
        """Checks what can be told of an encoded picture or sound from its size. Raises InvalidFrame."""
        expected = self._inputs[index]
        spec = expected.spec
        if encoding not in expected.encodings:
            takes = ", ".join(spec.encodings) or "only tensors"
            raise InvalidFrame(f"input {spec.name!r}: {encoding} is not taken, the model takes {takes}")
        if not size_bytes:
            raise InvalidFrame(f"input {spec.name!r}: no bytes")
        needed = packed_bytes(1, size_bytes) if encoding in VIDEO else size_bytes  # as its worker gets it
        if needed > spec.bytes_max:
            raise InvalidFrame(_too_large(spec, needed))
        samples = expected.samples
        if encoding == _SOUND and samples and size_bytes != 2 * samples:
            raise InvalidFrame(
                f"input {spec.name!r}: {size_bytes} bytes, {samples} samples of {encoding} take {2 * samples}"
            )

    def encoded(self, index: int, encoding: str, data: bytes) -> InputData:
        """Returns an encoded picture, access unit or sound for that input. Raises InvalidFrame."""
        self.check_encoded(index, encoding, len(data))
        if encoding == _SOUND:
            return InputData(_ENCODING[encoding], (), data)
        expected = self._inputs[index]
        spec = expected.spec
        if encoding in VIDEO:
            if not begins_as_video(data):
                raise InvalidFrame(
                    f"input {spec.name!r}: its {len(data)} bytes do not begin as {encoding} with start codes (Annex B) "
                    "does, 00 00 01; the packets of MP4 files have to be converted (h264_mp4toannexb of FFmpeg)"
                )
            return InputData(_ENCODING[encoding], (), data)
        size = picture_size(data, encoding)
        if size is None:
            raise InvalidFrame(f"input {spec.name!r}: {no_picture(data, encoding)}")
        if excess := beyond(size, expected.pixels_max, encoding):
            raise InvalidFrame(f"input {spec.name!r}: {excess}")
        return InputData(_ENCODING[encoding], (size.height, size.width, size.passes), data)

    def put(self, payload: list[InputData | None], index: int, data: InputData) -> None:
        """Puts an input into its place in the payload. Raises InvalidFrame where the input is there already."""
        if payload[index] is not None:
            raise InvalidFrame(f"input {self._inputs[index].spec.name!r} is there twice")
        payload[index] = data

    def complete(self, payload: list[InputData | None]) -> list[InputData]:
        """Returns all inputs, in their order. Raises InvalidFrame where one is missing."""
        whole: list[InputData] = []
        for data, expected in zip(payload, self._inputs, strict=True):
            if data is None:
                raise InvalidFrame(f"input {expected.spec.name!r} is missing; the model takes {self._names()}")
            whole.append(data)
        return whole

    def _names(self) -> str:
        return ", ".join(repr(spec.name) for spec in self.signature.inputs)


def _with_or_without_one(shape: tuple[int, ...], expected: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape without a batch dimension of 1, which most arrays have and frames do not, or with a first dimension of
    1 that the model takes and the array lacks; None: neither fits.
    """
    if shape[:1] == (1,) and fits(shape[1:], expected):
        return shape[1:]
    if shape and expected[:1] in ((1,), (-1,)) and fits((1, *shape), expected):
        return (1, *shape)
    return None


def fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether an array of that shape is one of the expected shape, in which -1 stands for any extent."""
    return len(shape) == len(expected) and all(
        extent >= 0 and want in (-1, extent) for extent, want in zip(shape, expected, strict=True)
    )


def _check_length(expected: _Input, shape: tuple[int, ...], size: int, needed: int) -> None:
    """Checks data of `size` bytes that are not the `needed` ones of that shape. Raises InvalidFrame unless they may be
    text, of which more than the lengths of its elements are to come.
    """
    spec = expected.spec
    if not expected.is_text or size < needed or not needed:
        least = "at least " if expected.is_text else ""
        text = f"{size} bytes, {spec.datatype}{list(shape)} takes {least}{needed}"
        raise InvalidFrame(f"input {spec.name!r}: {text}")
    if size > spec.bytes_max:
        raise InvalidFrame(_too_large(spec, size))


def _too_many(spec: TensorSpec, shape: tuple[int, ...], needed: int) -> str:
    if not spec.is_text or needed <= TEXT_ELEMENTS_MAX * ELEMENT_BYTES["STRING"]:
        return _too_large(spec, needed)
    return f"input {spec.name!r}: {prod(shape):,} elements of text, at most {TEXT_ELEMENTS_MAX:,} are taken"


def _too_large(spec: TensorSpec, size: int) -> str:
    most = f"at most {spec.bytes_max} are taken (bytes_max of [[input]], or less by the server's limits)"
    return f"input {spec.name!r}: {size} bytes, {most}"
