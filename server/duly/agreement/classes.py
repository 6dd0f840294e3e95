"""Which class a frame's answer and its label name.

The scores of a model are one output of floating point: a number for each class, of which the largest is the answer, or
one number, which is about class 1 (of two). Labels name a class by its number, or give scores in the output's place.
"""

from collections.abc import Mapping

import numpy as np

from duly.agreement.measures import Array, Outputs


def scores_name(outputs: Outputs, named: str) -> str:
    """Returns the output that has the scores; empty: there is none, or more than one that may be it. `named`: the one
    that model.toml names; empty: it names none.
    """
    floating = [name for name, array in outputs.items() if array.dtype.kind == "f" and array.size]
    if named:
        return named if named in floating else ""
    return floating[0] if len(floating) == 1 else ""


def classes_of(scores: Array) -> int:
    """Returns how many classes scores are about."""
    return max(2, scores.size)


def answer_of(scores: Array, threshold: float) -> int:
    """Returns the class that is answered. `threshold`: from where on one number alone means class 1."""
    flat = scores.ravel()
    if flat.size == 1:
        return int(flat[0] >= threshold)
    return int(flat.argmax())


def label_of(labels: Mapping[str, Array], class_label: str, scores: str, classes: int) -> int | None:
    """Returns the class that a client has named; None: it has named none that there is."""
    if (named := labels.get(class_label)) is not None:
        number = named.ravel()
        if number.size != 1 or number.dtype.kind not in "biuf" or not np.isfinite(number[0]):
            return None
        at = int(number[0])
        return at if 0 <= at < classes and at == number[0] else None
    if (given := labels.get(scores)) is not None and given.dtype.kind in "biuf" and given.size in (1, classes):
        return answer_of(given, 0.5)
    return None
