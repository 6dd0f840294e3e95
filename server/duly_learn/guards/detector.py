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

The threshold is what clean frames exceed at a stated rate, where each frame is judged by a detector that was fitted
without the block of its stream that it lies in: neighbours are alike, and a frame that was fitted to says nothing.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from duly_learn.errors import LearnError

Floats = npt.NDArray[np.float64]

FALSE_ALARMS = 0.002
"""The share of clean frames whose scores, by detectors that were fitted without them, may be above the threshold before
the margin."""
MARGIN = 1.5
"""By how much the threshold lies above that, as a ratio of squared distances: days differ more than the blocks of one
recording do. It halves the false alarms and costs at most one of a hundred noisy frames (docs/guards.md)."""
FOLDS = 5
"""So many detectors judge the frames that they were not fitted to."""
BLOCKS = 10
"""A stream is cut into so many blocks, whose frames are judged together."""
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

    def scores(self, features: Mapping[str, Floats]) -> Floats:
        """Returns a score for each frame: above 1 it is not like those that were fitted to, [N]."""
        ratios = [
            self.layers[name].distances(features[name]) / np.asarray(self.thresholds[name]) for name in self.layers
        ]
        return np.asarray(np.sqrt(np.concatenate(ratios, axis=1).max(axis=1)))


def fit(
    features: Mapping[str, Floats],
    streams: Sequence[str],
    seed: int,
    logarithmic: Collection[str] = (),
    tables: Collection[str] = (),
) -> Detector:
    """Fits to the features [N, D] of clean frames by layer. `streams`: which stream each of the N frames is of, in the
    order of their capture. `logarithmic`: the layers whose features differ by orders of magnitude; `tables`: those
    whose features are columns with units of their own. Raises TooFew.
    """
    count = len(streams)
    if count < FRAMES_MIN:
        raise TooFew(
            f"{count} frames: a detector of frames that are not like others needs at least {FRAMES_MIN} clean ones; "
            "some hundreds of all that is usual where the model serves are better"
        )
    folds = _folds(streams, seed)
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
    factor = max(1.0, float(np.quantile(largest, rate))) * MARGIN
    thresholds = {name: (float(usual[name][0] * factor), float(usual[name][1] * factor)) for name in layers}
    return Detector(layers, thresholds, count)


def _folds(streams: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    """Returns for each frame by which fold it is judged. Blocks of a stream stay together."""
    places: dict[str, list[int]] = {}
    for index, stream in enumerate(streams):
        places.setdefault(stream, []).append(index)
    blocks: list[list[int]] = []
    for indices in places.values():
        cuts = min(BLOCKS, len(indices))
        bounds = [len(indices) * nth // cuts for nth in range(cuts + 1)]
        blocks += [indices[low:high] for low, high in pairwise(bounds)]
    random.Random(seed).shuffle(blocks)
    folds = np.zeros(len(streams), np.int64)
    for nth, block in enumerate(blocks):
        folds[block] = nth % FOLDS
    return folds
