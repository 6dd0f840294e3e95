"""A detector of frames that are not like those that it was fitted to: one normal distribution of what a model's own
layers make of a frame, and the distance from it.

Per layer, the mean and the standard deviation of every channel over a frame are its features, on a logarithmic scale,
as they differ by orders of magnitude; where a layer has one number a channel, it is these. Principal components hold
nearly all of their variance. The Mahalanobis distance within them (Lee et al., 2018, "A Simple Unified Framework for
Detecting Out-of-Distribution Samples and Adversarial Attacks") finds frames that are unusual in the ways in which
frames differ, and what is left outside of them finds frames that differ in other ways.

Of a table the frame's own columns are features, too, each on a scale of its own, which is logarithmic beyond a few
deviations: columns have units, and tails. A rare value in one that is nearly always the same would outweigh all others,
and so no column's deviation counts as less than a share of its range.

Each clean frame is judged by a detector that was fitted without the block of its stream that it lies in: neighbours are
alike, and a frame that was fitted to says nothing. A first threshold is what these frames exceed at a stated rate, with
a margin. It is then moved further off, for two reasons.

Blocks: where a camera moves through scenes, all frames of a block lie further off than those of others, and a block
that is yet to come may lie further off than all that were seen. The logarithm of a frame's score is that of its block,
their median, and the frame's own. How far off one more block may lie is said by the prediction interval of a normal
distribution (with Student's t, as few blocks tell little), and frames' own come on top. Where blocks differ no more
than frames do, it is not moved.

Another time: all of this knows of one recording, and an hour later the street is fuller and the light another. What
guards are there for often lies far beyond, and then nothing is gained by a threshold so close to what was usual in an
hour. So spoilt frames, made of clean ones, say how far off it may be: hardly any of those that were found may be lost.
"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from duly_learn.errors import LearnError

Floats = npt.NDArray[np.float64]
Features = Mapping[str, Floats]
"""Those of frames [N, D] by layer."""

FALSE_ALARMS = 0.002
"""The share of clean frames whose scores, by detectors that were fitted without them, may be above the threshold before
the margin."""
MARGIN = 1.5
"""By how much the threshold lies above that, as a ratio of squared distances: days differ more than the blocks of one
recording do. It halves the false alarms and costs at most one of a hundred noisy frames (docs/guards.md)."""
BLOCKS_FURTHER_OFF = 0.01
"""The chance with which the next block lies further off than the threshold allows for."""
FURTHER_MAX = 4.0
"""For the sake of another time the threshold is moved so many times further off at most."""
LOST = 0.01
"""The share of the spoilt frames of a kind that may be lost by that."""
TOLD_APART = 0.9
"""Kinds of which a smaller share is found at first are not minded: clean frames look like them, too."""
SPARE = 0.85
"""The threshold stays below such a share of the score of a spoilt frame that must be found."""
FOLDS = 10
"""So many detectors judge the frames that they were not fitted to."""
BLOCKS = 10
"""A stream is cut into so many blocks, whose frames are judged together."""
BLOCK_FRAMES_MIN = 5
"""A stream with fewer frames for each is cut into fewer blocks."""
FRAMES_MIN = 50
"""With fewer frames nothing is fitted: their distribution would be a guess."""
VARIANCE = 0.98
"""The share of the variance that the principal components hold."""
COMPONENTS_MAX = 64
SCALE = 0.1
"""From so many times the mean magnitude of a layer's features on, they are on a logarithmic scale."""
RANGE_SHARE = 0.1
"""No column's standard deviation counts as less than this share of how far its values lie apart."""
LINEAR = 3.0
"""From about so many deviations from its median on, a column is on a logarithmic scale."""
_FLOOR = 1e-3
"""No feature's standard deviation counts as less than this share of their mean."""
_RIDGE = 1e-2
"""No component's variance counts as less than this share of their mean."""


class TooFew(LearnError):
    """There are too few frames to fit a detector to."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """What is usual of one layer's features, of which there are D, by K components."""

    scale: "Scale | None"
    """Of the features; None: they are as the layer gives them."""
    mean: Floats
    """Of the scaled features, [D]."""
    deviation: Floats
    """Their standard deviation, [D]."""
    components: Floats
    """[D, K], orthonormal."""
    centre: Floats
    """The mean along the components, [K]."""
    weights: Floats
    """1 over the variance along the components, [K]."""

    def distances(self, features: Floats) -> Floats:
        """Returns for each row of features the squared distance within the components and the one outside, [N, 2]."""
        scaled = features if self.scale is None else self.scale.of(features)
        centred = (scaled - self.mean) / self.deviation
        within = centred @ self.components
        inside = (within - self.centre) ** 2 @ self.weights
        outside = (centred**2).sum(axis=1) - (within**2).sum(axis=1)
        return np.stack([inside, np.maximum(outside, 0)], axis=1)


