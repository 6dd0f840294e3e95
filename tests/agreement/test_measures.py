"""How alike two answers are, by hand."""

import numpy as np
import pytest

from duly.agreement.boxes import BOXES_MAX, BoxesF1, iou
from duly.agreement.measures import Binary, Closeness, Correlation, Measure, Outputs, TopOne


def y(*values: float) -> Outputs:
    return {"y": np.float32(values)}


def test_the_best_class_counts_and_not_its_score() -> None:
    assert TopOne("y").of(y(0.1, 0.7, 0.2), y(0.3, 0.4, 0.3)) == 1.0
    assert TopOne("y").of(y(0.1, 0.7, 0.2), y(0.5, 0.4, 0.1)) == 0.0


def test_rows_of_classes_count_by_their_share() -> None:
    wanted = np.float32([[1, 0], [0, 1], [1, 0], [0, 1]])
    got = np.float32([[1, 0], [1, 0], [1, 0], [0, 1]])
    assert TopOne("y").of({"y": wanted}, {"y": got}) == 0.75


def test_classes_as_numbers_and_as_text_are_compared_as_they_are() -> None:
    assert TopOne("y").of({"y": np.int64([3])}, {"y": np.int64([3])}) == 1.0
    assert TopOne("y").of({"y": np.int64(3)}, {"y": np.int64(4)}) == 0.0
    assert TopOne("y").of({"y": np.array(["cat"], object)}, {"y": np.array(["cat"], object)}) == 1.0


def test_numbers_are_on_one_side_of_the_threshold_or_not() -> None:
    assert Binary("y").of(y(0.9, 0.1, 0.6, 0.2), y(0.5, 0.3, 0.4, 0.0)) == 0.75
    assert Binary("y", threshold=0.0).of(y(-1, 1), y(-5, 0)) == 1.0


def test_signals_that_rise_and_fall_together_correlate() -> None:
    assert Correlation("y").of(y(1, 2, 3), y(10, 20, 30)) == pytest.approx(1.0)
    assert Correlation("y").of(y(1, 2, 3), y(3, 2, 1)) == 0.0
    assert Correlation("y").of(y(1, 2, 1, 2), y(1, 1, 2, 2)) == pytest.approx(0.0)
    assert 0.9 < Correlation("y").of(y(1, 2, 3, 4), y(1, 2, 3, 5)) < 1.0


def test_what_is_constant_correlates_with_the_same_constant_alone() -> None:
    assert Correlation("y").of(y(2, 2, 2), y(2, 2, 2)) == 1.0
    assert Correlation("y").of(y(2, 2, 2), y(3, 3, 3)) == 0.0
    assert Correlation("y").of(y(0, 0, 0), y(0, 0, 1)) == 0.0


def test_huge_numbers_correlate_as_well() -> None:
    assert Correlation("y").of(y(1e30, 2e30, 3e30), y(1e30, 2e30, 3.1e30)) == pytest.approx(1.0, abs=0.01)


def test_closeness_is_the_largest_difference_in_terms_of_the_scale() -> None:
    assert Closeness("y").of(y(0, 10), y(1, 10)) == pytest.approx(0.9)
    assert Closeness("y", scale=2.0).of(y(0, 10), y(1, 10)) == pytest.approx(0.5)
    assert Closeness("y").of(y(0, 10), y(40, 10)) == 0.0
    assert Closeness("y").of(y(0, 0), y(0, 0)) == 1.0
    assert Closeness("y").of(y(0, 0), y(0, 1e-9)) == 0.0
    text = {"y": np.array(["a", "b"], object)}
    assert Closeness("y").of(text, {"y": np.array(["a", "c"], object)}) == 0.5


