"""The store of a model that learns, as the process that writes it knows it: segments in the order of time, bounded by
bytes and by age, and where each frame is, so that a label finds it.
"""

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from duly.sampling.files import (
    FOLDER_MODE,
    FRAMES_MAX,
    HALF,
    MODE,
    BrokenFile,
    File,
    is_plain,
    on_disk,
    write,
)
from duly.sampling.limits import (
    FRAMES_PART,
    FRAMES_SECONDS,
    LABELLED_PART,
    LABELLED_SECONDS,
    SEGMENT_BYTES_MAX,
    SEGMENT_FRAMES_MAX,
    SEGMENTS_MAX,
    StoreLimits,
)
from duly.sampling.rows import Rows
from duly.sampling.sample import Key, Sample, keys_of
from duly.sampling.store import FRAMES, LABELLED, segment_name, segment_numbers

Told = Callable[[OSError | None], None]
"""Called when a frame was written, with None, or could not be."""

_Sizes = dict[str, tuple[int, int]]
"""By the arrays' names, how many elements there are, and how many bytes the largest has."""

_NUMBER_DIGITS = 12
_FORGET_PARTS = 4
"""Where so large a part of the frames that are remembered has gone, they are looked through."""
_READ_LATELY = 32
"""Of so many segments that labels were for it is kept in memory what is said of their frames."""


@dataclass(slots=True)
class _Written:
    number: int
    frames: int
    size_bytes: int
    unix_s: float


