"""Pictures to rows, against the same done slowly and plainly, and payloads that are no pictures."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.models.spec import TensorSpec
from duly.models.steps import Layout, Normalise, Resize
from duly.worker.dtypes import Array
from duly.worker.errors import InvalidFrame
from duly.worker.ops.operation import WHOLE_PICTURE
from duly.worker.ops.order import PREPROCESS
from duly.worker.reader import Reader

FP32 = np.dtype(np.float32)


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Array:
    """Smooth noise, so that JPEG and resizing keep what is in it."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 4).reshape(height, width, channels)


def reader(
    *,
    shape: tuple[int, ...] = (-1, -1, 3),
    datatype: str = "UINT8",
    dtype: np.dtype[np.generic] = FP32,
    resize: Resize | None = None,
    normalise: Normalise | None = None,
    layout: Layout | None = None,
) -> Reader:
    encodings = ("JPEG", "PNG") if datatype == "UINT8" else ()
    spec = TensorSpec.model_validate(
        {"name": "image", "datatype": datatype, "shape": shape, "encodings": encodings, "bytes_max": 1 << 23}
    )
    steps = [step for step in (resize, normalise, layout) if step is not None]
    return Reader(spec, dtype, [PREPROCESS[type(step)](step) for step in steps])


def read(made: Reader, value: Array, row: Array | None = None) -> tuple[Array, tuple[float, ...]]:
    if row is None and -1 not in made.row_shape:
        row = np.full(made.row_shape, -1).astype(made.dtype)
    return made.read(memoryview(value.tobytes()), "", value.shape, row, None)


def slowly(value: Array, normalise: Normalise | None, layout: Layout) -> Array:
    out = value.astype(np.float64)
    if normalise:
        out = (out * normalise.scale - np.array(normalise.mean)) / np.array(normalise.std)
    if layout.colours == "BGR":
        out = out[..., ::-1]
    return out.transpose(2, 0, 1) if layout.axes == "CHW" else out


NORMALISE = [
    None,
    Normalise(op="normalise", scale=1 / 255),
    Normalise(op="normalise", mean=(127.5,), std=(127.5,)),
    Normalise(op="normalise", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
]


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("axes", ["CHW", "HWC"])
@pytest.mark.parametrize("colours", ["RGB", "BGR"])
@pytest.mark.parametrize("is_open", [False, True])
def test_values_and_order(normalise: Normalise | None, axes: str, colours: str, is_open: bool) -> None:
    layout = Layout.model_validate({"op": "layout", "axes": axes, "colours": colours})
    value = picture(7, 5)
    expected = slowly(value, normalise, layout)
    shape = (-1, -1, 3) if is_open else value.shape
    row, placement = read(reader(shape=shape, normalise=normalise, layout=layout), value)
    assert row.dtype == np.float32
    np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)
    assert placement == WHOLE_PICTURE


@pytest.mark.parametrize(
    ("datatype", "dtype", "channels"),
    [("UINT8", np.uint8, 1), ("UINT8", np.float16, 3), ("UINT16", np.float32, 1), ("FP32", np.float32, 4)],
)
def test_element_types_and_channels(datatype: str, dtype: type[np.generic], channels: int) -> None:
    source = {"UINT8": np.uint8, "UINT16": np.uint16, "FP32": np.float32}[datatype]
    value = np.random.default_rng(1).integers(0, 255, (6, 4, channels)).astype(source)
    layout = Layout(op="layout", axes="CHW")
    made = reader(shape=(6, 4, channels), datatype=datatype, dtype=np.dtype(dtype), layout=layout)
    row, _ = read(made, value)
    assert row.dtype == dtype
    np.testing.assert_array_equal(row, value.transpose(2, 0, 1).astype(dtype))


def test_stretch_and_letterbox_are_opencvs_resize() -> None:
    value = picture(60, 40)
    stretch = Resize(op="resize", width=20, height=20)
    row, placement = read(reader(dtype=np.dtype(np.uint8), resize=stretch), value)
    np.testing.assert_array_equal(row, cv2.resize(value, (20, 20)))
    assert placement == WHOLE_PICTURE
    letterbox = Resize(op="resize", width=30, height=30, mode="letterbox", pad=9)
    made = reader(dtype=np.dtype(np.uint8), resize=letterbox)
    for _ in range(2):  # a second picture finds the pad of the first as it must be
        row, placement = read(made, value)
        np.testing.assert_array_equal(row[:, 5:25], cv2.resize(value, (20, 30)))
        assert (row[:, :5] == 9).all()
        assert (row[:, 25:] == 9).all()
        assert placement == pytest.approx((5 / 30, 0, 20 / 30, 1))
        wide, placement = read(made, value.transpose(1, 0, 2).copy())
        np.testing.assert_array_equal(wide[5:25], cv2.resize(value.transpose(1, 0, 2).copy(), (30, 20)))
        assert (wide[:5] == 9).all()
        assert placement == pytest.approx((0, 5 / 30, 1, 20 / 30))


@given(height=st.integers(1, 90), width=st.integers(1, 90), mode=st.sampled_from(["stretch", "letterbox"]))
def test_any_size_fits(height: int, width: int, mode: str) -> None:
    resize = Resize.model_validate({"op": "resize", "width": 24, "height": 16, "mode": mode})
    row, (left, top, across, down) = read(reader(resize=resize), np.full((height, width, 3), 200, np.uint8))
    inside = row[round(top * 16) : round((top + down) * 16), round(left * 24) : round((left + across) * 24)]
    assert (inside == 200).all()
    assert (row == 200).sum() == inside.size
    assert across == 1 or down == 1
    assert left >= 0 and left + across <= 1 and top >= 0 and top + down <= 1  # noqa: PT018


