"""An array has only finite elements, or it has not: however large they are, and wherever they lie."""

import numpy as np
import pytest

from duly.worker.all_finite import all_finite

SHAPES = ((), (1,), (256,), (4, 3, 5), (3, 0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool"])
def test_finite_elements_are_finite(shape: tuple[int, ...], dtype: str) -> None:
    assert all_finite(np.ones(shape, dtype))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_largest_numbers_are_finite_though_their_squares_are_not(dtype: str) -> None:
    largest = np.full((2, 7), np.finfo(dtype).max, dtype)
    assert all_finite(largest)
    assert all_finite(-largest)
    assert all_finite(largest.T)
    assert all_finite(np.full(9, np.finfo(dtype).smallest_subnormal, dtype))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_element_that_is_not_is_found_wherever_it_lies(dtype: str, bad: float) -> None:
    for place in range(40):
        array = np.linspace(-1, 1, 40).astype(dtype).reshape(4, 10)
        array.reshape(-1)[place] = bad
        assert not all_finite(array)
        assert not all_finite(array[:, ::-1])
        assert not all_finite(array.T)


def test_infinities_of_both_signs_do_not_make_up_for_each_other() -> None:
    assert not all_finite(np.array([np.inf, -np.inf], np.float32))