@pytest.mark.parametrize("measure", [TopOne("y"), Binary("y"), Correlation("y"), Closeness("y")])
class TestEach:
    def test_an_answer_agrees_with_itself(self, measure: Measure) -> None:
        rng = np.random.default_rng(1)
        for _ in range(20):
            answer = {"y": rng.normal(size=(3, 5)).astype(np.float32)}
            assert measure.of(answer, answer) == pytest.approx(1.0)

    def test_it_lies_in_0_to_1(self, measure: Measure) -> None:
        rng = np.random.default_rng(2)
        for _ in range(100):
            a, b = ({"y": (rng.normal(size=7) * 10 ** rng.uniform(-9, 9)).astype(np.float32)} for _ in range(2))
            assert 0.0 <= measure.of(a, b) <= 1.0

    def test_another_shape_has_nothing_of_it(self, measure: Measure) -> None:
        assert measure.of(y(1, 2), y(1, 2, 3)) == 0.0

    def test_a_nan_that_nobody_expects_has_nothing_of_it(self, measure: Measure) -> None:
        assert measure.of(y(0.9, 0.9), y(np.nan, np.nan)) == 0.0

    def test_no_elements_are_the_same(self, measure: Measure) -> None:
        assert measure.of(y(), y()) == 1.0

    def test_an_output_that_is_not_there_is_the_callers_error(self, measure: Measure) -> None:
        with pytest.raises(KeyError):
            measure.of({"z": np.zeros(1)}, {"z": np.zeros(1)})


def boxes(*rows: tuple[float, float, float, float], classes: list[int]) -> Outputs:
    return {"boxes": np.float32(rows).reshape(-1, 4), "classes": np.int64(classes)}


A, B, FAR = (0.0, 0.0, 0.2, 0.2), (0.5, 0.5, 0.9, 0.9), (0.3, 0.0, 0.4, 0.1)


def test_boxes_are_matched_one_to_one_within_their_class() -> None:
    measure = BoxesF1()
    both = boxes(A, B, classes=[1, 2])
    assert measure.of(both, both) == 1.0
    assert measure.of(both, boxes(B, A, classes=[2, 1])) == 1.0
    assert measure.of(both, boxes(A, B, classes=[1, 1])) == 0.5
    assert measure.of(both, boxes(A, classes=[1])) == pytest.approx(2 / 3)
    assert measure.of(boxes(A, classes=[1]), boxes(A, A, classes=[1, 1])) == pytest.approx(2 / 3)
    assert measure.of(boxes(A, classes=[1]), boxes(FAR, classes=[1])) == 0.0


def test_answers_without_boxes_are_the_same() -> None:
    none = boxes(classes=[])
    assert BoxesF1().of(none, none) == 1.0
    assert BoxesF1().of(none, boxes(A, classes=[0])) == 0.0
    assert BoxesF1().of(boxes(A, classes=[0]), none) == 0.0


def test_boxes_that_are_turned_inside_out_match_nothing() -> None:
    inside_out = boxes((0.2, 0.2, 0.0, 0.0), classes=[1])
    assert BoxesF1().of(inside_out, inside_out) == 0.0


def test_iou_of_halves() -> None:
    assert iou(np.array([[0, 0, 2, 1.0]]), np.array([[1, 0, 3, 1.0], [0, 0, 2, 1.0]])).tolist() == [[1 / 3, 1.0]]


def test_no_more_boxes_are_compared_than_the_limit() -> None:
    many = {"boxes": np.tile(np.float32(A), (BOXES_MAX + 500, 1)), "classes": np.zeros(BOXES_MAX + 500, np.int64)}
    assert BoxesF1().of(many, many) == 1.0


@pytest.mark.parametrize(
    "measure", [TopOne("y"), Binary("y", 0.2), Closeness("y"), Correlation("y"), BoxesF1()], ids=lambda each: each.name
)
def test_the_sign_of_a_margin_says_whether_all_is_right(measure: Measure) -> None:
    rng = np.random.default_rng(3)
    for shape in ((4,), (3, 4), (1, 4)):
        for _ in range(50):
            wanted = rng.standard_normal(shape)
            got = wanted + rng.normal(0, 0.5, shape)
            expected, given = ({"y": each, "boxes": each} for each in (wanted, got))
            margin, score = measure.margin(expected, given), measure.of(expected, given)
            if measure.name in ("top1", "binary"):
                assert (margin > 0) == (score == 1)
            else:
                assert margin == score


def test_margins_are_numbers_whatever_the_answers() -> None:
    lost = {"y": np.array([0.3, np.nan, 0.1])}
    other = {"y": np.array([0.3, 0.1])}
    whole = {"y": np.int64(3)}
    for measure in (TopOne("y"), Binary("y")):
        assert measure.margin({"y": np.array([0.3, 0.9, 0.1])}, lost) == -np.inf
        assert measure.margin(lost, other) == 0
        assert measure.margin(whole, whole) == 1
    assert TopOne("y").margin({"y": np.array([0.5])}, {"y": np.array([0.4])}) == 1
