"""The classes with the highest scores of an output, in place of its numbers: Triton's extension `classification`.

Each is the text SCORE:INDEX, or SCORE:INDEX:LABEL where the output has labels.
"""

from heapq import nlargest
from struct import unpack
from typing import Final

from duly.models.spec import ELEMENT_BYTES, TensorSpec
from duly.streams.errors import InvalidFrame
from duly.worker.text import write_texts

_CODES: Final = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}

SCORES_MAX = 131_072
"""An output with more scores, of all rows of a request together, is not told by its classes: the request is refused."""
CLASSES_MAX = 4096
"""Nor is one of which more classes are asked for, of all rows together: who wants so much may take the tensor. To write
so many takes some milliseconds, which all other calls wait for."""


def classes_of(spec: TensorSpec, rows: list[bytes], classes: int) -> tuple[tuple[int, ...], list[bytes]]:
    """Returns (the shape for one row, the rows as strings with their lengths) of the `classes` highest scores of each
    row. Raises InvalidFrame where the output has no scores.
    """
    code = _CODES.get(spec.datatype)
    if code is None:
        raise InvalidFrame(f"output {spec.name!r} is {spec.datatype}, which has no classes")
    scores_count = sum([len(row) for row in rows]) // ELEMENT_BYTES[spec.datatype]
    if scores_count > SCORES_MAX:
        raise InvalidFrame(f"output {spec.name!r} has {scores_count} scores, at most {SCORES_MAX} are put in order")
    if min(classes, scores_count) * len(rows) > CLASSES_MAX:
        text = f"{classes} classes of each of {len(rows)} rows are asked for, at most {CLASSES_MAX} in all are told"
        raise InvalidFrame(f"output {spec.name!r}: {text}")
    found: list[bytes] = []
    count = 0
    for row in rows:
        scores: tuple[float, ...] = unpack(f"<{len(row) // ELEMENT_BYTES[spec.datatype]}{code}", row)
        best = nlargest(min(classes, len(scores)), range(len(scores)), key=scores.__getitem__)
        count = len(best)
        found.append(write_texts([_text(spec, index, scores[index]) for index in best]))
    return (count,), found


def _text(spec: TensorSpec, index: int, score: float) -> str:
    text = f"{score:f}:{index}" if spec.datatype.startswith("FP") else f"{score}:{index}"
    return f"{text}:{spec.labels[index]}" if index < len(spec.labels) else text
