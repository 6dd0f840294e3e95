"""Runs the check samples of a version: frames whose results its author states. A version that gives others is not
served.

A sample is an .npz file of NumPy, in the folder `checks` of the version or of the model. It holds one frame, without a
batch dimension: an array `input.NAME` for each input, and `output.NAME` for each output that is compared. Text
is an array of NumPy's str (`<U…`), and BF16 one of ml_dtypes' bfloat16 or its bits as uint16. The most accurate variant
must agree within the tolerances of model.toml; the others only run, since they may differ.
"""

import io
import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from duly.models.folders import CHECKS_FOLDER, entries
from duly.models.spec import Checks, Signature, TensorSpec
from duly.models.wording import first_few, in_print
from duly.worker.channel import OK, Region, Run, TensorRef
from duly.worker.dtypes import BFLOAT16, DTYPES, TEXT, Array, as_numbers, text_array
from duly.worker.errors import LoadError, RunError
from duly.worker.model import Model
from duly.worker.slot_layout import layout
from duly.worker.text import read_texts, write_texts
from duly.worker.version_files import VersionFiles

SAMPLES_MAX = 64
"""A version with more samples is not loaded, as they would make every load long."""
SAMPLE_BYTES_MAX = 1 << 28
"""A sample may have so many bytes, packed and unpacked; the version of a larger one is not loaded."""
_ARRAYS_MAX = 1024
_HEADER_CHARS_MAX = 10_000
_SAVED_BFLOAT16 = np.dtype("V2")
"""What NumPy saves arrays of ml_dtypes' bfloat16 as."""
_SAMPLE_TYPES = {"STRING": "str", "BF16": "bfloat16, or its bits as uint16"}


class CheckSamples:
    """The samples of one version, which the first worker of the version runs once it is warm."""

    def __init__(self, files: VersionFiles, folder: Path, model_folder: Path, key: str, checks: Checks) -> None:
        self._files = files
        self._checks = checks
        name = key.partition("/")[0]
        homes = ((folder, key), (model_folder, name))
        self._places = [place for home, called in homes for place in _found(home / CHECKS_FOLDER, called)]
        if len(self._places) > SAMPLES_MAX:
            raise LoadError(f"{key}: has {len(self._places)} check samples; at most {SAMPLES_MAX} are run")
        if len(self._places) < checks.samples_min:
            raise LoadError(
                f"{name}/model.toml: checks.samples_min is {checks.samples_min}, and {key} has "
                f"{len(self._places)}; put them into {key}/{CHECKS_FOLDER}, such as by numpy.savez"
            )

    def run(self, models: Sequence[Model], region: Region, signature: Signature) -> None:
        """Runs every sample. Raises LoadError where one cannot be run, or a result is not the stated one."""
        for path, name in self._places:
            try:
                arrays = _unpack(self._files.sample(path, name, SAMPLE_BYTES_MAX))
                stated = _stated(arrays, signature)
                for nth, model in enumerate(models):
                    results = _run(model, region, signature, arrays)
                    if not nth:
                        self._compare(stated, results)
            except (LoadError, RunError) as error:
                raise LoadError(f"{name}: {error}") from error

    def _compare(self, stated: dict[str, Array], results: dict[str, Array]) -> None:
        absolute, relative = self._checks.absolute, self._checks.relative
        for name, expected in stated.items():
            got = _comparable(results[name])
            if got.shape != expected.shape:
                shapes = f"has shape {list(got.shape)}, the sample states {list(expected.shape)}"
                raise LoadError(f"output '{name}' {shapes}")
            text = got.dtype == TEXT
            exact = not np.issubdtype(got.dtype, np.floating)
            wanted = expected.astype(np.float64) if not exact else expected
            agrees = got == wanted if exact else np.isclose(got, wanted, relative, absolute, equal_nan=True)
            if agrees.all():
                continue
            place = np.unravel_index(int(np.argmin(agrees)), got.shape)
            where = f"[{', '.join(map(str, place))}]" if got.shape else ""
            within = "" if exact else f" within {absolute:g} and {relative:g} of it (checks.absolute, checks.relative)"
            wrong = int(agrees.size - np.count_nonzero(agrees))
            raise LoadError(
                f"output '{name}' disagrees in {wrong:,} of {agrees.size:,} {'texts' if text else 'numbers'}: {where} "
                f"is {_shown(got[place])}, the sample states {_shown(expected[place])}{within}"
            )


def _comparable(array: Array) -> Array:
    """Text as it is, and all else as numbers."""
    return array if array.dtype == TEXT else as_numbers(array)


def _shown(element: Any) -> str:
    return f"{element!r:.80}" if isinstance(element, str) else f"{element:g}"


