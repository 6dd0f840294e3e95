"""What frames take beyond usual ones: planned from few measurements, and learnt by their sizes."""

import pytest

from duly.models.spec import Signature, TensorSpec
from duly.runtime.frame_costs import EXTRA_NS_MAX, RUNS_MAX, FrameCosts, SizeCosts
from duly.runtime.held_frames import InputData
from duly.worker.channel import ENCODINGS

MS = 1_000_000
PNG = ENCODINGS.index("PNG")
PICTURE = TensorSpec(
    name="p", datatype="UINT8", shape=(-1, -1, 3), encodings=("PNG",), bytes_max=1 << 20, pixels_max=1 << 24
)
VECTOR = TensorSpec(name="v", datatype="FP32", shape=(-1,), bytes_max=1 << 20)


def signature(*inputs: TensorSpec) -> Signature:
    return Signature(inputs=inputs, outputs=(), batch_sizes=(1,), any_size=True, stateful=False)


def picture(width: int, height: int) -> InputData:
    return InputData(PNG, (height, width, 1), b"")


def test_usual_sizes_take_nothing_more_and_unknown_ones_grow_with_their_size() -> None:
    costs = SizeCosts([(1000, 2 * MS)], 1.0, 3.0)
    assert [costs.beyond_ns(size) for size in (1, 999, 1000)] == [0, 0, 0]
    extras = [costs.beyond_ns(1000 * times) for times in (2, 10, 100, 10_000)]
    assert extras == sorted(extras)
    assert extras[1] >= 18 * MS
    assert costs.beyond_ns(1 << 80) == EXTRA_NS_MAX


def test_graphs_of_open_size_are_planned_by_the_square_until_they_have_run() -> None:
    costs = SizeCosts([(100, MS), (1000, 3 * MS)], 2.0, 1.0)
    assert costs.beyond_ns(10_000) >= 299 * MS
    costs.observe(10_000, 20 * MS)
    assert 19 * MS <= costs.beyond_ns(10_000) <= 22 * MS
    assert costs.beyond_ns(9000) <= 22 * MS  # a larger one took no longer


def test_a_size_is_a_guess_until_it_has_run() -> None:
    costs = SizeCosts([(100, MS), (1000, 3 * MS)], 2.0, 1.0)
    assert [costs.is_guess(size) for size in (10, 100, 300, 1000, 10_000)] == [False, False, True, False, True]
    costs.observe(10_000, 20 * MS)
    assert not costs.is_guess(10_000)
    assert costs.is_guess(20_000)


def test_one_disturbed_run_is_forgotten() -> None:
    costs = SizeCosts([(1000, MS)], 1.0, 3.0)
    for _ in range(RUNS_MAX):
        costs.observe(50_000, 30 * MS)
    costs.observe(50_000, 900 * MS)
    assert costs.beyond_ns(50_000) < 40 * MS


def test_pictures_are_learnt_by_what_reading_them_took() -> None:
    costs = FrameCosts(signature(PICTURE), {"read": {"PNG": [[300_000, 3 * MS]]}, "graph": [], "open": []}, 10 * MS)
    usual, large = [picture(640, 400)], [picture(4000, 3000)]
    assert costs
    assert costs.extra_ns(usual) == (0, 0)
    planned_ns, reading_ns = costs.extra_ns(large)
    assert reading_ns == planned_ns
    assert planned_ns > 100 * MS
    assert costs.observe([usual, large], [False, True], [2 * MS, 90 * MS], 120 * MS) == 87 * MS
    assert 87 * MS <= costs.extra_ns(large)[0] < planned_ns


def test_a_run_of_open_size_says_nothing_of_usual_frames() -> None:
    costs = FrameCosts(signature(VECTOR), {"read": {}, "graph": [[256, MS]], "open": [0]}, 10 * MS)
    small, large = [InputData(0, (64,), bytes(256))], [InputData(0, (9000,), bytes(36_000))]
    assert costs.observe([small], [False], [], 2 * MS) == 0
    assert costs.observe([large], [True], [], 40 * MS) == -1
    assert costs.extra_ns(large)[0] > 30 * MS


@pytest.mark.parametrize(
    "sizes",
    [
        {"read": {"PNG": [[1, 0]]}},
        {"read": {"PNG": [[1, 11 * MS]]}},
        {"read": {"PNG": [["1", 5]]}},
        {"read": {"GIF": [[1, 5]]}},
        {"graph": [[1, 5]], "open": [1]},
        {"graph": [[-4, 5]], "open": [0]},
        {"graph": 7},
    ],
)
def test_what_no_warm_up_can_have_measured_is_refused(sizes: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        FrameCosts(signature(PICTURE), sizes, 10 * MS)


def test_models_whose_frames_have_one_size_have_no_costs() -> None:
    assert not FrameCosts(signature(VECTOR), {"read": {}, "graph": [], "open": []}, MS)
