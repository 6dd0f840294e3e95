"""Single frames of a segment, read from where they lie in its file, as labels are for a few frames of many segments."""

import os
from math import prod
from pathlib import Path

import numpy as np

from duly.sampling.files import BrokenFile, File
from duly.sampling.sample import Array, Sample, sample_of


class Rows:
    def __init__(self, path: Path) -> None:
        """Reads what is said of the frames of a segment, and no tensors. Raises BrokenFile, or OSError."""
        self._path = path
        file = File(path)
        try:
            self._form, self._frames = file.form, file.frames
            self._members = {name: file.member(name) for name in file.form.datatypes}
        finally:
            file.close()

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, row: int) -> Sample:
        """Returns the frame in that row. Raises BrokenFile, or OSError where it cannot be read."""
        with self._path.open("rb", buffering=0) as file:
            try:
                arrays = {name: self._array(file.fileno(), name, row) for name in self._members}
                return sample_of(self._form, self._frames[row], arrays)
            except (BrokenFile, OSError):
                raise
            except Exception as error:  # as in `files`
                raise BrokenFile(f"its frames cannot be read ({type(error).__name__})") from error

    def _array(self, descriptor: int, name: str, row: int) -> Array:
        member = self._members[name]
        if name in self._frames[0].get("shapes", {}):
            shape = tuple(self._frames[row]["shapes"][name])
            begin = sum(prod(meta["shapes"][name]) for meta in self._frames[:row])
        else:
            shape = member.shape[1:]
            begin = row * prod(shape)
        elements = prod(shape)
        if min(shape, default=0) < 0 or begin + elements > prod(member.shape):
            raise BrokenFile(f"{name} has no row {row}")
        size_bytes = elements * member.dtype.itemsize
        if not size_bytes:
            return np.zeros(shape, member.dtype)
        data = os.pread(descriptor, size_bytes, member.at + begin * member.dtype.itemsize)
        if len(data) < size_bytes:
            raise BrokenFile(f"{name} is cut off")
        return np.frombuffer(data, member.dtype).reshape(shape)
