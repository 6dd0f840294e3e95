"""How thin a convolution may become: what each pair of ranks loses and costs, and which pairs to take.

A convolution k x k from c to d channels becomes three: 1 x 1 from c to a, k x k from a to b, 1 x 1 from b to d. The a
numbers are those combinations of what it reads that explain most of what it gives; the b numbers those combinations of
what it gives that explain most of what the layers behind get. Both come of the covariances over frames, so that what
never varies costs nothing: Zhang, Zou, He and Sun 2015, "Accelerating Very Deep Convolutional Networks for
Classification and Detection", sections 3.1 and 3.3, for what is given; for what is read the same on the other side, as
in the Tucker form of Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
Applications", which takes both from the weights alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from duly_learn.optimize.activations import Reals

STEP = 16
"""Ranks are multiples of it, as ONNX Runtime computes so many channels together."""
_RIDGE = 1e-5
"""The share of the mean variance that is added to each, so that channels that never vary can be divided by."""
_HALVINGS = 60
"""The price of a multiplication is found in so many halvings."""


@dataclass(frozen=True, slots=True)
class Side:
    """Combinations of channels, the most telling first."""

    encode: Reals
    """[channels, channels]: each column makes one number of the channels."""
    decode: Reals
    """[channels, channels]: each row is what that number stands for."""
    mean: Reals
    """[channels]"""
    losses: Reals
    """[channels + 1]: the share of the variance that counts which is lost with only the first n."""

    def unexplained(self, count: int) -> Reals:
        """What the first `count` combinations leave of the mean."""
        return np.asarray(self.mean - self.mean @ self.encode[:, :count] @ self.decode[:count])


def side_of(mean: Reals, covariance: Reals, effect: Reals) -> Side:
    """Orders combinations of channels by what they mean for `effect` [channels, channels]: the trace of
    effect @ covariance is the variance that counts."""
    count = len(covariance)
    ridge = _RIDGE * max(float(np.trace(covariance)) / count, 1e-30)
    values, vectors = np.linalg.eigh(covariance + ridge * np.eye(count))
    spread = np.sqrt(np.maximum(values, 1e-30))
    root, inverse = (vectors * spread) @ vectors.T, (vectors / spread) @ vectors.T
    gains, axes = np.linalg.eigh(root @ effect @ root)
    gains, axes = np.maximum(gains[::-1], 0.0), axes[:, ::-1]
    left = np.append(gains.sum(), gains.sum() - np.cumsum(gains)) / max(float(gains.sum()), 1e-30)
    return Side(inverse @ axes, axes.T @ root, mean, np.maximum(left, 0.0))


@dataclass(frozen=True, slots=True)
class Splittable:
    """A convolution that may be split."""

    reads: Side
    gives: Side
    places: int
    """Where it is computed, of one frame."""
    taps: int
    """The extent of its kernel."""
    weight: float = 1.0
    """How much a loss of its variance counts for the graph's outputs."""

    @property
    def widths(self) -> tuple[int, int]:
        return len(self.reads.encode), len(self.gives.encode)

    def work(self, ranks: tuple[int, int] | None) -> int:
        """The multiplications of one frame; None: as it is."""
        wide, given = self.widths
        if ranks is None:
            return self.places * self.taps * wide * given
        a, b = ranks
        return self.places * (wide * a + self.taps * a * b + b * given)

    def loss(self, ranks: tuple[int, int] | None) -> float:
        return 0.0 if ranks is None else float(self.reads.losses[ranks[0]] + self.gives.losses[ranks[1]])

    def pairs(self) -> list[tuple[int, int]]:
        """All pairs of ranks that save work."""
        whole = self.work(None)
        first, second = (range(STEP, width + 1, STEP) for width in self.widths)
        return [(a, b) for a in first for b in second if self.work((a, b)) < whole]


def choose_ranks(layers: Mapping[str, Splittable], others: int, share: float) -> dict[str, tuple[int, int]]:
    """Returns the ranks of those layers that are to be split, so that at most `share` of all multiplications are left
    and as little as may be is lost; where that cannot be reached, as little work as can be.

    Args:
        layers: by name.
        others: the multiplications of what cannot be split.
    """
    whole = others + sum(each.work(None) for each in layers.values())
    options: dict[str, tuple[Sequence[tuple[int, int] | None], Reals, Reals]] = {}
    for name, layer in layers.items():
        pairs: list[tuple[int, int] | None] = [None, *layer.pairs()]
        losses = np.array([layer.weight * layer.loss(pair) for pair in pairs])
        options[name] = pairs, losses, np.array([float(layer.work(pair)) for pair in pairs])

    def at(price: float) -> dict[str, int]:
        return {name: int(np.argmin(losses + price * works)) for name, (_, losses, works) in options.items()}

    def left(chosen: Mapping[str, int]) -> float:
        return others + sum(float(options[name][2][place]) for name, place in chosen.items())

    low, high = 0.0, 1e3 / max(whole, 1)
    best = at(high)
    for _ in range(_HALVINGS):
        price = (low + high) / 2
        chosen = at(price)
        if left(chosen) <= share * whole:
            best, high = chosen, price
        else:
            low = price
    return {name: ranks for name, place in best.items() if (ranks := options[name][0][place]) is not None}
