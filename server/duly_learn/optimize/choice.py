"""Which channels go: in what order within a layer, and how many of each layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duly_learn.optimize.activations import Reals

Order = npt.NDArray[np.int64]

BLOCKS = 16
"""A wide layer's channels go in steps of a sixteenth of them."""
KEPT_SHARE_MIN = 1 / 8
"""No layer loses more than seven eighths of its channels."""
_RELATIVE_FLOOR = 1e-9
"""A channel whose remaining variance is below this share of the largest is a copy of others, and needs no division."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer that reads the channels of a group: how they vary together, and what the layer makes of them."""

    covariance: Reals
    """[channels, channels]"""
    effect: Reals
    """[channels, channels]: sums over the layer's weights w[..., i] * w[..., j]. With it, the trace of
    effect @ covariance is the variance of what the layer gives."""


@dataclass(frozen=True, slots=True)
class Curve:
    """An order in which channels are worth keeping, the best first, and what is lost with the first n of them."""

    order: Order
    losses: Reals
    """[channels + 1]: the share of the readers' variance that is lost with only the first n kept."""


def curve_by_sensitivity(readers: Sequence[Reader]) -> Curve:
    """Keeps, one after another, the channel that explains most of what the readers get and do not have yet.

    What the others can be told from the kept ones by a linear map counts as kept, since the readers' weights are made
    anew afterwards. For one reader this is forward selection, a column subset chosen by the variance that its readers
    see; an exhaustive choice is out of reach.
    """
    count = len(readers[0].covariance)
    residuals = [np.array(each.covariance) for each in readers]
    roots = [_root(each.effect) for each in readers]
    seen = [root @ residual for root, residual in zip(roots, residuals, strict=True)]
    whole = [max(float(np.sum(root * s)), 1e-30) for root, s in zip(roots, seen, strict=True)]
    floors = [max(float(np.diagonal(r).max()), 1e-30) * _RELATIVE_FLOOR for r in residuals]
    waiting = np.ones(count, bool)
    order: list[int] = []
    losses = [float(len(readers))]
    for _ in range(count):
        gains = np.zeros(count)
        for residual, s, floor, total in zip(residuals, seen, floors, whole, strict=True):
            gains += np.einsum("ij,ij->j", s, s) / np.maximum(np.diagonal(residual), floor) / total
        best = int(np.argmax(np.where(waiting, gains, -1.0)))
        waiting[best] = False
        order.append(best)
        left = 0.0
        for i, residual in enumerate(residuals):
            column, variance = residual[:, best].copy(), residual[best, best]
            if variance > floors[i]:
                seen[i] -= np.outer(seen[i][:, best] / variance, column)
                residual -= np.outer(column / variance, column)
            left += max(0.0, float(np.sum(roots[i] * seen[i]))) / whole[i]
        losses.append(left)
    return Curve(np.array(order), np.minimum.accumulate(np.array(losses)) / len(readers))


def curve_by_magnitude(norms: Reals) -> Curve:
    """Keeps the channels with the largest weights; what is lost is the share of the squared weights."""
    order = np.argsort(-norms, kind="stable")
    powers = norms[order] ** 2
    losses = np.append(powers.sum(), powers.sum() - np.cumsum(powers)) / max(float(powers.sum()), 1e-30)
    return Curve(order, np.maximum(losses, 0.0))


def _root(effect: Reals) -> Reals:
    values, vectors = np.linalg.eigh(effect)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))).T)


@dataclass(frozen=True, slots=True)
class Dense:
    """The work of a layer: `pair` multiplications for each channel that it reads and each that it gives."""

    pair: int
    reads: Mapping[int, int]
    """How many of the channels are of each group; `FIXED` for those of none."""
    gives: Mapping[int, int]

    def work(self, shares: Mapping[int, float]) -> float:
        """The multiplications of one frame where these shares of the groups' channels are kept."""
        sides = [sum(n * shares.get(group, 1.0) for group, n in side.items()) for side in (self.reads, self.gives)]
        return self.pair * sides[0] * sides[1]


FIXED = -1
"""Stands for the group of channels that stay."""


def step_of(width: int) -> int:
    """How many channels of a layer go at once. ONNX Runtime computes 8 or 16 channels together, and a layer with fewer
    of the last such block takes as long as with all of it."""
    if width < 32:
        return max(1, width // 4)
    block = 8 if width < 128 else 16
    return max(block, width // BLOCKS // block * block)


def share_out(
    curves: Mapping[int, Curve], weights: Mapping[int, float], layers: Sequence[Dense], target: float
) -> dict[int, int]:
    """Returns how many channels each group keeps, so that at most `target` of the work is left.

    Greedy: always the step that saves most work for what it loses.

    Args:
        curves: by group.
        weights: how much a loss of each group counts, by group.
        layers: what computes, and on which groups it depends.
        target: the share of all work that may be left, 0..1. Where the steps' limits end sooner, more is left.
    """
    widths = {group: len(curve.order) for group, curve in curves.items()}
    kept = dict(widths)

    def work(of: Mapping[int, int]) -> float:
        shares = {group: of[group] / widths[group] for group in widths}
        return sum(each.work(shares) for each in layers)

    whole = now = work(kept)
    while now > target * whole:
        best: tuple[float, int, int] | None = None
        for group, width in widths.items():
            smaller = kept[group] - step_of(width)
            if smaller < max(1, KEPT_SHARE_MIN * width):
                continue
            lost = weights[group] * (curves[group].losses[smaller] - curves[group].losses[kept[group]])
            price = max(lost, 0.0) / max(now - work(kept | {group: smaller}), 1e-9)
            if best is None or price < best[0]:
                best = (price, group, smaller)
        if best is None:
            return kept
        kept[best[1]] = best[2]
        now = work(kept)
    return kept