@dataclass(frozen=True, slots=True)
class Scale:
    """x becomes sign(x - origin) * log(1 + |x - origin| / width). Both are [D], or [1] for all features alike."""

    origin: Floats
    width: Floats

    def of(self, features: Floats) -> Floats:
        """Returns features [N, D] on this scale."""
        apart = features - self.origin
        return np.asarray(np.sign(apart) * np.log1p(np.abs(apart) / self.width))


def _of_layer(rows: Floats) -> Scale:
    """Returns the scale of a layer's features [N, D]."""
    return Scale(np.zeros(1), np.array([max(SCALE * float(np.abs(rows).mean()), 1e-12)]))


def _of_columns(rows: Floats) -> Scale:
    """Returns the scale of the columns of a table [N, D]: the middle of each says what is far off. One that never
    changes has no width but by its own magnitude and that of the others.
    """
    low, median, high = np.quantile(rows, (0.1, 0.5, 0.9), axis=0)
    width = (high - low) / 2.5  # of a normal distribution these are two and a half deviations
    width = np.where(width > 0, width, RANGE_SHARE / 2 * np.ptp(rows, axis=0))
    usual = float(np.median(width[width > 0])) if width.any() else 1.0
    return Scale(median, LINEAR * np.where(width > 0, width, RANGE_SHARE / 2 * np.maximum(np.abs(median), usual)))


