"""Pictures of every kind that an encoding can hold: the values that were stored, or INVALID with both sides named."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto

from duly.models.spec import TensorSpec
from duly.models.steps import Layout, Normalise, Resize
from duly.worker import picture_header as headers
from duly.worker.channel import INVALID, OK
from duly.worker.dtypes import DTYPES, Array
from duly.worker.errors import InvalidFrame
from duly.worker.ops.order import PREPROCESS
from duly.worker.picture_header import picture_header
from duly.worker.reader import Reader
from tests import graphs
from tests.worker.client import Encoded, Worker, version_of

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6


IN_COLOUR = (
    "is in colour, the model takes gray (1 channel); "
    '{ op = "gray" } at the head of preprocess in model.toml makes it so'
)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(rows: list[bytes], width: int, bits: int, colour_type: int, *before: tuple[bytes, bytes]) -> bytes:
    """A PNG of packed rows; `before`: chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *before, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)


def deep(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def read(data: bytes, channels: int = 3, datatype: str = "UINT8", encoding: str = "PNG") -> list[object]:
    """What a model of pictures of any size gets of it."""
    spec = TensorSpec.model_validate(
        {"name": "x", "datatype": datatype, "shape": (-1, -1, channels), "encodings": (encoding,), "bytes_max": 1 << 20}
    )
    pixels = Reader(spec, DTYPES[datatype]).read(memoryview(data), encoding, (), None, None)[0]
    assert pixels.dtype == DTYPES[datatype]
    return list(pixels.tolist())


def refused(data: bytes, channels: int = 3, datatype: str = "UINT8", encoding: str = "PNG") -> str:
    with pytest.raises(InvalidFrame) as why:
        read(data, channels, datatype, encoding)
    return str(why.value).removeprefix(f"input 'x': the {encoding} ")


def test_few_bits_are_scaled_as_the_standard_says() -> None:
    assert read(png([b"\xa0"], 3, 1, GRAY), 1) == [[[255], [0], [255]]]
    assert read(png([b"\x1b"], 4, 2, GRAY), 1) == [[[0], [85], [170], [255]]]
    assert read(png([b"\x0f\x30"], 4, 4, GRAY), 1) == [[[0], [255], [51], [0]]]
    assert read(png([b"\x0f\x30"], 4, 4, GRAY), 3) == [[[0] * 3, [255] * 3, [51] * 3, [0] * 3]]


def test_sixteen_bits_arrive_as_they_are() -> None:
    assert read(png([deep(0, 1, 2500, 65535)], 4, 16, GRAY), 1, "UINT16") == [[[0], [1], [2500], [65535]]]
    assert read(png([deep(2500)], 1, 16, GRAY), 3, "UINT16") == [[[2500] * 3]]
    assert read(png([deep(300, 40_000, 7)], 1, 16, RGB), 3, "UINT16") == [[[300, 40_000, 7]]]
    assert read(png([deep(300, 40_000, 7, 65535)], 1, 16, RGBA), 3, "UINT16") == [[[300, 40_000, 7]]]


def test_another_depth_is_invalid_and_both_are_named() -> None:
    advice = 'datatype = "{}" in model.toml takes them as they are'
    assert refused(png([deep(2500)], 1, 16, GRAY), 1) == (
        f"has 16 bits a channel, the model takes 8 (UINT8); {advice.format('UINT16')}"
    )
    assert refused(png([b"\1\2\3"], 1, 8, RGB), 3, "UINT16") == (
        f"has 8 bits a channel, the model takes 16 (UINT16); {advice.format('UINT8')}"
    )
    assert refused(png([b"\x80"], 1, 1, GRAY), 1, "UINT16").startswith("has 8 bits a channel, the model takes 16")


def test_colours_fit_gray_only_where_they_are_gray() -> None:
    assert read(png([b"\x07\x07\x07\xfe\xfe\xfe"], 2, 8, RGB), 1) == [[[7], [254]]]
    assert refused(png([b"\x07\x07\x08"], 1, 8, RGB), 1) == IN_COLOUR
    palette = (b"PLTE", b"\x09\x09\x09\x0a\x0b\x0c")
    assert read(png([b"\0"], 1, 8, PALETTE, palette), 1) == [[[9]]]
    assert refused(png([b"\1"], 1, 8, PALETTE, palette), 1) == IN_COLOUR
    assert read(png([b"\x40"], 2, 1, PALETTE, palette)) == [[[9, 9, 9], [10, 11, 12]]]


def test_alpha_is_left_out_only_where_it_is_opaque() -> None:
    words = "is transparent somewhere; the model takes no alpha"
    assert read(png([b"\1\2\3\xff"], 1, 8, RGBA)) == [[[1, 2, 3]]]
    assert refused(png([b"\1\2\3\xfe"], 1, 8, RGBA)) == words
    assert read(png([b"\5\xff"], 1, 8, GRAY_ALPHA), 1) == [[[5]]]
    assert refused(png([b"\5\x80"], 1, 8, GRAY_ALPHA), 1) == words
    assert refused(png([deep(1, 2, 3, 65534)], 1, 16, RGBA), 3, "UINT16") == words
    colour = (b"tRNS", deep(1, 2, 3))
    assert read(png([b"\1\2\4"], 1, 8, RGB, colour)) == [[[1, 2, 4]]]
    assert refused(png([b"\1\2\3"], 1, 8, RGB, colour)) == words
    assert refused(png([b"\5"], 1, 8, GRAY, (b"tRNS", deep(9))), 1) == words


def test_notes_on_colour_are_not_looked_at() -> None:
    gamma, depth = (b"gAMA", struct.pack(">I", 100_000)), (b"sBIT", b"\x05")
    assert read(png([b"\0\x32\xc8"], 3, 8, GRAY, gamma, depth), 1) == [[[0], [50], [200]]]
    assert read(png([deep(0, 4095)], 2, 16, GRAY, (b"sBIT", b"\x0c")), 1, "UINT16") == [[[0], [4095]]]


def test_an_animation_is_no_picture() -> None:
    control = (b"acTL", struct.pack(">II", 7, 0))
    assert refused(png([b"\1\2\3"], 1, 8, RGB, control)) == "is an animation of 7 pictures; a frame is one picture"
    assert read(png([b"\1\2\3"], 1, 8, RGB, (b"acTL", struct.pack(">II", 1, 0)))) == [[[1, 2, 3]]]


CORNERS = np.repeat(np.repeat(np.uint8([[10, 80], [150, 220], [30, 250]]), 16, axis=0), 16, axis=1)
UPRIGHT = {
    1: CORNERS,
    2: CORNERS[:, ::-1],
    3: CORNERS[::-1, ::-1],
    4: CORNERS[::-1],
    5: CORNERS.T,
    6: np.rot90(CORNERS, -1),
    7: CORNERS[::-1, ::-1].T,
    8: np.rot90(CORNERS),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(orientation: int) -> None:
    entry = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)
    segment = b"\xff\xe1" + (len(entry) + 8).to_bytes(2) + b"Exif\0\0" + entry
    jpeg = cv2.imencode(".jpg", CORNERS, (cv2.IMWRITE_JPEG_QUALITY, 98))[1].tobytes()
    turned = np.uint8(read(jpeg[:2] + segment + jpeg[2:], 1, encoding="JPEG"))[..., 0]
    assert turned.shape == UPRIGHT[orientation].shape
    assert np.abs(turned.astype(int) - UPRIGHT[orientation]).max() < 8
    data = png([row.tobytes() for row in CORNERS], CORNERS.shape[1], 8, GRAY, (b"eXIf", entry))
    np.testing.assert_array_equal(np.uint8(read(data, 1))[..., 0], UPRIGHT[orientation])


def changed(jpeg: bytes, marker: int, bits: int = 8) -> bytes:
    """The JPEG with another kind of frame, or other bits, in its header."""
    at = jpeg.index(b"\xff\xc0")
    return jpeg[: at + 1] + bytes([marker]) + jpeg[at + 2 : at + 4] + bytes([bits]) + jpeg[at + 5 :]


def test_kinds_of_jpeg_that_are_not_taken_are_named() -> None:
    jpeg = cv2.imencode(".jpg", CORNERS)[1].tobytes()
    tail = "; baseline and progressive ones are taken"
    assert refused(changed(jpeg, 0xC3), 1, encoding="JPEG") == f"is lossless{tail}"
    assert refused(changed(jpeg, 0xC9), 1, encoding="JPEG") == f"is arithmetic-coded{tail}"
    assert refused(changed(jpeg, 0xC5), 1, encoding="JPEG") == f"is hierarchical{tail}"
    assert refused(changed(jpeg, 0xC1, 12), 1, encoding="JPEG") == "has 12 bits a channel, the model takes 8 (UINT8)"
    colour = cv2.imencode(".jpg", np.dstack([CORNERS, CORNERS, 255 - CORNERS]))[1].tobytes()
    at = colour.index(b"\xff\xc0")
    cmyk = colour[: at + 9] + b"\4" + colour[at + 10 :]
    assert refused(cmyk, 1, encoding="JPEG") == "is CMYK (4 channels), the model takes gray: convert it"
    two = colour[: at + 9] + b"\2" + colour[at + 10 :]
    assert (
        refused(two, encoding="JPEG") == "is neither gray nor in colour (2 channels), the model takes RGB: convert it"
    )


def test_gray_jpeg_fits_a_model_of_colours_and_the_reverse() -> None:
    gray = cv2.imencode(".jpg", CORNERS)[1].tobytes()
    equal = np.uint8(read(gray, 3, encoding="JPEG"))
    assert (equal == equal[..., :1]).all()
    stored_as_colours = cv2.imencode(".jpg", np.dstack([CORNERS] * 3))[1].tobytes()
    np.testing.assert_array_equal(read(stored_as_colours, 1, encoding="JPEG"), read(gray, 1, encoding="JPEG"))
    colours = cv2.imencode(".jpg", np.dstack([CORNERS, CORNERS, 255 - CORNERS]))[1].tobytes()
    assert refused(colours, 1, encoding="JPEG") == IN_COLOUR


def test_what_lies_between_segments_and_after_the_picture_costs_nothing() -> None:
    jpeg = cv2.imencode(".jpg", CORNERS)[1].tobytes()
    profile = b"\xff\xe2" + (600).to_bytes(2) + b"ICC_PROFILE\0" + bytes(586)
    comment = b"\xff\xfe\x00\x05abc"
    dressed = jpeg[:2] + comment + b"\xff\xff" + profile + jpeg[2:] + bytes(512)
    np.testing.assert_array_equal(read(dressed, 1, encoding="JPEG"), read(jpeg, 1, encoding="JPEG"))


def test_the_search_for_a_header_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "SEGMENTS_MAX", 50)
    jpeg = cv2.imencode(".jpg", CORNERS)[1].tobytes()
    assert picture_header(memoryview(jpeg[:2] + b"\xff\xfe\x00\x02" * 20 + jpeg[2:]), "JPEG") is not None
    assert picture_header(memoryview(jpeg[:2] + b"\xff\xfe\x00\x02" * 60 + jpeg[2:]), "JPEG") is None
    notes = [(b"tEXt", b"")] * 60
    assert picture_header(memoryview(png([b"\0"], 1, 8, GRAY, *notes[:20])), "PNG") is not None
    assert picture_header(memoryview(png([b"\0"], 1, 8, GRAY, *notes)), "PNG") is None


