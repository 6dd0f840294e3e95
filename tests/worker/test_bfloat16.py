"""Models that take and give BF16, which NumPy lacks."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from onnx import helper

from duly.worker.all_finite import all_finite, finite
from duly.worker.channel import FRAME_FAILED, INVALID, OK
from duly.worker.dtypes import BFLOAT16, as_numbers, of_type
from tests import graphs
from tests.worker.client import Array, LoadFailed, Worker, version_of

pytestmark = pytest.mark.holds_on("cpu", "cuda", "openvino", why="WebGPU's provider has no BF16")


def halves(*numbers: float) -> Array:
    return of_type(np.float32(numbers), BFLOAT16)


def worker(root: Path) -> Worker:
    return Worker(version_of(root, "m"))


@given(some.integers(0, 0xFFFF))
def test_every_value_goes_to_float32_and_back(bits: int) -> None:
    half = np.array([bits], "<u2").view(BFLOAT16)
    wide = as_numbers(half)
    assert wide.dtype == np.float32
    back = of_type(wide, BFLOAT16)
    if math.isnan(wide[0]):
        assert math.isnan(as_numbers(back)[0])
    else:
        assert back["bits"][0] == bits
    assert bool(finite(half)[0]) == math.isfinite(wide[0]) == all_finite(half)


@given(some.floats(width=32, allow_nan=False))
def test_numbers_are_rounded_to_the_nearest(number: float) -> None:
    rounded = float(as_numbers(halves(number))[0])
    if abs(number) >= 3.3961775292304957e38:  # halfway between the largest and what would be the next one
        assert math.isinf(rounded)
    else:
        bits = int(halves(number)["bits"][0])
        neighbours = [
            float(as_numbers(np.array([bits + step], "<u2").view(BFLOAT16))[0]) for step in (-1, 1) if bits & 0x7FFF
        ]
        assert all(abs(rounded - number) <= abs(other - number) for other in neighbours if math.isfinite(other))


def test_halfway_goes_to_the_even_one() -> None:
    assert halves(1 + 2**-8, 1 + 3 * 2**-8)["bits"].tolist() == [0x3F80, 0x3F82]


def test_a_nan_whose_bits_are_all_below_stays_one() -> None:
    number = np.array([0x7F800001], np.uint32).view(np.float32)
    assert math.isnan(as_numbers(of_type(number, BFLOAT16))[0])


@pytest.mark.parametrize("dims", [("N", 4), ("N", "K")], ids=["bound", "of any size"])
def test_frames_of_bf16_share_a_batch(tmp_path: Path, dims: graphs.Dims) -> None:
    graphs.save(tmp_path, "m", graphs.doubling_halves(dims))
    frames = [halves(1, 2, 3, 4), halves(-0.5, 0, 7, 1e30)]
    with worker(tmp_path) as running:
        assert running.signature.inputs[0].datatype == running.signature.outputs[0].datatype == "BF16"
        for slot in (0, 1):
            for outcome, frame in zip(running.run([[each] for each in frames], slot=slot), frames, strict=True):
                assert outcome.status == OK, outcome.reason
                np.testing.assert_array_equal(as_numbers(outcome.outputs["y"]), 2 * as_numbers(frame))


@pytest.mark.parametrize("dims", [("N", 4), ("N", "K")], ids=["bound", "of any size"])
@pytest.mark.parametrize("stray", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_invalid_by_itself(tmp_path: Path, dims: graphs.Dims, stray: float) -> None:
    graphs.save(tmp_path, "m", graphs.doubling_halves(dims))
    with worker(tmp_path) as running:
        good = halves(1, 2, 3, 4)
        outcomes = running.run([[good], [halves(1, stray, 3, 4)], [good]])
        assert [outcome.status for outcome in outcomes] == [OK, INVALID, OK]
        assert outcomes[1].reason == "input 'x': an element is NaN or infinite"
        np.testing.assert_array_equal(as_numbers(outcomes[2].outputs["y"]), [2, 4, 6, 8])


def test_a_model_may_take_numbers_that_are_none(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling_halves(), toml='input = [{ name = "x", finite = false }]\n')
    with worker(tmp_path) as running:
        assert math.isinf(as_numbers(running.run([[halves(1, math.inf, 3, 4)]])[0].outputs["y"])[1])


def test_outputs_that_overflow_fail_where_they_must_be_finite(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling_halves(), toml="output_finite = true\n")
    with worker(tmp_path) as running:
        outcomes = running.run([[halves(1, 2, 3, 4)], [halves(1, 3e38, 3, 4)]])
        assert [outcome.status for outcome in outcomes] == [OK, FRAME_FAILED]
        assert "output 'y': an element is NaN or infinite" in outcomes[1].reason


def test_bf16_among_other_types_and_as_a_state(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.sum_in_halves(), toml='state = [{ output = "s_next", input = "s" }]\n')
    with worker(tmp_path) as running:
        assert [spec.datatype for spec in running.signature.states] == ["BF16"]
        for total in (1, 2, 3):
            outcomes = running.run([[np.float32([1, 2])], [np.float32([0, 1])]], streams=[7, 8])
            assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [[total, 2 * total], [0, total]]


def test_bf16_as_a_constant_and_in_text(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["number"], to=graphs.FP32),
        helper.make_node("Cast", ["scale"], ["wide"], to=graphs.FP32),
        helper.make_node("Mul", ["number", "wide"], ["y"]),
    ]
    proto = graphs.model(
        nodes,
        [graphs.value("x", ["N"], graphs.TEXT), graphs.value("scale", [1], graphs.BF16)],
        [graphs.value("y", ["N"])],
    )
    graphs.save(tmp_path, "m", proto, toml="constants = { scale = 1.5 }\n")
    with worker(tmp_path) as running:
        text = np.array(["4"], object).reshape(())
        assert running.run([[text]])[0].outputs["y"] == 6


@pytest.mark.parametrize("declared", ["FP32", "UINT16", "UINT8"])
def test_bf16_is_made_of_nothing_else(tmp_path: Path, declared: str) -> None:
    toml = f'input = [{{ name = "x", datatype = "{declared}" }}]\n'
    graphs.save(tmp_path, "m", graphs.doubling_halves(), toml=toml)
    with pytest.raises(LoadFailed, match=f"{declared} can't become BF16"):
        worker(tmp_path).close()
