"""A frame and an answer to it for the eye: a picture with the boxes drawn into it, or series of numbers."""

from collections.abc import Mapping

import cv2
import numpy as np

from duly.agreement.measures import Outputs
from duly_learn.frames.frame import Array, Encoded, LearnFrame
from duly_learn.report.page import Figure, Image, Json, layout

SIDE_PX_MAX = 640
"""Pictures are made no larger, so that a page stays small."""
POINTS_MAX = 2000
"""A series with more numbers is thinned out."""
SERIES_MAX = 4
CLASSES_NAMED = 3
BOXES_DRAWN_MAX = 50
_GREEN, _WHITE, _BLACK = (80, 190, 60), (255, 255, 255), (0, 0, 0)


def picture_of(frame: LearnFrame) -> Array | None:
    """Returns the frame's picture [height, width, 3], BGR of 8 bits; None: it has none that can be drawn."""
    for value in frame.inputs.values():
        if isinstance(value, Encoded):
            found = cv2.imdecode(np.frombuffer(value.data, np.uint8), cv2.IMREAD_COLOR)
            if found is not None:
                return np.asarray(found)
        elif value.ndim == 3 and value.shape[2] in (1, 3) and value.dtype == np.uint8 and min(value.shape[:2]) > 8:
            return np.ascontiguousarray(value[:, :, ::-1] if value.shape[2] == 3 else np.repeat(value, 3, axis=2))
        elif value.ndim == 3 and value.shape[0] in (1, 3) and min(value.shape[1:]) > 8 and value.dtype.kind == "f":
            low, high = float(value.min()), float(value.max())
            plane = np.moveaxis((value - low) / (high - low or 1.0) * 255, 0, 2).astype(np.uint8)
            return np.ascontiguousarray(plane[:, :, ::-1] if plane.shape[2] == 3 else np.repeat(plane, 3, axis=2))
    return None


def drawn(
    frame: LearnFrame, answer: Outputs | None, labels: Mapping[str, tuple[str, ...]], caption: str
) -> Image | None:
    """Returns the frame's picture as JPEG with the boxes of the answer, and what else it says below it; None: the frame
    is no picture. `labels`: by output.
    """
    picture = picture_of(frame)
    if picture is None:
        return None
    scale = min(1.0, SIDE_PX_MAX / max(picture.shape[:2]))
    picture = (
        cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture.copy()
    )
    if answer is not None and "boxes" in answer:
        _draw_boxes(picture, answer, next(iter(labels.values()), ()))
        caption = f"{caption}: {len(answer['boxes'])} boxes"
    else:
        caption = f"{caption}: {said(answer, labels)}"
    data = bytes(cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 80))[1])
    return Image(data, "image/jpeg", caption)


def said(answer: Outputs | None, labels: Mapping[str, tuple[str, ...]]) -> str:
    """An answer in few words: the best classes where they have names, else the first numbers."""
    if answer is None:
        return "no answer"
    parts = []
    for name, array in answer.items():
        flat = np.asarray(array).ravel()
        names = labels.get(name, ())
        if names and flat.dtype.kind == "f" and len(flat) == len(names):
            best = np.argsort(-flat)[:CLASSES_NAMED]
            parts.append(", ".join(f"{names[index]} {flat[index]:.3g}" for index in best))
        else:
            shown = ", ".join(f"{each:.4g}" if flat.dtype.kind == "f" else str(each) for each in flat[:CLASSES_NAMED])
            parts.append(f"{name} {shown}{', …' if len(flat) > CLASSES_NAMED else ''}")
    return "; ".join(parts)


def series(frame: LearnFrame, expected: Outputs, got: Outputs | None, names: tuple[str, str]) -> list[Figure]:
    """Returns the inputs of a frame as lines, and its two answers as lines over one another, called `names`."""
    inputs: list[Json] = []
    for place, (name, value) in enumerate(frame.inputs.items()):
        if isinstance(value, Encoded):
            if value.encoding != "PCM_S16LE":
                continue
            value = np.frombuffer(value.data[: len(value.data) // 2 * 2], "<i2")
        if value.dtype.kind in "iuf" and value.size > 1 and place < SERIES_MAX:
            inputs.append(_line(name, value, f"--series-{place}", "solid"))
    answers: list[Json] = []
    for place, (name, wanted) in enumerate(expected.items()):
        if wanted.dtype.kind not in "iufb" or wanted.size < 2 or place >= SERIES_MAX:
            continue
        answers.append(_line(f"{name}, {names[0]}", wanted, f"--series-{place}", "solid"))
        if got is not None:
            answers.append(_line(f"{name}, {names[1]}", got[name], f"--series-{place}", "dot"))
    return [
        Figure(lines, layout(260, "element", title))
        for lines, title in ((inputs, "input"), (answers, "output"))
        if lines
    ]


def _line(name: str, array: Array, colour: str, dash: str) -> Json:
    flat = np.asarray(array, np.float64).ravel()
    step = -(-len(flat) // POINTS_MAX) or 1
    values: list[float | None] = [float(f"{each:.6g}") if np.isfinite(each) else None for each in flat[::step].tolist()]
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(values) < 20 else "lines",
        "name": name,
        "x": list(range(0, len(flat), step)),
        "y": values,
        "line": {"color": colour, "dash": dash, "width": 1.5},
    }


def _draw_boxes(picture: Array, answer: Outputs, labels: tuple[str, ...]) -> None:
    height, width = picture.shape[:2]
    classes = np.asarray(answer.get("classes", np.zeros(0))).ravel()
    scores = np.asarray(answer.get("scores", np.zeros(0))).ravel()
    for index, box in enumerate(np.asarray(answer["boxes"])[:BOXES_DRAWN_MAX]):
        x0, y0, x1, y1 = (round(float(each)) for each in box * (width, height, width, height))
        cv2.rectangle(picture, (x0, y0), (x1, y1), _GREEN, 2)
        number = int(classes[index]) if index < len(classes) else -1
        name = labels[number] if 0 <= number < len(labels) else str(number)
        text = f"{name} {scores[index]:.2f}" if index < len(scores) else name
        place = (max(0, x0 + 2), max(12, y0 - 4))
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, _BLACK, 3, cv2.LINE_AA)
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, _WHITE, 1, cv2.LINE_AA)