def _found(folder: Path, called: str) -> list[tuple[Path, str]]:
    """Returns the samples in a folder, which is part of what is `called` so, with what errors call them."""
    name = f"{called}/{CHECKS_FOLDER}"
    try:
        if not folder.is_dir():
            return []
        return [(path, in_print(f"{name}/{path.name}")) for path in entries(folder) if path.suffix.lower() == ".npz"]
    except OSError as error:
        raise LoadError(f"{name}: cannot be read: {error.strerror}") from error


def _unpack(data: bytes) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > _ARRAYS_MAX or sum(member.file_size for member in members) > SAMPLE_BYTES_MAX:
                raise LoadError(f"has more than {_ARRAYS_MAX:,} arrays, or {SAMPLE_BYTES_MAX:,} bytes unpacked")
            for member in members:
                with archive.open(member) as file:
                    packed: Any = io.BytesIO(file.read(member.file_size))
                array = np.lib.format.read_array(packed, allow_pickle=False, max_header_size=_HEADER_CHARS_MAX)
                arrays[member.filename.removesuffix(".npy")] = array
    except LoadError:
        raise
    except Exception as error:  # damaged archives fail in as many ways as there are
        raise LoadError(f"is no .npz file of plain numbers ({type(error).__name__}); save it by numpy.savez") from error
    return arrays


def _stated(arrays: dict[str, Array], signature: Signature) -> dict[str, Array]:
    """Returns the outputs that the sample states. Raises LoadError where its arrays are not those of the model."""
    inputs, outputs = [spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs]
    needed = {f"input.{name}" for name in inputs}
    stated = {key.removeprefix("output."): array for key, array in arrays.items() if key.startswith("output.")}
    if missing := sorted(needed - arrays.keys()):
        there = first_few(sorted(map(in_print, arrays)), 8) or "none"
        raise LoadError(f"lacks the array {missing[0]}; it needs {first_few(sorted(needed), 8)} and has {there}")
    odd = [key for key in arrays if key not in needed and key not in {f"output.{name}" for name in outputs}]
    if odd:
        known = [*sorted(needed), *(f"output.{name}" for name in outputs)]
        raise LoadError(f"has an array {in_print(odd[0])!r}; arrays are called {first_few(known, 8)}")
    if not stated:
        raise LoadError(f"states no output; add an array such as output.{outputs[0]}")
    datatypes = {spec.name: spec.datatype for spec in signature.outputs}
    return {name: _comparable(_typed(array, datatypes[name])) for name, array in stated.items()}


def _run(model: Model, region: Region, signature: Signature, arrays: dict[str, Array]) -> dict[str, Array]:
    """Runs the frame alone, as the first of a stream. Raises LoadError or RunError."""
    batch_max = signature.batch_sizes[-1]
    bases, _ = layout([spec.bytes_max for spec in signature.inputs], batch_max)
    refs: list[TensorRef] = []
    for spec, base in zip(signature.inputs, bases, strict=True):
        payload, shape = _payload(spec, arrays[f"input.{spec.name}"])
        region.inputs[0][base : base + len(payload)] = payload
        refs.append((base, len(payload), 0, shape))
    done = model.run(Run(0, 0, [(0, True, refs)]))
    model.forget([0])
    status, results = done.frames[0]
    if status != OK:
        raise LoadError(done.reasons[0])
    return {
        spec.name: _result(spec, bytes(region.outputs[0][offset : offset + length]), shape)
        for spec, (offset, length, _, shape) in zip(signature.outputs, results, strict=True)
    }


def _result(spec: TensorSpec, data: bytes, shape: tuple[int, ...]) -> Array:
    if spec.is_text:
        return text_array(read_texts(data, prod(shape)), shape)
    return np.frombuffer(data, DTYPES[spec.datatype]).reshape(shape)


def _typed(array: Array, datatype: str) -> Array:
    """An array of a sample, where it is one of those that stand for what NumPy lacks, as the worker has them."""
    if datatype == "STRING" and array.dtype.kind == "U":
        return array.astype(TEXT)
    if datatype == "BF16" and array.dtype in (np.uint16, _SAVED_BFLOAT16):
        return np.ascontiguousarray(array).view(BFLOAT16).reshape(array.shape)
    return array


def _payload(spec: TensorSpec, array: Array) -> tuple[bytes, tuple[int, ...]]:
    if spec.encodings == ("PCM_S16LE",):
        raise LoadError(f"input '{spec.name}' is sound, which samples cannot state")
    dtype = DTYPES[spec.datatype]
    typed = _typed(array, spec.datatype)
    if typed.dtype != dtype:
        takes = _SAMPLE_TYPES.get(spec.datatype, dtype)
        raise LoadError(f"input.{spec.name} is {array.dtype}, the model takes {takes}")
    payload = write_texts(typed.ravel().tolist()) if spec.is_text else np.ascontiguousarray(typed).tobytes()
    if len(payload) > spec.bytes_max:
        raise LoadError(f"input.{spec.name} has {len(payload):,} bytes, the model takes {spec.bytes_max:,}")
    return payload, array.shape
