"""The corruptions, each for one kind of input, with what it does at severities 1 to 5."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from duly_learn.errors import LearnError
from duly_learn.frames.frame import Array
from duly_learn.robustness import pictures, signals, tables
from duly_learn.robustness.kinds import Extent, Kind, channel_axis

SEVERITIES = (1, 2, 3, 4, 5)
IMAGENET_C = "ImageNet-C"
OWN = "duly"


@dataclass(frozen=True, slots=True)
class Corruption:
    name: str
    kind: Kind
    how: Callable[..., Array]
    amounts: tuple[Any, ...]
    """What it is given at severities 1 to 5."""
    unit: str
    """What an amount means."""
    scale: str = OWN
    """Whose severities these are."""


P, S, T = Kind.PICTURE, Kind.SIGNAL, Kind.TABLE
CORRUPTIONS: tuple[Corruption, ...] = (
    Corruption("gaussian_noise", P, pictures.gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), "deviation", IMAGENET_C),
    Corruption("shot_noise", P, pictures.shot_noise, (60, 25, 12, 5, 3), "photons a level of 1", IMAGENET_C),
    Corruption("impulse_noise", P, pictures.impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27), "share", IMAGENET_C),
    Corruption(
        "defocus_blur",
        P,
        pictures.defocus_blur,
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "radius and softness, pixels at 224",
        IMAGENET_C,
    ),
    Corruption("gaussian_blur", P, pictures.gaussian_blur, (1, 2, 3, 4, 6), "deviation, pixels at 224", IMAGENET_C),
    Corruption("brightness", P, pictures.brightness, (0.1, 0.2, 0.3, 0.4, 0.5), "added to the value", IMAGENET_C),
    Corruption("darkness", P, pictures.brightness, (-0.1, -0.2, -0.3, -0.4, -0.5), "added to the value"),
    Corruption("contrast", P, pictures.contrast, (0.4, 0.3, 0.2, 0.1, 0.05), "share that is left", IMAGENET_C),
    Corruption("jpeg_compression", P, pictures.jpeg_compression, (25, 18, 15, 10, 7), "quality", IMAGENET_C),
    Corruption("pixelate", P, pictures.pixelate, (0.6, 0.5, 0.4, 0.3, 0.25), "share of the resolution", IMAGENET_C),
    Corruption("occlusion", P, pictures.occlusion, (0.05, 0.1, 0.2, 0.3, 0.45), "share of the area"),
    Corruption("dropped", P, pictures.dropped, (0.05, 0.1, 0.2, 0.35, 0.5), "share of the slices"),
    Corruption("noise", S, signals.noise, (30, 20, 10, 5, 0), "signal to noise, dB"),
    Corruption("blur", S, signals.blur, (3, 5, 9, 17, 33), "samples"),
    Corruption("gain", S, signals.gain, (0.7, 0.5, 0.3, 0.15, 0.05), "factor"),
    Corruption("clipping", S, signals.clipping, (0.8, 0.5, 0.3, 0.2, 0.1), "share of the greatest"),
    Corruption("offset", S, signals.offset, (0.1, 0.25, 0.5, 1.0, 2.0), "times the loudness"),
    Corruption("occlusion", S, signals.occlusion, (0.05, 0.1, 0.2, 0.3, 0.45), "share of the frame"),
    Corruption("dropped", S, signals.dropped, (0.05, 0.1, 0.2, 0.35, 0.5), "share of the samples"),
    Corruption("noise", T, tables.noise, (0.1, 0.2, 0.4, 0.7, 1.0), "standard deviations"),
    Corruption("offset", T, tables.offset, (0.1, 0.2, 0.4, 0.7, 1.0), "standard deviations"),
    Corruption("dropped", T, tables.dropped, (0.05, 0.1, 0.2, 0.35, 0.5), "share of the columns"),
)
NAMES = tuple(dict.fromkeys(corruption.name for corruption in CORRUPTIONS))


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the corruptions that are asked for, all where none is. Raises LearnError for another."""
    for name in names:
        if name not in NAMES:
            raise LearnError(f"corruption {name!r}: is none; there are {', '.join(NAMES)}")
    return tuple(dict.fromkeys(names)) or NAMES


def corruption_for(name: str, kind: Kind) -> Corruption | None:
    """Returns the corruption of that name for inputs of that kind; None: there is none."""
    return next((each for each in CORRUPTIONS if (each.name, each.kind) == (name, kind)), None)


def corrupted(
    corruption: Corruption, severity: int, array: Array, extent: Extent, seed: int, frame: int, name: str
) -> Array:
    """Returns the array as it is after the corruption, of the same shape and type, within the input's extent.

    The same `seed`, `frame` and input `name` give the same: two versions are given the very same frames, and what is
    dropped at one severity is so at all above. What is not finite stays as it is.
    """
    chance = np.random.default_rng([seed, zlib.crc32(f"{corruption.name} {name}".encode()), frame])
    amount = corruption.amounts[severity - 1]
    values = array.astype(np.float64)
    finite = np.isfinite(values)
    values = np.where(finite, values, 0.0)
    if corruption.kind is Kind.PICTURE:
        axis = channel_axis(array.shape) if array.ndim == 3 else None
        shown = values[..., None] if axis is None else np.moveaxis(values, axis, 2)
        span = extent.high - extent.low or 1.0
        done = np.clip(corruption.how((shown - extent.low) / span, amount, chance), 0, 1) * span + extent.low
        values = done[..., 0] if axis is None else np.moveaxis(done, 2, axis)
    elif corruption.kind is Kind.SIGNAL:
        lies = array.ndim == 2 and array.shape[0] < array.shape[1]
        columns = values.T if lies else values.reshape(len(values), -1)
        done = corruption.how(columns, amount, chance, extent)
        values = done.T if lies else done.reshape(array.shape)
    else:
        values = corruption.how(values, amount, chance, extent)
    return as_sent(np.where(finite, values, array), array, extent)


def as_sent(values: Array, like: Array, extent: Extent) -> Array:
    """Returns values as they can be sent: within what the input holds, and in its steps where it has some."""
    values = np.clip(values, extent.floor, extent.ceiling)
    if extent.step:
        values = np.rint(values / extent.step) * extent.step
    return np.ascontiguousarray(values, like.dtype)
