"""Ranges that 8 bits are to cover, on numbers whose best range is known."""

import numpy as np
import onnx
import pytest

from duly_learn.optimize.ranges import (
    BINS,
    LEVELS,
    Histogram,
    histograms,
    noise_db,
    slopes,
    with_steps_of_rectifiers,
)
from tests import graphs


def counted(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array.astype(np.float32))
    return histogram


def error(values: np.ndarray, low: float, high: float) -> float:
    """The mean squared error of 8 bits between the ends."""
    step = (high - low) / 255
    rounded = np.clip(np.round((values - low) / step), 0, 255) * step + low
    return float(np.mean((rounded - values) ** 2))


def test_numbers_that_are_spread_evenly_need_the_widest_range() -> None:
    found = counted(np.random.default_rng(0).uniform(-2, 3, 100_000))
    low, high = found.best_range()
    assert (low, high) == (pytest.approx(-2, rel=0.12), pytest.approx(3, rel=0.12))


def test_a_lone_outlier_is_cut_off() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=1_000_000), [30.0]])
    low, high = counted(values).best_range()
    assert high < 15
    assert error(values, low, high) < error(values, float(values.min()), 30.0)


def test_what_is_never_negative_has_a_range_from_zero() -> None:
    low, high = counted(np.abs(np.random.default_rng(0).normal(size=10_000))).best_range()
    assert low == 0.0
    assert high > 1


def test_what_a_rectifier_makes_little_of_gets_few_of_the_bits() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=100_000) * 20, [0.0]])
    histogram = counted(values)
    (wide, _), (leaky, high), (cut, _) = (histogram.best_range(slope) for slope in (1.0, 0.1, 0.0))
    assert wide < 1.3 * leaky < 0
    assert cut == 0.0
    assert high > 40


def test_rectifiers_are_found_where_nothing_else_reads() -> None:
    make = onnx.helper.make_node
    nodes = [
        make("Add", ["x", "x"], ["a"]),
        make("LeakyRelu", ["a"], ["b"], alpha=0.2),
        make("Relu", ["b"], ["c"]),
        make("Relu", ["x"], ["d"]),
        make("Add", ["c", "d"], ["y"]),
    ]
    model = graphs.model(nodes, [graphs.value("x", ["N", 4])], [graphs.value("y", ["N", 4])])
    assert slopes(model) == {"a": pytest.approx(0.2), "b": 0.0}


def _rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """What 8 bits between the ends make of numbers."""
    step = (high - low) / LEVELS
    zero = round(-low / step)
    return (np.clip(np.round(values / step) + zero, 0, LEVELS) - zero) * step


def test_a_leaky_rectifier_rounds_no_number_above_zero_a_second_time() -> None:
    nodes = [onnx.helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.1)]
    model = graphs.model(nodes, [graphs.value("x", ["N", 4])], [graphs.value("y", ["N", 4])])
    ranges = with_steps_of_rectifiers(model, {"x": (-32.0, 19.0), "y": (-5.0, 19.0), "z": (0.0, 1.0)})
    assert (ranges["x"], ranges["z"]) == ((-32.0, 19.0), (0.0, 1.0))
    values = _rounded(np.linspace(-32, 19, 10_000), *ranges["x"])
    given = np.where(values >= 0, values, 0.1 * values)
    rounded = _rounded(given, *ranges["y"])
    np.testing.assert_allclose(rounded[values >= 0], values[values >= 0], atol=1e-5)
    step = 51.0 / LEVELS
    assert np.abs(rounded - given).max() <= 0.5001 * step, "nothing is cut off at either end"


def test_a_rectifier_that_is_not_alone_has_steps_of_its_own() -> None:
    make = onnx.helper.make_node
    nodes = [make("LeakyRelu", ["x"], ["a"], alpha=0.1), make("Add", ["x", "a"], ["y"])]
    model = graphs.model(nodes, [graphs.value("x", ["N", 4])], [graphs.value("y", ["N", 4])])
    ranges = {"x": (-32.0, 19.0), "a": (-5.0, 19.0)}
    assert with_steps_of_rectifiers(model, ranges) == ranges


def test_zeros_alone_have_no_range() -> None:
    assert counted(np.zeros(10)).best_range() == (0.0, 0.0)
    assert counted(np.array([np.nan, np.inf, 0.0])).best_range() == (0.0, 0.0)


def test_pieces_and_their_order_make_no_difference() -> None:
    values = np.random.default_rng(1).normal(size=5_000) * np.geomspace(0.01, 100, 5_000)
    whole = counted(values)
    parts = counted(*np.array_split(values, 7))
    assert parts.counts.sum() == whole.counts.sum() == 5_000
    assert (parts.low, parts.high) == (whole.low, whole.high)
    assert parts.reach == whole.reach
    assert len(parts.counts) == BINS
    assert np.abs(np.cumsum(parts.counts) - np.cumsum(whole.counts)).max() <= 5_000 * 0.01


def test_inputs_and_what_nodes_give_are_counted() -> None:
    model = onnx.shape_inference.infer_shapes(graphs.seeing())
    rng = np.random.default_rng(0)
    found = histograms(model, [{"x": rng.random((1, 3, 16, 16), np.float32)} for _ in range(3)], 1)
    assert {"x", "c0", "r0", "y"} <= found.keys()
    assert found["r0"].low == 0.0
    assert found["x"].counts.sum() == pytest.approx(3 * 3 * 16 * 16, abs=2)


def test_noise_is_told_in_decibels() -> None:
    signal = [[np.ones(1000, np.float32)]]
    for amplitude, wanted in ((0.1, 20.0), (0.01, 40.0)):
        noisy = [[signal[0][0] + np.float32(amplitude)]]
        assert noise_db(signal, noisy) == pytest.approx(wanted, abs=0.1)