class Segments:
    """The segments of one kind in a folder of their own."""

    def __init__(self, folder: Path, wait_s: float, bytes_max: int, limits: StoreLimits, *, durable: bool) -> None:
        """`wait_s`: how long a frame waits for others. `durable`: whether frames count as written once they are on the
        disk, and not before.
        """
        self.folder = folder
        self._durable = durable
        self.bytes = 0
        self.frames = 0
        """Frames in all segments."""
        self.written: deque[_Written] = deque()
        self._wait_s = wait_s
        self._bytes_max = bytes_max
        self._limits = limits
        self._waiting: list[tuple[Sample, Told]] = []
        self._sizes: _Sizes = {}
        self._waiting_bytes = 0
        self._due_s = 0.0
        self._number = 1

    def take_up(self, each: Callable[[int, File], None]) -> None:
        """Takes up segments from before, and calls `each` with their numbers and what is in them. Raises OSError where
        the folder cannot be read.
        """
        self._number = self._last_given() + 1
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if path.name.endswith(HALF):
                path.unlink(missing_ok=True)
        for number in segment_numbers(self.folder):
            path = self.folder / segment_name(number)
            self._number = max(self._number, number + 1)
            if not is_plain(path):
                continue
            status = path.stat()
            try:
                file = File(path)
            except (BrokenFile, OSError):
                self._note(_Written(number, 0, on_disk(status.st_size), status.st_mtime))  # it goes when it is old
                continue
            file.close()
            self._note(_Written(number, len(file.frames), on_disk(status.st_size), status.st_mtime))
            each(number, file)

    @property
    def next_number(self) -> int:
        """The number of the segment that waiting frames will be in."""
        return self._number

    @property
    def oldest_number(self) -> int:
        """The number of the oldest segment that there is, or of the next one."""
        return self.written[0].number if self.written else self._number

    @property
    def due_s(self) -> float | None:
        """When it is to be written; None: nothing waits."""
        return self._due_s if self._waiting else None

    def waiting(self) -> list[Sample]:
        return [sample for sample, _ in self._waiting]

    def add(self, now_s: float, unix_s: float, sample: Sample, told: Told) -> int:
        """Adds a frame, which is written with others soon. Returns its place in the next segment."""
        if self._waiting and (
            not _alike(sample, self._waiting[0][0]) or _together(self._sizes, sample)[1] > SEGMENT_BYTES_MAX
        ):
            self.flush(unix_s)
        if not self._waiting:
            self._due_s = now_s + self._wait_s
        self._waiting.append((sample, told))
        self._sizes, self._waiting_bytes = _together(self._sizes, sample)
        return len(self._waiting) - 1

    def is_full(self) -> bool:
        return len(self._waiting) >= SEGMENT_FRAMES_MAX or self._waiting_bytes >= SEGMENT_BYTES_MAX

    def flush(self, unix_s: float) -> None:
        """Writes what waits as a segment. Where that fails, those who wait for it are told, and nothing is kept."""
        waiting, self._waiting = self._waiting, []
        self._sizes, self._waiting_bytes = {}, 0
        if not waiting:
            return
        number, self._number = self._number, self._number + 1
        failed: OSError | None = None
        try:
            self.trim(unix_s)  # where nothing can be removed, nothing comes
            samples = [sample for sample, _ in waiting]
            if not self.folder.is_dir():
                self.folder.parent.mkdir(FOLDER_MODE, exist_ok=True)  # never the store's own folder
                self.folder.mkdir(FOLDER_MODE, exist_ok=True)
            self._give(number)
            size_bytes = write(self.folder / segment_name(number), samples, segment=True, durable=self._durable)
            self._note(_Written(number, len(samples), size_bytes, unix_s))
        except OSError as error:
            failed = error
        for _, told in waiting:
            told(failed)
        with suppress(OSError):  # it is tried again before the next is written
            self.trim(unix_s)

    @property
    def _last_file(self) -> Path:
        """Where the last number is that was given, so that none is given twice when all segments are gone."""
        return self.folder.with_name(f".{self.folder.name}.last")

    def _last_given(self) -> int:
        if not is_plain(self._last_file):
            return 0
        with self._last_file.open("rb") as file:
            text = file.read(_NUMBER_DIGITS)
        return int(text) if text.isdigit() else 0

    def _give(self, number: int) -> None:
        """Writes down that a number is given. Raises OSError."""
        half = self._last_file.with_name(f"{self._last_file.name}{HALF}")
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            try:
                os.write(descriptor, b"%d" % number)
            finally:
                os.close(descriptor)
            os.replace(half, self._last_file)
        except OSError:
            half.unlink(missing_ok=True)
            raise

    def trim(self, unix_s: float) -> None:
        """Removes the oldest segments where there are too many, or they are too old. Raises OSError."""
        written, limits = self.written, self._limits
        while written and (
            self.bytes > self._bytes_max
            or self.frames > limits.frames_max
            or len(written) > SEGMENTS_MAX
            or unix_s - written[0].unix_s > limits.age_s_max
        ):
            (self.folder / segment_name(written[0].number)).unlink(missing_ok=True)
            oldest = written.popleft()
            self.bytes -= oldest.size_bytes
            self.frames -= oldest.frames

    def _note(self, written: _Written) -> None:
        self.written.append(written)
        self.bytes += written.size_bytes
        self.frames += written.frames