@pytest.mark.parametrize("channels", [1, 3])
def test_decoded_png_is_the_tensor_and_jpeg_close_to_it(channels: int) -> None:
    value = picture(48, 64, channels)
    made = reader(shape=(48, 64, channels))
    stored = value if channels == 1 else cv2.cvtColor(value, cv2.COLOR_RGB2BGR)
    for extension, far in ((".png", 0), (".jpg", 12)):
        payload = cv2.imencode(extension, stored, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        encoding = "PNG" if extension == ".png" else "JPEG"
        row, _ = made.read(memoryview(payload), encoding, (), np.empty((48, 64, channels), np.float32), None)
        assert np.abs(row - value).max() <= far


def test_jpeg_that_was_taken_on_its_side_is_turned_upright() -> None:
    sideways = np.zeros((20, 40, 3), np.uint8)
    sideways[:, :20] = 255
    payload = cv2.imencode(".jpg", sideways)[1].tobytes()
    # EXIF with one entry: orientation (0x112), one SHORT, 6: turn clockwise to see it as it was.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06" + bytes(6)
    payload = payload[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + payload[2:]
    row, _ = reader(shape=(40, 20, 3)).read(memoryview(payload), "JPEG", (), np.empty((40, 20, 3), np.float32), None)
    assert row[:18].min() > 200
    assert row[22:].max() < 50


def encoded(extension: str, **options: int) -> bytes:
    flags = [item for name, value in options.items() for item in (getattr(cv2, name), value)]
    return bytes(cv2.imencode(extension, picture(64, 64), flags)[1].tobytes())


JPEG, PNG = encoded(".jpg"), encoded(".png")
PROGRESSIVE = encoded(".jpg", IMWRITE_JPEG_PROGRESSIVE=1)


def reason(payload: bytes, encoding: str) -> str:
    made = reader(shape=(64, 64, 3))
    with pytest.raises(InvalidFrame) as refused:
        made.read(memoryview(payload), encoding, (), np.empty((64, 64, 3), np.float32), None)
    return str(refused.value)


@pytest.mark.parametrize(("payload", "encoding"), [(JPEG, "JPEG"), (PROGRESSIVE, "JPEG"), (PNG, "PNG")])
def test_picture_cut_off_anywhere_is_invalid(payload: bytes, encoding: str, capfd: pytest.CaptureFixture[str]) -> None:
    for length in [*range(8, len(payload), 53), len(payload) - 2, len(payload) - 1]:
        assert reason(payload[:length], encoding) == (
            f"input 'image': the {encoding} of {length} bytes is damaged or cut off"
        )
    assert capfd.readouterr().err == ""  # decoders complain on stderr, which clients must not fill


def test_payload_that_is_no_such_picture_is_invalid() -> None:
    assert reason(PNG, "JPEG") == f"input 'image': its {len(PNG)} bytes do not begin as a JPEG does"
    assert reason(JPEG, "PNG") == f"input 'image': its {len(JPEG)} bytes do not begin as a PNG does"
    assert reason(b"", "JPEG") == "input 'image': its 0 bytes do not begin as a JPEG does"
    assert reason(b"\xff\xd8\xff" + bytes(100), "JPEG").endswith("is damaged or cut off")
    assert reason(JPEG, "PCM_S16LE") == "input 'image' takes no PCM_S16LE, but JPEG, PNG, UINT8[64, 64, 3]"
    bmp = encoded(".bmp")
    assert reason(bmp, "JPEG") == f"input 'image': its {len(bmp)} bytes do not begin as a JPEG does"
    small = cv2.imencode(".png", picture(32, 64))[1].tobytes()
    assert reason(small, "PNG") == "input 'image' has shape [32, 64, 3], wanted is [64, 64, 3]"


@given(payload=st.binary(max_size=300), head=st.sampled_from([b"", JPEG[:200], PNG[:60]]))
def test_garbage_is_invalid_and_nothing_worse(payload: bytes, head: bytes) -> None:
    for encoding in ("JPEG", "PNG"):
        assert reason(head + payload, encoding)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.zeros((4, 4), np.uint8), "has shape [4, 4], wanted is [-1, -1, 3]"),
        (np.zeros((4, 4, 1), np.uint8), "has shape [4, 4, 1], wanted is [-1, -1, 3]"),
        (np.zeros((0, 4, 3), np.uint8), "is empty: its shape is [0, 4, 3]"),
    ],
)
def test_tensor_that_is_no_picture_is_invalid(value: Array, why: str) -> None:
    made = reader(resize=Resize(op="resize", width=8, height=8))
    with pytest.raises(InvalidFrame) as refused:
        read(made, value)
    assert str(refused.value) == f"input 'image' {why}"


def test_tensor_of_the_wrong_size_is_invalid() -> None:
    made: Callable[..., object] = reader(resize=Resize(op="resize", width=8, height=8)).read
    with pytest.raises(InvalidFrame, match=r"^input 'image': 11 bytes, but UINT8\[2, 2, 3\] has 12$"):
        made(memoryview(bytes(11)), "", (2, 2, 3), np.empty((8, 8, 3), np.float32), None)


def test_depth_that_is_not_finite_is_invalid() -> None:
    spec = TensorSpec(name="depth", datatype="FP32", shape=(2, 2, 1), finite=True, bytes_max=16)
    made = Reader(spec, FP32, [PREPROCESS[Layout](Layout(op="layout"))])
    value = np.float32([[[1], [2]], [[np.inf], [4]]])
    with pytest.raises(InvalidFrame, match=r"^input 'depth': an element is NaN or infinite$"):
        read(made, value)
