"""The folder of samples that are drawn from streams, as the process that writes it knows it.

A group, which is a stream as a rule, has a folder with numbered places; a frame that is drawn for a place takes it from
the one before. Where there are too many groups or bytes, the groups that ended longest ago are removed.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from duly.sampling.files import FOLDER_MODE, HALF, SUFFIX, BrokenFile, File, is_plain, on_disk, read_file, write
from duly.sampling.limits import DrawnLimits
from duly.sampling.sample import Key, Sample, keys_of
from duly.sampling.store import SAMPLES
from duly.sampling.wire import Groups


class Full(Exception):
    """There is no room for a frame: groups whose streams go on have all of it."""


@dataclass(slots=True)
class _Group:
    folder: Path
    lives: bool
    """Whether its stream may still go on."""
    sizes: dict[int, int] = field(default_factory=dict)
    """The bytes of each place."""
    keys: dict[int, tuple[Key, ...]] = field(default_factory=dict)
    """What the frame of each place is known by."""

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes.values())


class DrawnFolder:
    def __init__(self, folder: Path, limits: DrawnLimits, living: Groups) -> None:
        """Looks through what is there from before. `living`: the groups whose streams go on, though this process is a
        new one. Raises OSError where the folder is not there or cannot be read.
        """
        self.folder = folder
        self._limits = limits
        self._groups: dict[str, _Group] = {}
        """By model and name, the one that was written to longest ago first."""
        self._places: dict[Key, tuple[str, int]] = {}
        self.bytes = 0
        os.listdir(folder)
        found = [(path.stat().st_mtime_ns, path) for path in _folders(folder)]
        for _, path in sorted(found):
            self._take_up(path, lives=path.name in living.get(path.parent.parent.name, ()))
        with suppress(OSError, Full):  # what cannot be removed now is tried again at the next frame
            self._make_room(0, 0, None)

    def __len__(self) -> int:
        return len(self._groups)

    def put(self, group: str, place: int, sample: Sample) -> None:
        """Writes a frame to a place of a group of its model. Raises Full, or OSError."""
        name = f"{sample.form.model}/{group}"
        known = self._groups.pop(name, None)
        known = known or _Group(self.folder / sample.form.model / SAMPLES / group, lives=not is_shared(group))
        self._groups[name] = known  # the newest last
        known.lives = not is_shared(group)  # a frame shows it, whatever was said before
        try:
            estimate = on_disk(sum(array.nbytes for array in sample.arrays.values()))
            self._make_room(estimate - known.sizes.get(place, 0), 0, name)
            _make_folders(self.folder, known.folder)
            size_bytes = write(_path(known, place), [sample], segment=False)
        except (OSError, Full):
            if not known.sizes:
                del self._groups[name]
            raise
        self._forget(known, place)
        self._note(name, known, place, size_bytes, sample.keys)

    def ended(self, model: str, group: str) -> None:
        """Notes that a group gets no more frames, so that it may make room for others."""
        known = self._groups.get(f"{model}/{group}")
        if known is not None:
            known.lives = False

    def find(self, key: Key) -> Sample | None:
        """Returns the frame that clients know so; None: it is not there. Raises OSError where it cannot be read."""
        at = self._places.get(key)
        if at is None:
            return None
        name, place = at
        try:
            (sample,) = read_file(_path(self._groups[name], place))
        except (BrokenFile, FileNotFoundError):
            return None
        return sample

    def put_again(self, key: Key, sample: Sample) -> None:
        """Writes a frame that `find` gave with its labels, in its place. Raises OSError, also where all bytes that
        there may be are taken.
        """
        name, place = self._places[key]
        group = self._groups[name]
        estimate = on_disk(sum(array.nbytes for array in sample.arrays.values()))
        try:
            self._make_room(estimate - group.sizes[place], 0, name)
        except Full:
            raise OSError(errno.ENOSPC, "samples of streams that go on take all the bytes that there may be") from None
        size_bytes = write(_path(group, place), [sample], segment=False, durable=True)
        self.bytes += size_bytes - group.sizes[place]
        group.sizes[place] = size_bytes

    # ---- what is there ----

    def _take_up(self, folder: Path, lives: bool) -> None:
        """Takes up a group from before, and removes what was not written in whole."""
        name = f"{folder.parent.parent.name}/{folder.name}"
        group = _Group(folder, lives)
        for path in sorted(folder.iterdir()):
            if path.name.endswith(HALF):
                path.unlink(missing_ok=True)
            elif (place := _place(path)) is not None:
                self._note(name, group, place, on_disk(path.stat().st_size), _keys(path))
        if group.sizes:
            self._groups[name] = group

    def _note(self, name: str, group: _Group, place: int, size_bytes: int, keys: Iterable[Key]) -> None:
        group.sizes[place], group.keys[place] = size_bytes, tuple(keys)
        self.bytes += size_bytes
        self._places.update(dict.fromkeys(group.keys[place], (name, place)))

    def _forget(self, group: _Group, place: int) -> None:
        self.bytes -= group.sizes.pop(place, 0)
        for key in group.keys.pop(place, ()):
            self._places.pop(key, None)

    def _make_room(self, more_bytes: int, groups: int, keep: str | None) -> None:
        """Removes groups that have ended until there is room. Raises Full where there is none."""
        while self.bytes + more_bytes > self._limits.bytes_max or len(self._groups) + groups > self._limits.groups_max:
            victim = next((name for name, group in self._groups.items() if name != keep and not group.lives), None)
            if victim is None:
                raise Full
            self._remove(victim)

    def _remove(self, name: str) -> None:
        group = self._groups[name]
        for place in list(group.sizes):
            _path(group, place).unlink(missing_ok=True)
            self._forget(group, place)
        del self._groups[name]
        try:
            group.folder.rmdir()
        except OSError:  # somebody has put something else there
            return


def is_shared(group: str) -> bool:
    """Whether a group has the frames of calls that are no streams, of which nobody can tell when they end."""
    return group.rpartition("-")[2].startswith("c")


def _path(group: _Group, place: int) -> Path:
    return group.folder / f"{place:06}{SUFFIX}"


def _place(path: Path) -> int | None:
    """The place that a file is of; None: it is none of ours."""
    stem = path.name.removesuffix(SUFFIX)
    if not (stem.isascii() and stem.isdigit() and path.name == f"{int(stem):06}{SUFFIX}"):
        return None
    return int(stem) if is_plain(path) else None


def _folders(folder: Path) -> Iterator[Path]:
    for model in folder.iterdir():
        samples = model / SAMPLES
        if not model.is_symlink() and samples.is_dir() and not samples.is_symlink():
            yield from (path for path in samples.iterdir() if path.is_dir() and not path.is_symlink())


def _make_folders(root: Path, folder: Path) -> None:
    """Makes a folder below `root`, which has to be there: what it was mounted on is not to be filled."""
    if folder.is_dir():
        return
    for path in (folder.parents[1], folder.parents[0], folder):
        if path != root:
            path.mkdir(FOLDER_MODE, exist_ok=True)


def _keys(path: Path) -> tuple[Key, ...]:
    """What the frame of a file is known by; nothing where it is broken."""
    try:
        file = File(path)
    except (BrokenFile, OSError):
        return ()
    file.close()
    try:
        return keys_of(file.frames[0])
    except ValueError:
        return ()
