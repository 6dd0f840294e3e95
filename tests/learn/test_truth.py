"""Labels: how they are read and made into answers, and the words for those that are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duly.agreement.boxes import BoxesF1
from duly.agreement.measures import Binary, Closeness, Measure, Outputs, TopOne
from duly.models.spec import Signature, TensorSpec
from duly_learn.robustness.truth import LabelError, expected_of, read_labels

SCORES = {"y": np.float32([0.1, 0.7, 0.2])}
NAMES = ("cat", "dog", "horse")


def signature(*specs: TensorSpec) -> Signature:
    return Signature(inputs=(), outputs=specs, batch_sizes=(1,), any_size=True, stateful=False)


OF_SCORES = signature(TensorSpec(name="y", datatype="FP32", shape=(3,), labels=NAMES))
DETECTOR = signature(
    TensorSpec(name="boxes", datatype="FP32", shape=(-1, 4)),
    TensorSpec(name="classes", datatype="INT64", shape=(-1,), labels=NAMES),
)


@pytest.mark.parametrize(
    "label", [1, "1", "dog", np.int64(1), {"y": 1}, {"y": np.int64([1])}, np.float32([0, 1, 0]), [0.2, 0.5, 0.3]]
)
def test_a_class_is_told_by_number_name_or_scores(label: Any) -> None:
    measure = TopOne("y")
    assert measure.of(expected_of(label, measure, SCORES, OF_SCORES, 0), SCORES) == 1
    assert measure.of(expected_of(0, measure, SCORES, OF_SCORES, 0), SCORES) == 0


def test_rows_have_a_class_each_or_all_the_same() -> None:
    answer = {"y": np.float32([[0.9, 0.1], [0.2, 0.8]])}
    measure, of = TopOne("y"), signature(TensorSpec(name="y", datatype="FP32", shape=(2, 2)))
    assert measure.of(expected_of([0, 1], measure, answer, of, 0), answer) == 1
    assert measure.of(expected_of(0, measure, answer, of, 0), answer) == 0.5


@pytest.mark.parametrize(
    ("answer", "label"), [(np.int64([4]), "4"), (np.int64([4]), 4), (np.array(["x"], object), "x")]
)
def test_answers_that_are_classes_themselves(answer: Any, label: Any) -> None:
    measure, of = TopOne("y"), signature(TensorSpec(name="y", datatype="INT64", shape=(1,)))
    assert measure.of(expected_of(label, measure, {"y": answer}, of, 0), {"y": answer}) == 1
    assert measure.of(expected_of("5", measure, {"y": answer}, of, 0), {"y": answer}) == 0


def test_yes_and_no_and_numbers() -> None:
    answer = {"y": np.float32([0.8])}
    of = signature(TensorSpec(name="y", datatype="FP32", shape=(1,)))
    assert Binary("y").of(expected_of("1", Binary("y"), answer, of, 0), answer) == 1
    assert Binary("y").of(expected_of(0, Binary("y"), answer, of, 0), answer) == 0
    assert Closeness("y", 1.0).of(expected_of(0.5, Closeness("y"), answer, of, 0), answer) == pytest.approx(0.7)


def test_boxes_with_classes_by_number_or_name() -> None:
    answer: Outputs = {"boxes": np.float32([[0, 0, 10, 10]]), "classes": np.int64([1])}
    for classes in ([1], ["dog"]):
        label = {"boxes": [[0, 0, 10, 10]], "classes": classes}
        assert BoxesF1().of(expected_of(label, BoxesF1(), answer, DETECTOR, 0), answer) == 1
    none = expected_of({"boxes": [], "classes": []}, BoxesF1(), answer, DETECTOR, 0)
    assert BoxesF1().of(none, answer) == 0


@pytest.mark.parametrize(
    ("measure", "answer", "label", "words"),
    [
        (TopOne("y"), SCORES, "nan", "label of frame 7: is NaN"),
        (TopOne("y"), SCORES, float("nan"), "label of frame 7: is NaN"),
        (TopOne("y"), SCORES, 3, "label of frame 7: there is no class 3; they are 0 to 2"),
        (TopOne("y"), SCORES, 1.5, "label of frame 7: there is no class 1.5"),
        (TopOne("y"), SCORES, "cow", "label of frame 7: 'cow' is no number"),
        (TopOne("y"), SCORES, [0, 1], "label of frame 7: has 2 classes, the answer has 1"),
        (TopOne("y"), SCORES, {"z": 1}, "label of frame 7: says nothing of output 'y', but of z"),
        (Closeness("y"), SCORES, [1.0, 2.0], r"label of frame 7: has shape \[2\], output 'y' has \[3\]"),
        (Closeness("y"), SCORES, [1.0, None, 2.0], "label of frame 7: is NaN"),
        (BoxesF1(), SCORES, 3, "label of frame 7: should be .*boxes"),
        (BoxesF1(), SCORES, {"boxes": [[1, 2, 3]]}, "label of frame 7: 3 numbers are no whole number of boxes"),
        (BoxesF1(), SCORES, {"boxes": [], "classes": [1]}, "label of frame 7: has 1 classes for 0 boxes"),
        (BoxesF1(), SCORES, {"boxes": [[0, 0, 1, 1]], "classes": [9]}, "there is no class 9; they are 0 to 2"),
    ],
)
def test_what_is_no_label_is_named_with_its_frame(measure: Measure, answer: Any, label: Any, words: str) -> None:
    with pytest.raises(LabelError, match=words):
        expected_of(label, measure, answer, DETECTOR if isinstance(measure, BoxesF1) else OF_SCORES, 7)


def test_files_of_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.int64([3, 1, 2]))
    (tmp_path / "b.json").write_text(json.dumps([3, {"boxes": []}, "dog"]))
    (tmp_path / "c.txt").write_text("3\n1\n\ndog\n")
    assert read_labels(tmp_path / "a.npy") == [3, 1, 2]
    assert read_labels(tmp_path / "b.json") == [3, {"boxes": []}, "dog"]
    assert read_labels(tmp_path / "c.txt") == ["3", "1", "dog"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"no numpy", "holds no labels"),
        ("a.npy", b"", "holds no labels"),
        ("b.json", b"{}", "should be a list"),
        ("b.json", b"[1,", "holds no labels"),
        ("c.txt", b"\xff\xfe\x00", "holds no labels"),
    ],
)
def test_files_that_hold_none_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabelError, match=words):
        read_labels(tmp_path / name)
    np.save(tmp_path / "one.npy", np.int64(3))
    with pytest.raises(LabelError, match="single number"):
        read_labels(tmp_path / "one.npy")
