"""How the channels that layers read go together, over frames: means and covariances."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from duly_learn.graphs.followed import Channels, Layer
from duly_learn.graphs.part import Feeds, Part

Reals = npt.NDArray[np.float64]

PLACES_MAX = 400
"""So many places of one frame are looked at in each tensor: neighbours look alike."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Of what one layer reads: the classes of its channels, in order, with their mean and covariance."""

    classes: npt.NDArray[np.int64]
    mean: Reals
    covariance: Reals
    samples: int


def channels_first(value: npt.NDArray[np.generic], axis: int, width: int) -> npt.NDArray[np.float32]:
    """Returns float32[places, width] of a tensor whose channels, `width` of them, lie along `axis`. Where the axis is
    longer, as it is behind a Flatten, each channel has several neighbouring elements, which count as places."""
    moved = np.moveaxis(value, axis, -1).reshape(-1, width, value.shape[axis] // width)
    return np.asarray(moved.transpose(0, 2, 1).reshape(-1, width), np.float32)


def classes_of(channels: Channels, layer: Layer) -> npt.NDArray[np.int64] | None:
    """Returns the classes of what a layer reads, each once; None: they do not come in equal runs."""
    if layer.atoms_in is None:
        return None
    roots = channels.roots[layer.atoms_in]
    width = int(np.flatnonzero(np.append(np.diff(roots) != 0, True))[0]) + 1
    if len(roots) % width or (roots.reshape(-1, width) != roots[::width, None]).any():
        return None
    classes = roots[::width]
    return classes if len(set(classes.tolist())) == len(classes) else None


def moments_of(
    model: onnx.ModelProto, channels: Channels, layers: Sequence[Layer], frames: Sequence[Feeds], seed: int
) -> dict[str, Moments]:
    """Returns what is known of each of `layers` by its name, those left out whose channels come in no simple order."""
    chosen = {each.name: (each, found) for each in layers if (found := classes_of(channels, each)) is not None}
    tensors = {each.tensor for each, _ in chosen.values()}
    part = Part(model, sorted(tensors))
    random = np.random.default_rng(seed)
    sums = {name: np.zeros(len(classes)) for name, (_, classes) in chosen.items()}
    squares = {name: np.zeros((len(classes), len(classes))) for name, (_, classes) in chosen.items()}
    counts = dict.fromkeys(chosen, 0)
    for feeds in frames:
        values = part.run(feeds)
        for name, (layer, classes) in chosen.items():
            held = channels.held[layer.tensor]
            rows = channels_first(values[layer.tensor], held.axis, len(classes))
            if len(rows) > PLACES_MAX:
                rows = rows[random.choice(len(rows), PLACES_MAX, replace=False)]
            sums[name] += rows.sum(axis=0)
            squares[name] += rows.T @ rows
            counts[name] += len(rows)
    moments: dict[str, Moments] = {}
    for name, (_, classes) in chosen.items():
        mean = sums[name] / max(1, counts[name])
        covariance = squares[name] / max(1, counts[name]) - np.outer(mean, mean)
        moments[name] = Moments(classes, mean, covariance, counts[name])
    return moments