def gaussian(features: Floats, scale: Scale | None, deviation: Floats | None = None) -> Gaussian:
    """Fits to features [N, D] of clean frames. `deviation`: what counts as their standard deviation, [D]; None: their
    own.
    """
    scaled = features if scale is None else scale.of(features)
    mean = scaled.mean(axis=0)
    if deviation is None:
        deviation = scaled.std(axis=0) + _FLOOR * float(np.abs(scaled).mean()) + 1e-9
    centred = (scaled - mean) / deviation
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / len(centred)
    held = np.cumsum(variances) / max(float(variances.sum()), 1e-12)
    count = max(1, min(COMPONENTS_MAX, int(np.searchsorted(held, VARIANCE)) + 1, len(centred) // 4, len(variances)))
    kept = variances[:count]
    components = directions[:count].T
    weights = 1 / (kept + _RIDGE * float(kept.mean()) + 1e-12)
    return Gaussian(scale, mean, deviation, components, (centred @ components).mean(axis=0), weights)


def _no_less(columns: Floats) -> Floats:
    """Returns what counts as the standard deviation of each column [N, D] of a table on its scale, [D]."""
    apart = np.ptp(columns, axis=0)
    deviation = np.maximum(columns.std(axis=0), RANGE_SHARE * apart)
    usual = float(np.median(deviation[apart > 0])) if apart.any() else 1.0
    return np.asarray(np.where(apart > 0, deviation, RANGE_SHARE * usual))


@dataclass(frozen=True, slots=True)
class Detector:
    """What is usual of several layers, by their tensors."""

    layers: Mapping[str, Gaussian]
    thresholds: Mapping[str, tuple[float, float]]
    """For each layer, the squared distances within and outside of the components that count as 1."""
    frames: int
    """So many clean frames it was fitted to."""
    unlike: float = 1.0
    """How many times further off the threshold should lie as blocks differ from one another."""
    further: float = 1.0
    """How many times further off it was moved."""

    def scores(self, features: Features) -> Floats:
        """Returns a score for each frame: above 1 it is not like those that were fitted to, [N]."""
        ratios = [
            self.layers[name].distances(features[name]) / np.asarray(self.thresholds[name]) for name in self.layers
        ]
        return np.asarray(np.sqrt(np.concatenate(ratios, axis=1).max(axis=1)))

    def moved(self, must: Iterable[Features], may: Iterable[Features]) -> "Detector":
        """Returns it with a threshold as far off as blocks ask for and spoilt frames allow. `must`: features of kinds
        that must be found still; `may`: of such as may be lost where blocks ask for that. With neither it lies where
        blocks ask for.
        """
        hard, soft = self._allowed(must), self._allowed(may)
        free = min(FURTHER_MAX, hard, soft) if min(hard, soft) < np.inf else 1.0
        further = max(1.0, min(self.unlike, hard), free)
        thresholds = {name: (inside * further**2, out * further**2) for name, (inside, out) in self.thresholds.items()}
        return replace(self, thresholds=thresholds, further=further)

    def _allowed(self, spoilt: Iterable[Features]) -> float:
        """How many times further off the threshold may lie; infinite: nothing says."""
        least = np.inf
        for features in spoilt:
            scores = np.sort(self.scores(features))
            found = scores[scores > 1]
            if len(found) >= TOLD_APART * len(scores):
                least = min(least, SPARE * float(found[int(LOST * len(scores))]))
        return least


def fit(
    features: Features,
    streams: Sequence[str],
    seed: int,
    logarithmic: Collection[str] = (),
    tables: Collection[str] = (),
) -> Detector:
    """Fits to the features [N, D] of clean frames by layer. `streams`: which stream each of the N frames is of, in the
    order of their capture. `logarithmic`: the layers whose features differ by orders of magnitude; `tables`: those
    whose features are columns with units of their own. The threshold is the first one, before it is `moved`. Raises
    TooFew.
    """
    count = len(streams)
    if count < FRAMES_MIN:
        raise TooFew(
            f"{count} frames: a detector of frames that are not like others needs at least {FRAMES_MIN} clean ones; "
            "some hundreds of all that is usual where the model serves are better"
        )
    blocks = _blocks(streams)
    folds = _folds(blocks, seed)
    layers: dict[str, Gaussian] = {}
    unseen: dict[str, Floats] = {}
    for name, rows in features.items():
        scale = _of_layer(rows) if name in logarithmic else _of_columns(rows) if name in tables else None
        deviation = _no_less(scale.of(rows)) if scale is not None and name in tables else None
        judged = np.zeros((count, 2))
        for fold in range(int(folds.max()) + 1):
            there = folds == fold
            judged[there] = gaussian(rows[~there], scale, deviation).distances(rows[there])
        layers[name], unseen[name] = gaussian(rows, scale, deviation), judged
    rate = 1 - FALSE_ALARMS
    usual = {}
    for name, judged in unseen.items():
        least = 1.0, (1 - VARIANCE) * features[name].shape[1]  # what the components leave out, where that is nothing
        usual[name] = np.maximum(np.quantile(judged, rate, axis=0), least)
    largest = np.max([(unseen[name] / usual[name]).max(axis=1) for name in layers], axis=0)
    of_frames = max(1.0, float(np.quantile(largest, rate))) * MARGIN
    thresholds = {name: (float(usual[name][0] * of_frames), float(usual[name][1] * of_frames)) for name in layers}
    return Detector(layers, thresholds, count, max(1.0, float(np.sqrt(further_off(largest, blocks) / of_frames))))


def further_off(scores: Floats, blocks: npt.NDArray[np.int64]) -> float:
    """Returns the score that FALSE_ALARMS of the frames exceed in a block that lies as far off as one of
    1 / BLOCKS_FURTHER_OFF does. `scores`: squared ones, of frames of these blocks, [N]; there are two blocks or more.
    """
    logs = np.log(np.maximum(scores, 1e-12))
    numbers, of = np.unique(blocks, return_inverse=True)
    count = len(numbers)
    middles = np.array([np.median(logs[of == nth]) for nth in range(count)])
    reach = float(student.ppf(1 - BLOCKS_FURTHER_OFF, count - 1)) * float(middles.std(ddof=1)) * np.sqrt(1 + 1 / count)
    return float(np.exp(middles.mean() + reach + np.quantile(logs - middles[of], 1 - FALSE_ALARMS)))


def _blocks(streams: Sequence[str]) -> npt.NDArray[np.int64]:
    """Returns for each frame the number of the block of its stream that it lies in."""
    places: dict[str, list[int]] = {}
    for index, stream in enumerate(streams):
        places.setdefault(stream, []).append(index)
    blocks = np.zeros(len(streams), np.int64)
    number = 0
    for indices in places.values():
        cuts = max(1, min(BLOCKS, len(indices) // BLOCK_FRAMES_MIN))
        bounds = [len(indices) * nth // cuts for nth in range(cuts + 1)]
        for low, high in pairwise(bounds):
            blocks[indices[low:high]] = number
            number += 1
    return blocks


def _folds(blocks: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Returns for each frame by which fold it is judged. Blocks stay together."""
    order = list(range(int(blocks.max()) + 1))
    random.Random(seed).shuffle(order)
    fold_of = np.zeros(len(order), np.int64)
    fold_of[order] = np.arange(len(order)) % FOLDS
    return np.asarray(fold_of[blocks])