def test_a_png_whose_chunks_do_not_end_within_it_is_not_handed_to_the_decoder() -> None:
    """OpenCV spends five seconds and more on such a file, however short it is; the lane would stand still."""
    whole = png([b"\1\2\3"] * 9, 1, 8, RGB)
    at = whole.index(b"IDAT") - 4
    longer = whole[:at] + (1 << 13).to_bytes(4) + whole[at + 4 :]
    without_end = whole[:-12]
    for data in (longer, without_end):
        assert picture_header(memoryview(data), "PNG") is None
        assert refused(data) == f"of {len(data)} bytes is damaged or cut off"


@pytest.mark.parametrize("datatype", ["UINT8", "UINT16", "FP32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_take_every_depth(datatype: str, channels: int) -> None:
    dtype = DTYPES[datatype]
    top = 1.0 if datatype == "FP32" else np.iinfo(dtype).max
    value = (np.linspace(0, 1, 8 * 6 * channels).reshape(8, 6, channels) * top).astype(dtype)
    steps = [
        Resize(op="resize", width=3, height=4),
        Normalise(op="normalise", scale=1 / float(top)),
        Layout(op="layout", axes="CHW"),
    ]
    spec = TensorSpec.model_validate({"name": "x", "datatype": datatype, "shape": (-1, -1, channels)})
    made = Reader(spec, np.dtype(np.float32), [PREPROCESS[type(step)](step) for step in steps])
    row, _ = made.read(memoryview(value.tobytes()), "", value.shape, np.empty((channels, 4, 3), np.float32), None)
    expected = cv2.resize(value, (3, 4)).reshape(4, 3, channels).transpose(2, 0, 1) / np.float64(top)
    np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_letterbox_pads_with_what_is_stated() -> None:
    resize = Resize(op="resize", width=4, height=4, mode="letterbox", pad=65_000)
    spec = TensorSpec.model_validate({"name": "x", "datatype": "UINT16", "shape": (-1, -1, 1)})
    made = Reader(spec, np.dtype(np.uint16), [PREPROCESS[Resize](resize)])
    value = np.full((2, 4, 1), 2500, np.uint16)
    row, _ = made.read(memoryview(value.tobytes()), "", value.shape, np.empty((4, 4, 1), np.uint16), None)
    assert row[..., 0].tolist() == [[65_000] * 4, [2500] * 4, [2500] * 4, [65_000] * 4]


DEPTH = [
    'batch_sizes = [1, 2]\n[[input]]\nname = "x"\nencodings = ["PNG"]\ndatatype = "UINT16"\n',
    'preprocess = [{ op = "resize", width = 4, height = 4 }]\n',
]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Worker]]:
    """One whose graph takes floats and whose model.toml says UINT16, one whose graph takes UINT16 itself."""
    root: Path = tmp_path_factory.mktemp("depth")
    graphs.save(root, "floats", graphs.copying(("N", 4, 4, 1)), "".join(DEPTH))
    stated = '[[input]]\nname = "x"\nencodings = ["PNG"]\nbytes_max = 4096\n'
    graphs.save(root, "integers", graphs.copying(("N", 4, 4, 1), TensorProto.UINT16), stated)
    with Worker(version_of(root, "floats")) as floats, Worker(version_of(root, "integers")) as integers:
        yield [floats, integers]


