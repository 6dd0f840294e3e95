"""What happens to samples in time. They are float, [samples, channels], 0 being silence. No scale of severities is in
use for signals of all kinds: the amounts are duly's own.
"""

import numpy as np

from duly_learn.frames.frame import Array
from duly_learn.robustness.kinds import Extent


def noise(signal: Array, ratio_db: float, chance: np.random.Generator, extent: Extent) -> Array:
    """White noise, so far below the loudness of all frames together."""
    return signal + chance.normal(0.0, extent.loudness * 10 ** (-ratio_db / 20), signal.shape)


def blur(signal: Array, samples: float, chance: np.random.Generator, extent: Extent) -> Array:
    """The mean of so many samples: the high tones are lost."""
    width = min(int(samples), len(signal))
    before = width // 2
    padded = np.pad(signal, ((before, width - 1 - before), (0, 0)), mode="edge")
    summed = np.cumsum(np.concatenate([np.zeros((1, signal.shape[1])), padded]), axis=0)
    return np.asarray((summed[width:] - summed[:-width]) / width)


def gain(signal: Array, factor: float, chance: np.random.Generator, extent: Extent) -> Array:
    """Quieter: a sensor far away, or a cable that is loose."""
    return signal * factor


def clipping(signal: Array, share: float, chance: np.random.Generator, extent: Extent) -> Array:
    """Cut off at a share of the greatest magnitude of all frames: a sensor that is overdriven."""
    most = share * max(abs(extent.low), abs(extent.high))
    return np.clip(signal, -most, most)


def offset(signal: Array, share: float, chance: np.random.Generator, extent: Extent) -> Array:
    """All samples shifted by so many times the loudness: a sensor that has drifted."""
    return signal + share * extent.loudness


def occlusion(signal: Array, share: float, chance: np.random.Generator, extent: Extent) -> Array:
    """A gap of silence."""
    length = min(len(signal), round(share * len(signal)))
    begin = chance.integers(0, len(signal) - length + 1)
    gapped = signal.copy()
    gapped[begin : begin + length] = 0.0
    return gapped


def dropped(signal: Array, share: float, chance: np.random.Generator, extent: Extent) -> Array:
    """Samples that got lost here and there: the one before is in their place."""
    there = chance.random(len(signal)) >= share
    there[0] = True
    return signal[np.maximum.accumulate(np.where(there, np.arange(len(signal)), 0))]
