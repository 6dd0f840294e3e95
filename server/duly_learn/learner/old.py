"""Old labelled frames that are kept, and which of them are still true.

A set of bounded size is drawn evenly from all believed labels of all times (algorithm R of Vitter, with the seed), so
that a new version can be trained on old frames too, and asked what it has forgotten.

Where the concept has changed, old labels contradict new ones by nature, and who forgets those has not forgotten but
learnt. So what is known now decides, frame by frame, by the nearest neighbours among the frames of the present regime:

- a frame of the present regime is true;
- an old one whose neighbours have its label is still true: to forget it counts as forgetting;
- an old one that has no neighbours is unknown: it is trained on, as nothing better is known there, and it does not
  count as forgotten, as nobody can say whether it still is so;
- an old one whose neighbours have other labels is over. It is neither trained on nor counted.

The risk: what is rare now and was learnt long ago may be forgotten without being seen; that it is trained on is all
that speaks against it. And a region in which new labels are wrong is given up as a whole: what protects from that is
that new labels have to be believed first. A neighbour is as good as the numbers that are compared: of pictures, which
are compared by the model's answers and by how bright they are, it says little.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from duly.sampling.files import BrokenFile, read_file, write
from duly.sampling.sample import Sample
from duly_learn.learner.job import segments

NEIGHBOURS = 7
AGREE_MIN = 0.7
"""The share of neighbours that must have an old frame's label for it to be still true."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Old:
    """An old frame with its label, and the numbers by which it is compared."""

    sample: Sample
    label: int
    numbers: Numbers
    came_ns: int


class OldFrames:
    """The frames that are kept of one model, on the disk and in memory."""

    def __init__(self, folder: Path, size: int, seed: int, bytes_max: int) -> None:
        """`folder`: of their own. `size`: how many are kept at most. `bytes_max`: what they may take; of larger frames
        fewer are kept.
        """
        self._folder = folder
        self._gone, self._half = folder.with_name(f".{folder.name}.gone"), folder.with_name(f".{folder.name}.half")
        self._size = size
        self._seed = seed
        self._bytes_max = bytes_max

    def read(self) -> list[Sample]:
        """Returns the frames. What cannot be read any more is left out."""
        if not self._folder.exists() and self._gone.exists():  # the learner ended between two renames
            self._gone.rename(self._folder)
        _remove(self._gone)
        samples: list[Sample] = []
        for path in sorted(self._folder.glob("*.npz")):
            try:
                samples += read_file(path)
            except (BrokenFile, OSError):
                continue
        return samples

    def add(self, offered_before: int, samples: Sequence[Sample]) -> int:
        """Draws from further frames. `offered_before`: how many were offered in all. Returns how many were since.

        The frames are replaced by one rename of the folder. Raises OSError; the old ones are there then.
        """
        kept = self.read()
        room = min(self._size, self._bytes_max // max(1, _bytes([*kept, *samples])))
        if not room:
            return offered_before
        del kept[room:]
        random = Random(f"{self._seed}:{offered_before}")
        for nth, sample in enumerate(samples, start=offered_before + 1):
            if len(kept) < room:
                kept.append(sample)
            elif (place := random.randrange(nth)) < room:
                kept[place] = sample
        self._write(kept)
        return offered_before + len(samples)

    def let_go(self, keys: Collection[tuple[str, int]]) -> None:
        """Removes the frames of these streams and ids. Raises OSError; all are there then."""
        self._keep(lambda each: (each.stream, each.frame_id) not in keys)

    def let_go_before(self, unix_ns: int) -> None:
        """Removes the frames that were received earlier, and what is left of writing that broke off. Raises OSError;
        all are there then.
        """
        _remove(self._half)
        self._keep(lambda each: each.received_unix_ns >= unix_ns)

    def _keep(self, wanted: Callable[[Sample], bool]) -> None:
        kept = self.read()
        left = [each for each in kept if wanted(each)]
        if len(left) < len(kept):
            self._write(left)

    def _write(self, samples: list[Sample]) -> None:
        _remove(self._half)
        _remove(self._gone)
        self._half.mkdir(parents=True)
        for number, part in enumerate(segments(sorted(samples, key=lambda each: each.received_unix_ns))):
            write(self._half / f"{number:06}.npz", part, segment=True)
        if self._folder.exists():
            self._folder.rename(self._gone)
        self._half.rename(self._folder)
        _remove(self._gone)


@dataclass(frozen=True, slots=True)
class Sorted:
    """Old frames by what is known of them now. Those that are over are left out."""

    true: tuple[Old, ...]
    unknown: tuple[Old, ...]


def sort_out(old: Sequence[Old], numbers: Numbers, labels: npt.NDArray[np.int64], since_ns: int) -> Sorted:
    """Says which old frames are still true. `numbers`, `labels`: [n, k] and [n] of the present regime's frames.
    `since_ns`: when its first label came.

    Numbers are compared by their ranks among those of the regime, so that it does not matter what they are measured in
    or how far outliers lie.
    """
    if not old:
        return Sorted((), ())
    columns = np.sort(numbers, axis=0)
    count = min(NEIGHBOURS, len(labels))
    own_ranks = _ranks(columns, numbers)
    index = NearestNeighbors(n_neighbors=min(count + 1, len(labels)), n_jobs=1).fit(own_ranks)
    # How far off a usual neighbour of a frame of the regime is; the first one is the frame itself.
    own, _ = index.kneighbors(own_ranks)
    usual = float(np.quantile(own[:, -1], 0.95))
    distances, places = index.kneighbors(_ranks(columns, np.stack([each.numbers for each in old])), n_neighbors=count)
    true, unknown = [], []
    for each, distance, near in zip(old, distances, places, strict=True):
        agree = float((labels[near] == each.label).mean())
        if each.came_ns >= since_ns:
            true.append(each)
        elif float(distance[-1]) > usual:
            unknown.append(each)
        elif agree >= AGREE_MIN:
            true.append(each)
    return Sorted(tuple(true), tuple(unknown))


def _ranks(columns: Numbers, numbers: Numbers) -> Numbers:
    ranks = np.empty(numbers.shape)
    for at in range(numbers.shape[1]):
        below = np.searchsorted(columns[:, at], numbers[:, at], "left")
        upto = np.searchsorted(columns[:, at], numbers[:, at], "right")
        ranks[:, at] = (below + upto) / (2 * len(columns))
    return ranks


def _bytes(samples: Sequence[Sample]) -> int:
    return max((sum(array.nbytes for array in each.arrays.values()) for each in samples), default=0)


def _remove(folder: Path) -> None:
    if folder.exists():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