def test_a_depth_camera_is_served_with_its_values(workers: list[Worker]) -> None:
    value: Array = np.arange(16, dtype=np.uint16).reshape(4, 4, 1) * 700
    data = Encoded("PNG", cv2.imencode(".png", value)[1].tobytes())
    dark = Encoded("PNG", cv2.imencode(".png", value.astype(np.uint8))[1].tobytes())
    for worker in workers:
        assert worker.signature.inputs[0].datatype == "UINT16"
        (as_png, as_array), (invalid,) = worker.run([[data], [value]]), worker.run([[dark]])
        assert (as_png.status, as_array.status, invalid.status) == (OK, OK, INVALID)
        np.testing.assert_array_equal(as_png.outputs["y"], value)
        np.testing.assert_array_equal(as_array.outputs["y"], value)
        assert "has 8 bits a channel, the model takes 16 (UINT16)" in invalid.reason


def test_a_jpeg_whose_pixels_are_made_up_is_invalid() -> None:
    """Decoders fill in what is missing, gray or at random, and hand it out as a picture."""
    rng = np.random.default_rng(12)
    noise = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    restarting = cv2.imencode(".jpg", noise, (cv2.IMWRITE_JPEG_RST_INTERVAL, 2))[1].tobytes()
    progressive = cv2.imencode(".jpg", noise, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()
    end, half = b"\xff\xd9", len(whole) // 2
    part = restarting[restarting.index(b"\xff\xd3") : restarting.index(b"\xff\xd4")]
    damaged = {
        "the rest is lost": whole[:half] + end,
        "a buffer was not filled": whole[:half] + bytes(half),
        "bytes of the middle are lost": whole[:half] + whole[half + 200 :],
        "a part between two marks is lost": restarting.replace(part, b""),
        "the finer scans are lost": progressive[: len(progressive) // 2] + end,
    }
    for data in damaged.values():
        assert refused(data, encoding="JPEG") == f"of {len(data)} bytes is damaged or cut off"
    as_stored = read(whole, encoding="JPEG")
    for data in (whole[:-2] + bytes(12) + end, whole + bytes(4096), whole + whole[:half]):  # as webcams and phones do
        np.testing.assert_array_equal(read(data, encoding="JPEG"), as_stored)
    for data, pixels in ((restarting, noise), (progressive, noise)):
        assert np.shape(read(data, encoding="JPEG")) == pixels.shape


def test_what_decoders_say_stays_out_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    data = cv2.imencode(".jpg", CORNERS)[1].tobytes()
    for _ in range(2):
        with pytest.raises(InvalidFrame):
            read(data[: len(data) - 30] + b"\xff\xd9", 1, encoding="JPEG")
        read(data, 1, encoding="JPEG")
    assert capfd.readouterr().err == ""
