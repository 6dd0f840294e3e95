"""Frames of .npz files: samples and stores of servers, check samples, and arrays of many frames.

What a server has kept (`duly.sampling.store`) says of each frame when and on which stream it came. A check sample is
one frame: `input.NAME` for each input, perhaps `output.NAME` for outputs, which are not read here, and perhaps
`label.NAME`. In a file without such names each array is that of an input and holds many frames along its first
dimension.
"""

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from duly.models.spec import TensorSpec
from duly.sampling.sample import INPUT, Sample
from duly.sampling.store import read
from duly_learn.errors import LearnError
from duly_learn.frames.frame import Array, Encoded, LearnFrame, Value

SAMPLE_BYTES_MAX = 1 << 30
"""A file that holds more, packed or unpacked, is not read."""
FILES_LOOKED_AT_MAX = 16
"""So many files of a folder are looked at to see whether a server has kept them."""
IN_A_ROW_MIN = 8
"""Of a model that keeps state so many frames must have followed one another; a state that has seen fewer is none."""
STREAMS_MAX = 10_000
"""Frames of so many streams are put together for it; those of others are passed over."""
_SUFFIX = ".npz"
_META = "meta.npy"


@dataclass(frozen=True, slots=True)
class Which:
    """Which of the frames that a server has kept are wanted."""

    model: str = ""
    """Those of this model; empty: of all."""
    flagged: bool = True
    """Also those on which a guard has found something."""
    in_a_row: bool = False
    """Only those of which the neighbours were kept, too, and each run of them as a stream of its own."""


ALL = Which()


def is_sample_folder(folder: Path) -> bool:
    """Whether files of samples lie in the folder, or a server's samples or store."""
    return any(path.suffix == _SUFFIX for path in folder.iterdir()) or _is_kept(folder)


def samples_in(folder: Path, inputs: tuple[TensorSpec, ...], which: Which = ALL) -> Iterator[LearnFrame | str]:
    """Gives the frames of all .npz files of the folder, those of a server in the order of time and others by their
    names' order, and in place of files that are none, why not. What `which` leaves out of a server's frames is counted,
    and said in the end.
    """
    if not _is_kept(folder):
        for path in sorted(folder.glob("*" + _SUFFIX)):
            yield from frames_of(path, inputs)
        return
    passed_over: list[str] = []
    others: Counter[str] = Counter()
    flagged = 0
    runs: dict[str, _Run] = {}
    for sample in read(folder, lambda path, reason: passed_over.append(f"{path}: {reason}")):
        yield from passed_over
        passed_over.clear()
        if which.model not in ("", sample.form.model):
            others[sample.form.model] += 1
        elif sample.guards and not which.flagged:
            flagged += 1
        elif missing := [spec.name for spec in inputs if spec.name not in sample.inputs]:
            yield _lacks(folder, missing[0], sample)
        elif not which.in_a_row:
            yield frame_of(sample)
        elif sample.stream in runs or len(runs) < STREAMS_MAX:
            yield from runs.setdefault(sample.stream, _Run()).followed_by(sample)
    yield from passed_over
    if others:
        yield f"{folder}: {others.total()} frames of other models ({', '.join(sorted(others))}) are passed over"
    if flagged:
        yield f"{folder}: {flagged} frames on which a guard has found something are passed over"
    if torn := sum(run.torn for run in runs.values()):
        yield (
            f"{folder}: {torn} frames are passed over as the {IN_A_ROW_MIN} in a row with them were not kept; a model "
            "that keeps state needs frames that follow one another: give a recording"
        )


class _Run:
    """The frames of one stream that were kept and follow one another."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._number = 0
        self._waiting: list[LearnFrame] = []
        self._long_enough = False
        self._torn = 0

    @property
    def torn(self) -> int:
        """How many frames were in no run that is long enough."""
        return self._torn + len(self._waiting)

    def followed_by(self, sample: Sample) -> Iterator[LearnFrame]:
        """Takes the stream's next frame, and gives those that are now known to be in a run, each run as a stream."""
        if self._last is None or sample.frame_id != self._last + 1:
            self._torn += len(self._waiting)
            self._waiting, self._long_enough = [], False
            self._number += 1
        self._last = sample.frame_id
        frame = frame_of(sample)
        self._waiting.append(replace(frame, stream=f"{frame.stream}:{self._number}"))
        self._long_enough = self._long_enough or len(self._waiting) >= IN_A_ROW_MIN
        if self._long_enough:
            yield from self._waiting
            self._waiting = []


def frame_of(sample: Sample) -> LearnFrame:
    """Returns a frame that a server has kept as its client sent it."""
    inputs: dict[str, Value] = {}
    for name, array in sample.inputs.items():
        encoding = sample.encodings.get(INPUT + name)
        inputs[name] = _text(array) if encoding is None else Encoded(encoding, array.tobytes())
    return LearnFrame(inputs, sample.stream, sample.captured_unix_ns or sample.received_unix_ns, sample.labels or None)


def _lacks(folder: Path, name: str, sample: Sample) -> str:
    there = ", ".join(sample.inputs)
    return f"{folder}: frame {sample.frame_id} of {sample.stream} lacks the input {name}; it has {there}"


def _is_kept(folder: Path) -> bool:
    """Whether a server has written what lies below the folder: its files say of themselves what they are."""
    for path in islice(folder.rglob("*" + _SUFFIX), FILES_LOOKED_AT_MAX):
        try:
            with zipfile.ZipFile(path) as archive:
                if _META in archive.namelist():
                    return True
        except (OSError, zipfile.BadZipFile):
            continue
    return False


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
    return any(name.startswith(INPUT) for name in arrays)


def _sample(path: Path, arrays: Mapping[str, Array], inputs: tuple[TensorSpec, ...]) -> LearnFrame:
    for spec in inputs:
        if f"{INPUT}{spec.name}" not in arrays:
            there = ", ".join(arrays) or "none"
            raise LearnError(f"{path}: lacks the array {INPUT}{spec.name}; it has {there}")
    values: dict[str, Value] = {spec.name: _text(arrays[INPUT + spec.name]) for spec in inputs}
    labels = {name.removeprefix("label."): array for name, array in arrays.items() if name.startswith("label.")}
    return LearnFrame(values, path.parent.name, 0, labels or None)


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
    return np.asarray(array).astype(object) if array.dtype.kind == "U" else array
