"""Frames of .npz files: samples that a server has taken, check samples, and arrays of many frames.

A sample is one frame: `input.NAME` for each input, perhaps `output.NAME` for outputs, which are not read here, and
perhaps `label.NAME`. What is encoded is an array of bytes whose encoding stands in `meta`, the JSON that tells of the
frame. In a file without such names each array is that of an input and holds many frames along its first dimension.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from duly.models.spec import TensorSpec
from duly_learn.errors import LearnError
from duly_learn.frames.frame import Array, Encoded, LearnFrame, Value

SAMPLE_BYTES_MAX = 1 << 30
"""A file that holds more, packed or unpacked, is not read."""


def is_sample_folder(folder: Path) -> bool:
    """Whether files of samples lie in the folder."""
    return any(path.suffix == ".npz" for path in folder.iterdir())


def samples_in(folder: Path, inputs: tuple[TensorSpec, ...]) -> Iterator[LearnFrame | str]:
    """Gives the frames of all .npz files of the folder by their names' order, and in place of files that are none, why
    not.
    """
    for path in sorted(folder.glob("*.npz")):
        yield from frames_of(path, inputs)


def frames_of(path: Path, inputs: tuple[TensorSpec, ...]) -> Iterator[LearnFrame | str]:
    """Gives the frames of one .npz file, or why it holds none."""
    try:
        arrays = _read(path)
        frames = [_sample(path, arrays, inputs)] if _is_sample(arrays) else _many(path, arrays, inputs)
    except LearnError as error:
        yield str(error)
    else:
        yield from frames


def _read(path: Path) -> dict[str, Array]:
    if path.stat().st_size > SAMPLE_BYTES_MAX:
        raise LearnError(f"{path}: {path.stat().st_size:,} bytes; at most {SAMPLE_BYTES_MAX:,} are read")
    try:
        with np.load(path, allow_pickle=False) as archive:
            sizes = sum(member.file_size for member in archive.zip.infolist())
            if sizes > SAMPLE_BYTES_MAX:
                raise LearnError(f"{path}: {sizes:,} bytes unpacked; at most {SAMPLE_BYTES_MAX:,} are read")
            return {name: archive[name] for name in archive.files}
    except LearnError:
        raise
    except Exception as error:  # damaged archives fail in as many ways as there are
        raise LearnError(f"{path}: is no .npz file of plain arrays ({type(error).__name__})") from error


def _is_sample(arrays: Mapping[str, Array]) -> bool:
    return any(name.startswith("input.") for name in arrays)


def _sample(path: Path, arrays: Mapping[str, Array], inputs: tuple[TensorSpec, ...]) -> LearnFrame:
    meta = _meta(path, arrays)
    stated = meta.get("encodings")
    encodings: dict[str, Any] = stated if isinstance(stated, dict) else {}
    values: dict[str, Value] = {}
    for spec in inputs:
        array = arrays.get(f"input.{spec.name}")
        if array is None:
            there = ", ".join(arrays) or "none"
            raise LearnError(f"{path}: lacks the array input.{spec.name}; it has {there}")
        encoding = encodings.get(spec.name, "")
        values[spec.name] = Encoded(str(encoding), array.tobytes()) if encoding else _text(array)
    labels = {name.removeprefix("label."): array for name, array in arrays.items() if name.startswith("label.")}
    when_ns = next((meta[key] for key in _TIMES if isinstance(meta.get(key), int)), 0)
    stream = str(meta.get("stream", path.parent.name))
    return LearnFrame(values, stream, when_ns, labels or None)


_TIMES = ("captured_unix_ns", "received_unix_ns", "capture_ns", "received_ns")


def _meta(path: Path, arrays: Mapping[str, Array]) -> dict[str, Any]:
    found = arrays.get("meta")
    if found is None:
        return {}
    try:
        text = found.tobytes() if found.dtype == np.uint8 else str(found.item())
        meta = json.loads(text)
    except ValueError as error:
        raise LearnError(f"{path}: its array meta is no JSON") from error
    return meta if isinstance(meta, dict) else {}


def _many(path: Path, arrays: Mapping[str, Array], inputs: tuple[TensorSpec, ...]) -> list[LearnFrame]:
    missing = [spec.name for spec in inputs if spec.name not in arrays]
    if missing and len(inputs) == 1 and len(arrays) == 1:
        arrays, missing = {inputs[0].name: next(iter(arrays.values()))}, []
    if missing:
        raise LearnError(
            f"{path}: lacks the array {missing[0]}; it has {', '.join(arrays) or 'none'}. A file of frames has an "
            "array for each input, with the frames along its first dimension, one of a sample has input.NAME"
        )
    counts = {spec.name: len(arrays[spec.name]) if arrays[spec.name].ndim else 0 for spec in inputs}
    if len(set(counts.values())) != 1:
        raise LearnError(f"{path}: its arrays hold different numbers of frames: {counts}")
    frames = next(iter(counts.values()))
    return [
        LearnFrame({spec.name: _text(arrays[spec.name][index]) for spec in inputs}, path.name, index)
        for index in range(frames)
    ]


def _text(array: Array) -> Array:
    """Text as duly has it, which is arrays of str; all else as it is."""
    return array.astype(object) if array.dtype.kind == "U" else array
