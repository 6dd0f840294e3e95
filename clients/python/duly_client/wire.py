"""Makes the bytes of frames on the wire.

Frames are written in protobuf's wire format by hand: the payload is copied once, from the caller's array into the
message. Protobuf's own objects copy it three times, each time into fresh memory, which took a third of the latency of a
150 KB frame over a local socket and 40 % of that of a 900 KB frame. Everything else of the protocol is small and goes
through protobuf's objects.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, cast

import numpy as np

from duly.v1 import inference_pb2, tensor_pb2
from duly_client.bfloat16 import BFLOAT16
from duly_client.convert import DATATYPES, Array, datatype_of, spelled
from duly_client.texts import TEXT_KINDS, text_bytes
from duly_client.types import ENCODINGS, Encoding, Payload, TensorSpec, Value

FRAME_FIELDS_BYTES_MAX = 64
"""Bytes that a StreamRequest with one frame takes at most besides the frame's inputs."""

ENCODED = 128
"""What is added to the number of an EncodedFormat, which no DataType comes near."""

# Tags of length-delimited fields in inference.proto and tensor.proto: field number << 3 | 2.
_REQUEST_FRAMES = b"\x12"
_BATCH_FRAME = b"\x0a"
_INFER_FRAME = b"\x22"
_FRAME_TENSOR = b"\x2a"
_FRAME_ENCODED = b"\x32"
_TENSOR_DATA = b"\x22"
_ENCODED_DATA = b"\x1a"

_new = tuple.__new__
"""Makes what has names in half of the time that calling its class takes."""
_FORMATS = {name: tensor_pb2.EncodedFormat.Name(number) for number, name in ENCODINGS.items()}
_NUMBERS = DATATYPES.keys() - {BFLOAT16}
"""The element types whose arrays go on the wire as NumPy has them in memory."""
_STRING = int(tensor_pb2.DATA_TYPE_STRING)
_KINDS = {dtype: int(tensor_pb2.DataType.Value(datatype_of(dtype))) for dtype in DATATYPES}
_MAGIC: tuple[tuple[bytes, Encoding], ...] = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"))
_UNLIKE_ANY = ("PCM_S16LE", "MJPEG", "H264", "HEVC")
"""What is stated holds for these: nothing tells them from one another, or from a picture by chance."""


Described = tuple[str, int, tuple[int, ...]]
"""An input's name, the number of its DataType, and its shape; where it is encoded, ENCODED and the number of its
EncodedFormat, and no shape."""


class Inputs(NamedTuple):
    """The inputs of a frame, as they go on the wire."""

    pieces: tuple[Any, ...]
    """Of each input the bytes of everything before its data, and its data: bytes or an array."""
    size: int
    """The bytes of all pieces together."""
    described: tuple[Described, ...]
    """What each input is."""


class Alike(NamedTuple):
    """Frames whose only input is an array of the same type and shape."""

    arrays: Array | Sequence[Array]
    """One behind the other along the first dimension, or each by itself."""
    size: int
    """The bytes of one frame as it goes on the wire."""
    data_bytes: int
    """The bytes of one array."""
    head: bytes
    """The bytes of everything before an array on the wire."""
    described: tuple[Described]

    def behind(self, count: int) -> "Alike":
        """All but so many first ones."""
        return self._replace(arrays=self.arrays[count:]) if count else self

    def inputs(self, nth: int) -> Inputs:
        """The inputs of one of the frames."""
        return Inputs((self.head, self.arrays[nth]), self.size, self.described)


Stamped = tuple[int, int, Inputs]
"""A frame with its id and its capture time by the wall clock of now."""


class FrameRequest(NamedTuple):
    """A StreamRequest with frames that waits."""

    message: bytes
    entries_at: int
    """Where the entries of its FrameBatch begin."""
    frames: int


def inputs_of(payload: Payload, encoding: Encoding | None, specs: Sequence[TensorSpec] | None) -> Inputs:
    """Makes the inputs of a frame and compares them with what the model takes; `specs` None: they are not compared.

    `encoding` states the format of byte strings that are no pictures. Raises TypeError and ValueError, which
    name the input, what was given and what was expected.
    """
    if not isinstance(payload, (np.ndarray, bytes)) and isinstance(payload, Mapping):
        return _named_inputs(dict(payload), encoding, specs)
    if specs is None:
        return _input_of("", payload, encoding, None)
    if len(specs) != 1:
        raise ValueError(f"the model takes the inputs {_listed(s.name for s in specs)}: send a dict with these names")
    return _input_of(specs[0].name, payload, encoding, specs[0])


