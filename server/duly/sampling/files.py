"""The files of samples: `.npz` as `numpy.load` reads them, of one frame each, or of a stretch of frames (a segment).

A file is written under another name and then renamed, so that readers never see a half one. What lies in the arrays is
the tensors as they are; what else is known stands in the array `meta`, as JSON.

In a file of one frame an array is the tensor. In a segment its first dimension are the frames. Where the tensors of a
name differ in shape, they lie flat one behind the other, and `shapes` of each frame says where the next begins.
"""

import errno
import io
import json
import os
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

import numpy as np

from duly.sampling.sample import Array, Form, Sample, form_meta, form_of, frame_meta, sample_of

SUFFIX = ".npz"
HALF = ".half"
"""How a file ends that is not written in whole."""
MODE, FOLDER_MODE = 0o600, 0o700
FILE_BYTES_MAX = 1 << 30
"""A larger file is not read."""
ARRAYS_MAX = 1024
"""A file with more arrays is not read."""
FRAMES_MAX = 4096
"""A segment has no more frames."""
HEADER_CHARS_MAX = 10_000
"""An array whose header is longer is not read, nor its file."""
BLOCK_BYTES = 4096
"""What a file takes on the disk is counted in whole blocks."""


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LOCAL_HEADER = Struct("<26xHH")
"""What stands before a member of an archive, without its name and what else there is: how long these are."""


class BrokenFile(Exception):
    """A file holds no samples. The text says why."""


def write(path: Path, samples: Sequence[Sample], *, segment: bool, durable: bool = False) -> int:
    """Writes a file with these frames, which are of one form and have the same arrays, and returns how many bytes it
    takes on the disk. `segment`: whether it is one, or a file of the one frame. `durable`: whether it is on the disk at
    the return. Raises OSError; there is no half file then.
    """
    try:
        contents = packed(samples) if segment else _single(samples[0])
    except MemoryError as error:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
    half = path.with_name(f".{path.name}{HALF}")
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    try:
        try:
            view = memoryview(contents)
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(half, path)
    except OSError:
        half.unlink(missing_ok=True)
        raise
    return on_disk(len(contents))


