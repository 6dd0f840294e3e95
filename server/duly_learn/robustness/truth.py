"""Labels: what would have been right for each frame, made into an answer in the model's own form, which a measure can
compare."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duly.agreement.boxes import BoxesF1
from duly.agreement.measures import Binary, Measure, Outputs, TopOne
from duly.models.spec import Signature
from duly_learn.errors import LearnError
from duly_learn.frames.frame import Array

LABELS_BYTES_MAX = 256 << 20
"""A file of labels that is larger is not read."""
CLASSES_MAX = 1 << 31
"""Where nobody says how many classes there are."""


class LabelError(LearnError):
    """A label that is none, or labels that are not of these frames."""


def read_labels(file: Path) -> list[Any]:
    """Returns the labels of a file, one for each frame in their order: an array along its first dimension (.npy), a
    JSON list (.json), or a label a line (all other files). Raises LabelError, and OSError where it cannot be read.
    """
    if (size := file.stat().st_size) > LABELS_BYTES_MAX:
        raise LabelError(f"{file}: {size:,} bytes; at most {LABELS_BYTES_MAX:,} are read")
    try:
        if file.suffix == ".npy":
            array = np.load(file, allow_pickle=False)
            if not array.ndim:
                raise LabelError(f"{file}: is a single number; should have a label for each frame")
            return list(array)
        text = file.read_text("utf-8")
        if file.suffix != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        labels = json.loads(text)
    except (ValueError, EOFError) as error:
        raise LabelError(f"{file}: holds no labels: {error}") from error
    if not isinstance(labels, list):
        raise LabelError(f"{file}: should be a list with a label for each frame")
    return labels


def expected_of(label: Any, measure: Measure, answer: Outputs, signature: Signature, frame: int) -> Outputs:
    """Returns the answer that the label calls right, in the form of the `answer` that the model gave.

    A label is a class by its number or its name, yes or no, numbers as the output has them, or for boxes
    {"boxes": [[x0, y0, x1, y1], ...], "classes": [...]}; or a mapping from the names of outputs to these.

    Raises LabelError, which names the frame.
    """
    place = f"label of frame {frame}"
    if isinstance(measure, BoxesF1):
        return _boxes(label, measure, signature, place)
    output = measure.output  # type: ignore[attr-defined]  # all measures but that of boxes have one
    if isinstance(label, Mapping):
        if output not in label:
            raise LabelError(f"{place}: says nothing of output {output!r}, but of {', '.join(label) or 'nothing'}")
        label = label[output]
    names = next((spec.labels for spec in signature.outputs if spec.name == output), ())
    given = np.asarray(answer[output])
    if isinstance(measure, TopOne):
        return {output: _classes(label, given, names, place)}
    array = _numbers(label, place)
    if array.size == 1 and (given.size == 1 or isinstance(measure, Binary)):
        return {output: np.full(given.shape, array.ravel()[0])}
    if array.shape != given.shape:
        raise LabelError(f"{place}: has shape {list(array.shape)}, output {output!r} has {list(given.shape)}")
    return {output: array}


def _numbers(label: Any, place: str) -> Array:
    try:
        array = np.asarray(label, np.float64)
    except (TypeError, ValueError):
        raise LabelError(f"{place}: {_shown(label)} is no number") from None
    if np.isnan(array).any():
        raise LabelError(f"{place}: is NaN")
    return array


def _classes(label: Any, given: Array, names: Sequence[str], place: str) -> Array:
    if given.dtype.kind not in "f":  # classes themselves
        if given.dtype.kind in "OUT":
            return np.full(given.shape, str(np.asarray(label).ravel()[0]), object)
        entries = np.asarray(label, object).reshape(-1)
        if len(entries) not in (1, given.size):
            raise LabelError(f"{place}: has {len(entries)} classes, the answer has {given.size}")
        whole = [_class(entry, len(names) or CLASSES_MAX, names, place) for entry in entries]
        filled = np.full(given.shape, whole[0]) if len(whole) == 1 else np.asarray(whole).reshape(given.shape)
        return filled.astype(given.dtype)
    count, rows = given.shape[-1] if given.ndim else 1, given.shape[:-1]
    each = np.asarray(label, object).reshape(-1)
    if np.asarray(label).shape == given.shape and given.size > 1:  # scores of all classes
        return _numbers(label, place)
    if len(each) not in (1, int(np.prod(rows))):
        raise LabelError(f"{place}: has {len(each)} classes, the answer has {int(np.prod(rows))}")
    numbers = [_class(entry, count, names, place) for entry in each]
    one_hot: Array = np.eye(count)
    of_rows = np.full(rows, numbers[0]) if len(each) == 1 else np.asarray(numbers).reshape(rows)
    chosen: Array = one_hot[of_rows]
    return chosen


def _class(entry: Any, count: int, names: Sequence[str], place: str) -> int:
    if isinstance(entry, str) and entry in names:
        return names.index(entry)
    number = _numbers(entry, place).item()
    if number != int(number) or not 0 <= number < count:
        raise LabelError(f"{place}: there is no class {_shown(entry)}; they are 0 to {count - 1}")
    return int(number)


def _boxes(label: Any, measure: BoxesF1, signature: Signature, place: str) -> Outputs:
    if not isinstance(label, Mapping) or measure.boxes not in label:
        raise LabelError(
            f'{place}: should be {{"boxes": [[x0, y0, x1, y1], ...], "classes": [...]}}, got {_shown(label)}'
        )
    boxes = _numbers(label[measure.boxes], place)
    if boxes.size % 4:
        raise LabelError(f"{place}: {boxes.size} numbers are no whole number of boxes")
    right: dict[str, Array] = {measure.boxes: boxes.reshape(-1, 4)}
    if measure.classes in label:
        names = next((spec.labels for spec in signature.outputs if spec.name == measure.classes), ())
        count = len(names) or CLASSES_MAX
        classes = [_class(entry, count, names, place) for entry in np.asarray(label[measure.classes], object).ravel()]
        if len(classes) != len(right[measure.boxes]):
            raise LabelError(f"{place}: has {len(classes)} classes for {len(right[measure.boxes])} boxes")
        right[measure.classes] = np.asarray(classes, np.int64)
    return right


def _shown(label: Any) -> str:
    text = repr(label)
    return text if len(text) <= 60 else f"{text[:57]}..."