def alike_of(payloads: Array | Sequence[Payload], specs: Sequence[TensorSpec]) -> Alike | None:
    """Looks at whether all payloads are arrays just as the model's only input takes them; None: they are not."""
    if len(specs) != 1 or len(payloads) == 0 or specs[0].dtype not in _NUMBERS:
        return None
    spec = specs[0]
    shape, dtype = spec.shape, spec.dtype
    if type(payloads) is np.ndarray:
        if payloads.dtype != dtype or payloads.shape[1:] != shape or not payloads.flags.c_contiguous:
            return None
    else:
        for each in payloads:
            if type(each) is not np.ndarray or each.dtype != dtype or each.shape != shape:
                return None
            if not each.flags.c_contiguous:
                return None
    data_bytes = prod(shape) * dtype.itemsize
    if not data_bytes:
        return None
    head, size, described = _tensor_parts(spec.name, dtype, shape)
    return Alike(cast("Array | Sequence[Array]", payloads), size, data_bytes, head, described)


def _named_inputs(named: Mapping[str, Value], encoding: Encoding | None, specs: Sequence[TensorSpec] | None) -> Inputs:
    if specs is None:
        inputs = [_input_of(name, value, encoding, None) for name, value in named.items()]
    elif named.keys() != {spec.name for spec in specs}:
        raise ValueError(f"a frame has the inputs {_listed(named)}, expected {_listed(s.name for s in specs)}")
    else:
        inputs = [_input_of(spec.name, named[spec.name], encoding, spec) for spec in specs]
    return Inputs(
        tuple(piece for each in inputs for piece in each.pieces),
        sum(each.size for each in inputs),
        tuple(each.described[0] for each in inputs),
    )


def _input_of(name: str, value: Value, encoding: Encoding | None, spec: TensorSpec | None) -> Inputs:
    if isinstance(value, np.ndarray):
        if type(value) is not np.ndarray and np.ma.is_masked(value):
            raise ValueError(f"input {name!r}: got a masked array; array.filled(number) says what stands in its gaps")
        dtype, shape = value.dtype, value.shape
        if spec is not None and (dtype != spec.dtype or shape != spec.shape):
            shape = _fitted_shape(value, spec)
        if dtype in _NUMBERS and value.flags.c_contiguous:
            array = value
        elif dtype.kind in TEXT_KINDS:
            return _text_of(name, value, shape)
        elif dtype == BFLOAT16:
            head, size, described = _tensor_parts(name, dtype, shape)
            return Inputs((head, np.ascontiguousarray(value).view(np.uint16)), size, described)
        else:
            array = _plain(value)
        head, size, described = _tensor_parts(name, array.dtype, shape)
        return _new(Inputs, ((head, array), size, described))
    if isinstance(value, (bytes, bytearray, memoryview)):
        found = _format_of(name, value, encoding, spec)
        data = value if isinstance(value, bytes) else bytes(value)
        head = _encoded_head(name, found, len(data))
        kind = ENCODED + tensor_pb2.EncodedFormat.Value(_FORMATS[found])
        return Inputs((head, data), len(head) + len(data), ((name, kind, ()),))
    if isinstance(value, str):
        text = np.array(value, object)
        if spec is None:
            return _text_of(name, text, ())
        if spec.datatype == "STRING":
            return _text_of(name, text, _fitted_shape(text, spec))
    expected = "a NumPy array, a str, or bytes of a picture or sound"
    if spec is not None:
        expected = _expected(spec)
    raise TypeError(f"input {name!r}: got {type(value).__name__}, expected {expected}")


def _text_of(name: str, array: Array, shape: tuple[int, ...]) -> Inputs:
    """Raises TypeError and ValueError where an element is no text."""
    try:
        data = text_bytes(array)
    except (TypeError, ValueError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"input {name!r}: {error}") from None
    fields = tensor_pb2.Tensor(name=name, datatype=tensor_pb2.DATA_TYPE_STRING, shape=shape).SerializeToString()
    head = _head(_FRAME_TENSOR, fields, _TENSOR_DATA, len(data))
    return Inputs((head, data), len(head) + len(data), ((name, _STRING, shape),))


def _format_of(
    name: str, value: bytes | bytearray | memoryview, encoding: Encoding | None, spec: TensorSpec | None
) -> Encoding:
    """Returns the encoding of a byte string, by its first bytes. Samples may begin as a picture does, so that what is
    stated counts for more where the model takes no such picture. Raises ValueError.
    """
    found = next((known for magic, known in _MAGIC if value[: len(magic)] == magic), encoding)
    if spec is None:
        found = encoding if encoding in _UNLIKE_ANY else found
    elif found == "JPEG" and "MJPEG" in spec.encodings and "JPEG" not in spec.encodings:
        found = "MJPEG"
    elif found not in spec.encodings and encoding in spec.encodings:
        found = encoding
    if found not in _FORMATS:
        formats = [*_FORMATS] if spec is None else [*spec.encodings]
        stated = f", and encoding is {found!r}" if not set(_UNLIKE_ANY).isdisjoint(formats) else ""
        wanted = f"{' or '.join(formats)} bytes" if spec is None else _expected(spec)
        raise ValueError(
            f"input {name!r}: got {len(value)} bytes that begin as neither JPEG nor PNG{stated}; expected {wanted}"
        )
    if spec is not None and found not in spec.encodings:
        raise ValueError(f"input {name!r}: got {found}, expected {_expected(spec)}")
    return found


