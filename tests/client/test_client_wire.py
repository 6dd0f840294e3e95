"""Frames as bytes: every array comes back as it was, and what does not fit is named."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from duly.v1 import inference_pb2, tensor_pb2
from duly_client import wire
from duly_client.convert import DTYPES, tensor_array
from duly_client.errors import ProtocolError
from duly_client.types import Encoding, TensorSpec

JPEG = b"\xff\xd8\xff\xe0 and so on"
PNG = b"\x89PNG\r\n\x1a\n and so on"


def spec(name: str, datatype: str, *shape: int, encodings: tuple[Encoding, ...] = ()) -> TensorSpec:
    return TensorSpec(name, datatype, DTYPES[datatype], shape, encodings)


def sent(frame: inference_pb2.Frame, payload: Any, *specs: TensorSpec, encoding: Encoding | None = None) -> Any:
    """The frame as the server parses it."""
    inputs = wire.inputs_of(payload, encoding, specs or None)
    message, _ = wire.frames_message([(frame.SerializeToString(), inputs)])
    (received,) = inference_pb2.StreamRequest.FromString(message).frames.frames
    return received


@given(st.data(), st.sampled_from(sorted(DTYPES.keys() - {"STRING", "BF16"})), st.booleans(), st.booleans())
def test_arrays_of_every_type_come_back_as_they_were(
    data: st.DataObject, datatype: str, big_endian: bool, transposed: bool
) -> None:
    dtype = DTYPES[datatype].newbyteorder(">" if big_endian else "<")
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    array = data.draw(hnp.arrays(dtype, shapes))
    array = array.T if transposed else array
    frame = sent(inference_pb2.Frame(frame_id=1), array, spec("x", datatype, *array.shape))
    (tensor,) = frame.tensors
    assert tensor_pb2.DataType.Name(tensor.datatype) == f"DATA_TYPE_{datatype}"
    back = tensor_array(tensor)
    assert (back.dtype, back.shape) == (DTYPES[datatype], array.shape)
    np.testing.assert_array_equal(back, array)
    assert back.tobytes() == array.astype(DTYPES[datatype]).tobytes(), "NaN payloads and signed zeros too"


@given(
    frame_id=st.integers(1, 2**64 - 1),
    captured_ns=st.integers(0, 2**63 - 1),
    budget_ns=st.integers(0, 2**63 - 1),
    must_run=st.booleans(),
    inputs=st.dictionaries(st.text(max_size=200), st.binary(max_size=70_000).map(lambda tail: JPEG + tail), max_size=3),
)
def test_frames_are_what_protobuf_reads(
    frame_id: int, captured_ns: int, budget_ns: int, must_run: bool, inputs: dict[str, bytes]
) -> None:
    fields = inference_pb2.Frame(
        frame_id=frame_id, capture_time_unix_nano=captured_ns, budget_nano=budget_ns, must_run=must_run
    )
    frame = sent(fields, inputs)
    assert {encoded.name: encoded.data for encoded in frame.encoded} == inputs
    frame.ClearField("encoded")
    assert frame == fields


@given(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), min_size=1, max_size=5))
def test_frames_sent_together_are_one_message(messages: list[list[bytes]]) -> None:
    """Those of one message, and those of several messages that waited."""
    ids = itertools.count(1)
    requests = []
    for payloads in messages:
        parts = [
            (inference_pb2.Frame(frame_id=next(ids)).SerializeToString(), wire.inputs_of(JPEG + payload, None, None))
            for payload in payloads
        ]
        requests.append(wire.FrameRequest(*wire.frames_message(parts), len(parts)))
    frames = inference_pb2.StreamRequest.FromString(wire.joined(requests)).frames.frames
    assert [frame.frame_id for frame in frames] == list(range(1, next(ids)))
    assert [frame.encoded[0].data for frame in frames] == [JPEG + each for payloads in messages for each in payloads]


def test_a_unary_request_holds_its_frame() -> None:
    request = inference_pb2.InferRequest(model="m", outputs=["y"], stream_class=inference_pb2.STREAM_CLASS_CRITICAL)
    fields = inference_pb2.Frame(frame_id=1).SerializeToString()
    message = wire.infer_request(request, fields, wire.inputs_of(JPEG, None, None))
    parsed = inference_pb2.InferRequest.FromString(message)
    assert parsed.frame.encoded[0].data == JPEG
    parsed.ClearField("frame")
    assert parsed == request


@pytest.mark.parametrize(
    ("payload", "encoding", "format_name"),
    [
        (JPEG, None, "JPEG"),
        (PNG, None, "PNG"),
        (bytearray(PNG), None, "PNG"),
        (memoryview(JPEG), "PCM_S16LE", "JPEG"),
        (b"\0\1\2\3", "PCM_S16LE", "PCM_S16LE"),
    ],
)
def test_formats_are_recognised(payload: Any, encoding: Encoding | None, format_name: str) -> None:
    only = spec("x", "UINT8", -1, -1, 3, encodings=("JPEG", "PNG", "PCM_S16LE"))
    (encoded,) = sent(inference_pb2.Frame(frame_id=1), payload, only, encoding=encoding).encoded
    assert tensor_pb2.EncodedFormat.Name(encoded.format) == f"ENCODED_FORMAT_{format_name}"
    assert (encoded.name, encoded.data) == ("x", bytes(payload))


PICTURE = spec("images", "UINT8", -1, -1, 3, encodings=("JPEG",))
STATE = spec("state", "FP32", 2, 128)
SOUND = spec("sound", "FP32", -1, encodings=("PCM_S16LE",))


def test_samples_may_begin_as_a_picture_does() -> None:
    for specs in ((SOUND,), ()):
        (encoded,) = sent(inference_pb2.Frame(frame_id=1), JPEG, *specs, encoding="PCM_S16LE").encoded
        assert encoded.format == tensor_pb2.ENCODED_FORMAT_PCM_S16LE


@pytest.mark.parametrize(
    ("payload", "specs", "kind", "message"),
    [
        (np.zeros((2, 2, 4), "u1"), [PICTURE], ValueError, r"'images': got UINT8\[2,2,4\], expected UINT8\[\?,\?,3\]"),
        (np.zeros((2, 2, 3), "f4"), [PICTURE], ValueError, r"got FP32\[2,2,3\], expected UINT8\[\?,\?,3\] or JPEG"),
        (np.zeros((2, 2), "u1"), [PICTURE], ValueError, r"got UINT8\[2,2\]"),
        (np.zeros((2, 2, 3), "c8"), [PICTURE], ValueError, r"got complex64\[2,2,3\]"),
        (np.zeros(2, "c8"), [], TypeError, "arrays of complex64 cannot be sent; element types are BOOL, UINT8"),
        (PNG, [PICTURE], ValueError, "'images': got PNG, expected"),
        (
            b"RIFF",
            [PICTURE],
            ValueError,
            r"got 4 bytes that begin as neither JPEG nor PNG; expected UINT8\[\?,\?,3\] or JPEG$",
        ),
        (
            b"RIFF",
            [SOUND],
            ValueError,
            r"begin as neither JPEG nor PNG, and encoding is None; expected FP32\[\?\] or PCM_S16LE$",
        ),
        (b"RIFF", [STATE], ValueError, r"neither JPEG nor PNG; expected FP32\[2,128\]$"),
        (
            b"RIFF",
            [],
            ValueError,
            "encoding is None; expected JPEG or PNG or PCM_S16LE or MJPEG or H264 or HEVC bytes$",
        ),
        (JPEG, [SOUND], ValueError, r"got JPEG, expected FP32\[\?\] or PCM_S16LE$"),
        ([1, 2], [PICTURE], TypeError, r"'images': got list, expected UINT8\[\?,\?,3\] or JPEG"),
        (7, [], TypeError, "got int, expected a NumPy array, a str, or bytes"),
        (JPEG, [PICTURE, STATE], ValueError, "the model takes the inputs images, state: send a dict"),
        ({"images": JPEG}, [PICTURE, STATE], ValueError, "has the inputs images, expected images, state"),
        ({}, [PICTURE], ValueError, r"has the inputs \(none\), expected images"),
    ],
)
def test_what_does_not_fit_is_named(payload: Any, specs: list[TensorSpec], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        wire.inputs_of(payload, None, specs or None)


@pytest.mark.parametrize(
    ("extents", "shape", "goes_as"),
    [
        ((1, 4, 5, 3), (-1, -1, 3), (4, 5, 3)),
        ((1, 2, 128), (2, 128), (2, 128)),
        ((3,), (-1, 3), (1, 3)),
        ((512,), (1, 512), (1, 512)),
        ((1, 6), (-1, -1), (1, 6)),  # it fits as it is, so that nothing is taken away
    ],
)
def test_a_first_dimension_of_one_may_be_too_many_or_missing(
    extents: tuple[int, ...], shape: tuple[int, ...], goes_as: tuple[int, ...]
) -> None:
    values = np.arange(np.prod(extents), dtype=np.float32).reshape(extents)
    (tensor,) = sent(inference_pb2.Frame(frame_id=1), values, spec("x", "FP32", *shape)).tensors
    np.testing.assert_array_equal(tensor_array(tensor), values.reshape(goes_as))


def test_a_tensor_of_an_unknown_type_is_the_servers_fault() -> None:
    with pytest.raises(ProtocolError, match=r"tensor 'y': 2 bytes do not fill 0\[2\]"):
        tensor_array(tensor_pb2.Tensor(name="y", shape=[2], data=b"ab"))
