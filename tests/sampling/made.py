"""Samples as servers keep them, made up."""

import numpy as np

from duly.sampling.sample import Array, Form, Sample

FORM = Form("m", "1", {"input.x": "FP32", "output.y": "FP32"}, {"y": (3,)})


def sample(frame_id: int, *, stream: str = "s-1", form: Form = FORM, **more: object) -> Sample:
    """A frame whose arrays follow from its id."""
    arrays: dict[str, Array] = {
        "input.x": np.full(4, frame_id, np.float32),
        "output.y": np.array([frame_id, 0, 1], np.float32),
    }
    known: dict[str, object] = {
        "form": form,
        "variant": "default",
        "stream": stream,
        "frame_id": frame_id,
        "received_unix_ns": 1_000 + frame_id,
        "captured_unix_ns": 0,
        "status": "ON_TIME",
        "principal": "somebody",
        "arrays": arrays,
    }
    return Sample(**(known | more))  # type: ignore[arg-type]


def same(left: Sample, right: Sample) -> bool:
    """Whether both are the same frame with the same arrays."""
    arrays = left.arrays.keys() == right.arrays.keys() and all(
        np.array_equal(array, right.arrays[name]) and array.dtype.kind == right.arrays[name].dtype.kind
        for name, array in left.arrays.items()
    )
    fields = [name for name in Sample.__slots__ if name != "arrays"]
    return arrays and all(getattr(left, name) == getattr(right, name) for name in fields)