def _fitted_shape(array: Array, spec: TensorSpec) -> tuple[int, ...]:
    """The shape to send: the array's, or that without a batch dimension of 1, which most arrays have and frames do not,
    or with a first dimension of 1 that the model takes and the array lacks. Raises ValueError where none fits.
    """
    shape = array.shape
    candidates = [shape]
    if shape[:1] == (1,):
        candidates.append(shape[1:])
    datatype = _datatype(array.dtype)
    if (shape or datatype == "STRING") and spec.shape[:1] in ((1,), (-1,)):
        candidates.append((1, *shape))
    fitted = next((candidate for candidate in candidates if _fits(candidate, spec.shape)), None)
    if fitted is None or datatype != spec.datatype:
        raise ValueError(f"input {spec.name!r}: got {spelled(datatype, shape)}, expected {_expected(spec)}")
    return fitted


def _datatype(dtype: np.dtype[Any]) -> str:
    """The name of the wire's DataType as which arrays of this type are sent; NumPy's own where they are not."""
    if dtype.kind in TEXT_KINDS:
        return "STRING"
    return DATATYPES.get(dtype.newbyteorder("<"), str(dtype))


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, extent) for w, extent in zip(wanted, shape, strict=True))


def _plain(array: Array) -> Array:
    """Returns an array with the same elements, little-endian and contiguous."""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _expected(spec: TensorSpec) -> str:
    return " or ".join((spelled(spec.datatype, spec.shape), *spec.encodings))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "(none)"


@lru_cache(maxsize=1024)
def _tensor_parts(
    name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> tuple[bytes, int, tuple[tuple[str, int, tuple[int, ...]]]]:
    """Everything of a tensor before its elements, the bytes of both, and what `Inputs` describes: they are the same for
    most frames of a stream.
    """
    fields = tensor_pb2.Tensor(name=name, datatype=datatype_of(dtype), shape=shape).SerializeToString()
    data_bytes = prod(shape) * dtype.itemsize
    head = _head(_FRAME_TENSOR, fields, _TENSOR_DATA, data_bytes)
    return head, len(head) + data_bytes, ((name, _KINDS[dtype], shape),)


def _encoded_head(name: str, encoding: Encoding, size: int) -> bytes:
    head = tensor_pb2.Encoded(name=name, format=_FORMATS[encoding]).SerializeToString()
    return _head(_FRAME_ENCODED, head, _ENCODED_DATA, size)


def _head(tag: bytes, fields: bytes, data_tag: bytes, size: int) -> bytes:
    fields += data_tag + _varint(size)
    return tag + _varint(len(fields) + size) + fields


@lru_cache(maxsize=1024)
def _tag_and_size(tag: bytes, size: int) -> bytes:
    """What comes before the `size` bytes of a field, which is the same for most frames of a stream."""
    return tag + _varint(size)


def frames_message(frames: Sequence[tuple[bytes, Inputs]]) -> tuple[bytes, int]:
    """Makes a StreamRequest with one frame or more: of each everything but its inputs, as bytes of a Frame, and its
    inputs. Returns it and where in it the entries of its FrameBatch begin. This copies the payloads.
    """
    pieces: list[Any] = [b""]
    batch_bytes = 0
    for fields, inputs in frames:
        size = len(fields) + inputs.size
        head = _tag_and_size(_BATCH_FRAME, size)
        pieces += (head, fields, *inputs.pieces)
        batch_bytes += len(head) + size
    pieces[0] = head = _tag_and_size(_REQUEST_FRAMES, batch_bytes)
    return b"".join(pieces), len(head)


def joined(requests: Sequence[FrameRequest]) -> bytes:
    """Makes one StreamRequest with the frames of all requests."""
    if len(requests) == 1:
        return requests[0].message
    entries = [memoryview(message)[entries_at:] for message, entries_at, _ in requests]
    return b"".join((_REQUEST_FRAMES, _varint(sum(map(len, entries))), *entries))


def infer_request(request: inference_pb2.InferRequest, fields: bytes, inputs: Inputs) -> bytes:
    """Makes a unary request; `request` holds all but the frame, `fields` are the bytes of a Frame with all but its
    inputs. It copies the payload.
    """
    head = _tag_and_size(_INFER_FRAME, len(fields) + inputs.size)
    return b"".join((request.SerializeToString(), head, fields, *inputs.pieces))


def _varint(number: int) -> bytes:
    """Encodes a whole number that is not negative as protobuf does."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