def on_disk(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _single(sample: Sample) -> bytes:
    return _npz(sample.arrays, form_meta(sample.form) | frame_meta(sample))


def packed(samples: Sequence[Sample]) -> bytes:
    """Returns the contents of a segment."""
    metas = [frame_meta(sample) for sample in samples]
    arrays: dict[str, Array] = {}
    for name in samples[0].arrays:
        tensors = [sample.arrays[name] for sample in samples]
        if len({tensor.shape for tensor in tensors}) == 1:
            arrays[name] = np.stack(tensors)
            continue
        arrays[name] = np.concatenate([tensor.ravel() for tensor in tensors])
        for meta, tensor in zip(metas, tensors, strict=True):
            meta.setdefault("shapes", {})[name] = list(tensor.shape)
    return _npz(arrays, form_meta(samples[0].form) | {"frames": metas})


def _npz(arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    # It is written out, as numpy.savez has no names such as "file".
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in (*arrays.items(), ("meta", np.array(json.dumps(meta).encode()))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    return file.getvalue()


# ---- reading ----


@dataclass(frozen=True, slots=True)
class Member:
    """Where an array lies in a file."""

    at: int
    """Its first element, in bytes from the beginning of the file."""
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"


class File:
    """A file that is open. Its arrays are read as they are asked for."""

    def __init__(self, path: Path | BinaryIO) -> None:
        """`path`: of the file, or the file itself. Raises BrokenFile, or OSError where it cannot be read."""
        self._archive = _archive(path)
        try:
            meta = json.loads(self._array("meta").item())
            self.form: Form = form_of(meta)
            self.is_segment = "frames" in meta
            self.frames: list[dict[str, Any]] = meta["frames"] if self.is_segment else [meta]
            """What is known of each frame."""
            if not isinstance(self.frames, list) or not all(isinstance(each, dict) for each in self.frames):
                raise BrokenFile("what it says of its frames is no list of tables")
            if not self.frames:
                raise BrokenFile("it has no frames")
            if len(self.frames) > FRAMES_MAX:
                raise BrokenFile(f"it has {len(self.frames):,} frames, at most {FRAMES_MAX:,} are read")
        except BrokenFile:
            self._archive.close()
            raise
        except Exception as error:  # damaged files fail in as many ways as there are
            self._archive.close()
            raise BrokenFile(f"what it says of its frames cannot be read ({type(error).__name__})") from error

    def close(self) -> None:
        self._archive.close()

    def samples(self) -> list[Sample]:
        """Returns all frames, in their order. Raises BrokenFile."""
        try:
            columns = {name: self._column(name) for name in self.form.datatypes}
            return [
                sample_of(self.form, meta, {name: column[nth] for name, column in columns.items()})
                for nth, meta in enumerate(self.frames)
            ]
        except BrokenFile:
            raise
        except Exception as error:
            raise BrokenFile(f"its frames cannot be read ({type(error).__name__})") from error

    def member(self, name: str) -> Member:
        """Returns where the elements of an array lie. Raises BrokenFile, also where they are packed."""
        try:
            info = self._archive.getinfo(f"{name}.npy")
            with self._archive.open(info) as opened:
                version = np.lib.format.read_magic(opened)
                read_header = _HEADERS[version]
                shape, by_columns, dtype = read_header(opened, max_header_size=HEADER_CHARS_MAX)
                header_bytes = opened.tell()
            file = self._archive.fp
            assert file is not None
            file.seek(info.header_offset)
            lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            if info.compress_type != zipfile.ZIP_STORED or dtype.hasobject or (by_columns and len(shape) > 1):
                raise BrokenFile(f"{name} does not lie there row by row")
            if header_bytes + prod(shape) * dtype.itemsize > info.file_size:
                raise BrokenFile(f"{name} is cut off")
            return Member(info.header_offset + _LOCAL_HEADER.size + sum(lengths) + header_bytes, shape, dtype)
        except BrokenFile:
            raise
        except Exception as error:
            raise BrokenFile(f"{name} cannot be read ({type(error).__name__})") from error

    def _column(self, name: str) -> Sequence[Array]:
        """The tensors of that name, one for each frame."""
        array = self._array(name)
        if not self.is_segment:
            return [array]
        if "shapes" in self.frames[0] and name in self.frames[0]["shapes"]:
            tensors: list[Array] = []
            at = 0
            for meta in self.frames:
                shape = tuple(meta["shapes"][name])
                tensors.append(array[at : at + prod(shape)].reshape(shape))
                at += prod(shape)
            return tensors
        if len(array) != len(self.frames):
            raise BrokenFile(f"{name} has {len(array):,} rows, and there are {len(self.frames):,} frames")
        return [array[nth] for nth in range(len(array))]

    def _array(self, name: str) -> Array:
        with self._archive.open(f"{name}.npy") as member:
            packed: Any = io.BytesIO(member.read())
        array: Array = np.lib.format.read_array(packed, allow_pickle=False, max_header_size=HEADER_CHARS_MAX)
        return array


def _archive(path: Path | BinaryIO) -> zipfile.ZipFile:
    if isinstance(path, Path) and not stat.S_ISREG(path.stat().st_mode):
        raise BrokenFile("it is no file, but something else that is called so")  # a pipe would be waited for
    try:
        archive = zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:  # as above
        raise BrokenFile("it is no .npz file, or only a part of one") from error
    members = archive.infolist()
    if len(members) > ARRAYS_MAX or sum(member.file_size for member in members) > FILE_BYTES_MAX:
        archive.close()
        raise BrokenFile(f"it has more than {ARRAYS_MAX:,} arrays, or {FILE_BYTES_MAX:,} bytes")
    if "meta.npy" not in archive.NameToInfo:
        archive.close()
        raise BrokenFile("it has no array `meta`: it is no sample of a server's")
    return archive


def is_plain(path: Path) -> bool:
    """Whether there is a file that can be read without waiting for anybody: no folder, link or pipe."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def read_file(path: Path) -> list[Sample]:
    """Returns the frames of one file, in their order. Raises BrokenFile, or OSError where it cannot be read."""
    file = File(path)
    try:
        return file.samples()
    finally:
        file.close()