class ModelStore:
    """The store of one model: its frames, and those with labels."""

    def __init__(self, folder: Path, limits: StoreLimits, unix_s: float) -> None:
        """`folder`: DIR/MODEL, which need not be there. Raises OSError where it cannot be read."""
        frames, labelled = int(limits.bytes_max * FRAMES_PART), int(limits.bytes_max * LABELLED_PART)
        self.frames = Segments(folder / FRAMES, FRAMES_SECONDS, frames, limits, durable=False)
        self.labelled = Segments(folder / LABELLED, LABELLED_SECONDS, labelled, limits, durable=True)
        self._places: dict[str, dict[int, int]] = {}
        """Where frames are, by their streams' keys and their ids: number of the segment times FRAMES_MAX, and place."""
        self._remembered = 0
        self._read_lately: dict[int, Rows] = {}
        self.frames.take_up(self._remember_all)
        self.labelled.take_up(lambda number, file: None)
        with suppress(OSError):  # as at each segment that is written
            self.trim(unix_s)

    @property
    def bytes(self) -> int:
        return self.frames.bytes + self.labelled.bytes

    def put(self, now_s: float, unix_s: float, sample: Sample, told: Told) -> None:
        """Adds a frame, which is written soon."""
        row = self.frames.add(now_s, unix_s, sample, told)
        for key in sample.keys:
            self._remember(key, self.frames.next_number, row)
        if self.frames.is_full():
            self.frames.flush(unix_s)

    def put_labelled(self, now_s: float, unix_s: float, sample: Sample, told: Told) -> None:
        """Adds a frame with its labels, which is written soon."""
        self.labelled.add(now_s, unix_s, sample, told)
        if self.labelled.is_full():
            self.labelled.flush(unix_s)

    def find(self, key: Key) -> Sample | None:
        """Returns the frame that clients know so; None: it is not there, or no longer. Raises OSError where it cannot
        be read.
        """
        stream, frame_id = key
        at = self._places.get(stream, {}).get(frame_id)
        if at is None:
            return None
        number, row = divmod(at, FRAMES_MAX)
        waiting = self.frames.waiting()
        if number == self.frames.next_number and waiting:
            found = waiting[row] if row < len(waiting) else None
        elif number < self.frames.oldest_number:
            return None
        else:
            try:
                rows = self._read_lately.pop(number, None) or Rows(self.frames.folder / segment_name(number))
                self._read_lately[number] = rows
                if len(self._read_lately) > _READ_LATELY:
                    del self._read_lately[next(iter(self._read_lately))]
                found = rows.frame(row) if row < len(rows) else None
            except (BrokenFile, FileNotFoundError):
                return None
        return found if found is not None and key in found.keys else None  # a segment that failed has no frames

    def place(self, key: Key) -> int:
        """Returns a number by which frames are in the order of their segments; -1: the frame is not there."""
        stream, frame_id = key
        return self._places.get(stream, {}).get(frame_id, -1)

    @property
    def due_s(self) -> float | None:
        """When something is to be written; None: nothing waits."""
        return min((due for due in (self.frames.due_s, self.labelled.due_s) if due is not None), default=None)

    def flush(self, now_s: float, unix_s: float) -> None:
        """Writes what is due."""
        for segments in (self.frames, self.labelled):
            if segments.due_s is not None and segments.due_s <= now_s:
                segments.flush(unix_s)

    def trim(self, unix_s: float) -> None:
        """Removes what is too much or too old. Raises OSError."""
        self.frames.trim(unix_s)
        self.labelled.trim(unix_s)
        kept = self.frames.frames + len(self.frames.waiting())
        if self._remembered > kept + max(SEGMENT_FRAMES_MAX, kept // _FORGET_PARTS):
            self._forget_gone()

    def _forget_gone(self) -> None:
        oldest = self.frames.oldest_number
        left: dict[str, dict[int, int]] = {}
        for stream, places in self._places.items():
            there = {frame_id: at for frame_id, at in places.items() if at >= oldest * FRAMES_MAX}
            if there:
                left[stream] = there
        self._places = left
        self._remembered = sum(map(len, left.values()))

    def _remember(self, key: Key, number: int, row: int) -> None:
        stream, frame_id = key
        places = self._places.setdefault(stream, {})
        before = len(places)
        places[frame_id] = number * FRAMES_MAX + row
        self._remembered += len(places) - before

    def _remember_all(self, number: int, file: File) -> None:
        for row, meta in enumerate(file.frames):
            try:
                keys = keys_of(meta)
            except ValueError:
                return
            for key in keys:
                self._remember(key, number, row)


def _together(sizes: _Sizes, sample: Sample) -> tuple[_Sizes, int]:
    """Returns what arrays of a segment have with one more frame, and how many bytes they take: each element of text
    takes as many as the longest of the whole segment.
    """
    more: _Sizes = {}
    for name, array in sample.arrays.items():
        elements, longest = sizes.get(name, (0, 0))
        more[name] = elements + array.size, max(longest, array.itemsize)
    return more, sum(elements * longest for elements, longest in more.values())


def _alike(left: Sample, right: Sample) -> bool:
    """Whether both can be in one segment."""
    return left.form == right.form and left.arrays.keys() == right.arrays.keys()
