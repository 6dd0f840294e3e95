"""Reads samples back: those of `duly serve --sample DIR` and the store of models that learn (`--learn DIR`).

    DIR/MODEL/samples/GROUP/NNNNNN.npz     one frame each, drawn evenly from the frames of a stream
    DIR/MODEL/frames/NNNNNNNNNNNN.npz      segments: all frames that were kept, in the order of their answers
    DIR/MODEL/labelled/NNNNNNNNNNNN.npz    segments: frames with their labels, in the order in which labels came

A frame of a model that learns is in `frames` at once, and again in `labelled` when its label has come, once for each
correction. Numbers rise and are never used again, so that who follows a folder needs to know the last one alone; files
`.frames.last` and `.labelled.last` have it for when all segments are gone. Where the folder of a model was removed
numbers begin again: the highest that is there is lower than the last one then. The oldest segments are removed where
there are too many or they are too old.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from duly.sampling.files import SUFFIX, BrokenFile, File, read_file
from duly.sampling.sample import Sample

SAMPLES, FRAMES, LABELLED = "samples", "frames", "labelled"
FILES_MAX = 100_000
"""So many files below a folder are read; others are passed over, and named."""
FILES_OPEN_MAX = 4
"""The frames of so many segments are in memory at once while samples are read in the order of time."""

PassedOver = Callable[[Path, str], None]
"""Called with a file that cannot be read and why."""


def read(folder: Path, passed_over: PassedOver = lambda path, reason: None) -> Iterator[Sample]:
    """Gives all frames below the folder in the order in which they were received, each once and with its newest label.
    `folder`: that of a server's samples or store, of one model in it, or any below. It may be written to meanwhile;
    what comes later is not seen.

    A file that is broken or has gone meanwhile is passed over. Raises OSError where the folder itself cannot be read.
    """
    files = _files(folder, passed_over)
    newest: dict[tuple[str, int], tuple[int, int, int, int]] = {}
    for number, path in enumerate(files):
        try:
            file = File(path)
        except (BrokenFile, OSError) as error:
            passed_over(path, _why(error))
            continue
        file.close()
        for row, meta in enumerate(file.frames):
            label = meta.get("label")
            try:
                key = str(meta["stream"]), int(meta["frame_id"])
                place = int(meta["received_unix_ns"]), int(label["unix_ns"]) if label else 0, number, row
            except (KeyError, TypeError, ValueError, OverflowError):
                passed_over(path, f"what it says of frame {row} cannot be read")
                break
            if key not in newest or newest[key][1] <= place[1]:
                newest[key] = place
    read_lately: dict[int, list[Sample]] = {}
    unreadable: set[int] = set()
    for _, _, number, row in sorted(newest.values()):
        if number in unreadable:
            continue
        samples = read_lately.pop(number, None)
        if samples is None:
            try:
                samples = read_file(files[number])
            except (BrokenFile, OSError) as error:
                unreadable.add(number)
                passed_over(files[number], _why(error))
                continue
            if len(read_lately) >= FILES_OPEN_MAX:
                del read_lately[next(iter(read_lately))]
        read_lately[number] = samples
        if row < len(samples):  # else it was replaced meanwhile
            yield samples[row]


def _files(folder: Path, passed_over: PassedOver) -> list[Path]:
    os.listdir(folder)  # raises where it cannot be read
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        found = [Path(parent, name) for name in sorted(names) if name.endswith(SUFFIX) and not name.startswith(".")]
        if len(files) + len(found) > FILES_MAX:
            passed_over(Path(parent), f"there are more than {FILES_MAX:,} files")
            return files
        files += found
    return files


class Follower:
    """Reads segments of a model as they come, such as a process that learns from them."""

    def __init__(self, folder: Path, after: int = 0, passed_over: PassedOver = lambda path, reason: None) -> None:
        """`folder`: DIR/MODEL/frames or DIR/MODEL/labelled, which need not be there yet. `after`: only segments with
        greater numbers are read; 0: all that there are.
        """
        self.folder = folder
        self.position = after
        """The number of the last segment that was read, for who goes on later."""
        self._passed_over = passed_over

    def new(self) -> Iterator[Sample]:
        """Gives the frames of segments that have come since, in their order. `position` is that of a segment once all
        its frames were taken. A segment that is broken or was removed before it could be read is passed over.
        """
        for number in segment_numbers(self.folder):
            if number <= self.position:
                continue
            path = self.folder / segment_name(number)
            try:
                yield from read_file(path)
            except (BrokenFile, OSError) as error:
                self._passed_over(path, _why(error))
            self.position = number


def segment_name(number: int) -> str:
    return f"{number:012}{SUFFIX}"


def segment_numbers(folder: Path) -> list[int]:
    """Returns the numbers of the segments in a folder, rising; none where it is not there or cannot be read."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    stems = [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]
    return sorted(int(stem) for stem in stems if len(stem) == 12 and stem.isascii() and stem.isdigit())


def _why(error: BrokenFile | OSError) -> str:
    return str(error) if isinstance(error, BrokenFile) else str(error.strerror)
