"""Rows that were read elsewhere are those that a worker reads itself, and nothing else is taken for one."""

import struct
from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from duly.models.spec import TensorSpec
from duly.models.steps import Layout, Normalise, Resize
from duly.worker.channel import INVALID, OK, ROW, Region, Run
from duly.worker.errors import InvalidFrame
from duly.worker.guards import InputWatch
from duly.worker.ops.order import PREPROCESS
from duly.worker.read_apart import RowReader, row_spec
from duly.worker.reader import Reader
from duly.worker.slot_layout import layout

SPEC = TensorSpec(
    name="x", datatype="UINT8", shape=(-1, -1, 3), encodings=("PNG",), bytes_max=200_000, pixels_max=1 << 20
)
STEPS = (Resize(op="resize", width=32, height=32, mode="letterbox"), Normalise(op="normalise", scale=0.5),
         Layout(op="layout", axes="CHW"))  # fmt: skip


def reader() -> Reader:
    return Reader(SPEC, np.dtype(np.float32), [PREPROCESS[type(step)](step) for step in STEPS])


def picture() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def read(data: bytes, watches: Sequence[InputWatch] | None = None) -> tuple[int, bytes, str]:
    """Returns the status of the frame, its row, and why there is none. `watches`: as RowReader takes them."""
    made = reader()
    region = Region.create(layout([SPEC.bytes_max], 1)[1], layout([row_spec(made).bytes_max], 1)[1])
    region.inputs[1][: len(data)] = data
    done = RowReader([made], region, watches).run(Run(7, 1, [(1, False, [(0, len(data), 2, (40, 90, 1))])]))
    ((status, refs),) = done.frames
    rows = [bytes(region.outputs[1][offset : offset + length]) for offset, length, _, _ in refs]
    return status, rows[0] if rows else b"", done.reasons.get(0, "")


def test_a_row_is_the_one_that_is_read_on_the_lane() -> None:
    status, row, _ = read(picture())
    assert status == OK
    made, target = reader(), np.empty((3, 32, 32), np.float32)
    wanted, wanted_placement = made.read(memoryview(picture()), "PNG", (), None, None)
    taken, placement = made.read(memoryview(row), "ROW", (), target, None)
    assert taken is target
    assert (taken == wanted).all()
    assert placement == wanted_placement
    assert ROW > 0


def test_a_damaged_picture_is_invalid() -> None:
    status, _, reason = read(picture()[:300])
    assert status == INVALID
    assert "is damaged or cut off" in reason


@pytest.mark.parametrize("change", ["short", "long", "nowhere"])
def test_what_is_no_row_is_not_taken_for_one(change: str) -> None:
    _, row, _ = read(picture())
    made = reader()
    wrong = {
        "short": row[:-4],
        "long": row + bytes(4),
        "nowhere": row[:16] + struct.pack("<d", float("nan")) + row[24:],
    }
    with pytest.raises(InvalidFrame, match="input 'x'"):
        made.read(memoryview(wrong[change]), "ROW", (), None, None)
    sound = TensorSpec(name="x", datatype="FP32", shape=(4,), bytes_max=16)
    with pytest.raises(InvalidFrame, match="no row of it"):
        Reader(sound, np.dtype(np.float32)).read(memoryview(bytes(48)), "ROW", (), None, None)
