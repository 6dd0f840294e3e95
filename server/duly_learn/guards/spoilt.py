"""Frames that something is wrong with, made of clean ones: what guards are there to find."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np

from duly.models.spec import Signature, TensorSpec
from duly.worker.dtypes import DTYPES
from duly_learn.errors import LearnError
from duly_learn.frames.frame import Array, Encoded, LearnFrame, Value

PATCHES = 8
"""A picture is cut into so many rows and columns of patches."""
PATCHES_KIND = f"shuffled patches, {PATCHES} x {PATCHES}"
_PICTURES = {"JPEG": ".jpg", "MJPEG": ".jpg", "PNG": ".png"}
_QUALITY = 95
_QUANTILES = (0.001, 0.999)
"""Noise lies between these quantiles of the clean frames, where a type has no ends."""


class NotSpoilt(LearnError):
    """Frames cannot be spoilt here. The message says why."""


class Spoiler:
    """Spoils the frames of a model. Every call draws from the same chance, so that a seed says all of it."""

    def __init__(self, signature: Signature, clean: Sequence[LearnFrame], seed: int) -> None:
        """`clean`: frames that say what numbers are usual. Raises NotSpoilt where a frame is video, or text."""
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._random = np.random.default_rng(seed)
        self._usual: dict[str, tuple[float, float, float, float]] = {}
        """For each input the lowest and the highest number, the mean and the standard deviation."""
        for spec in signature.inputs:
            values = [array_of(frame.inputs[spec.name], spec) for frame in clean]
            some = np.concatenate([value.ravel()[:: max(1, value.size // 4096)] for value in values]).astype(np.float64)
            low, high = _ends(spec) or (float(x) for x in np.quantile(some, _QUANTILES))
            self._usual[spec.name] = low, high, float(some.mean()), float(some.std())
        self.pictures = any(_is_picture(spec) for spec in signature.inputs)
        self._elements = _elements(signature)

    def kinds(self) -> Mapping[str, Callable[[Sequence[LearnFrame]], list[LearnFrame]]]:
        """Returns the ways to spoil frames, by what they are called."""
        ways = {
            "blank": self.blank,
            "frozen": self.frozen,
            "uniform noise": self.uniform,
            "gaussian noise": self.gaussian,
            f"shuffled {self._elements}": self.shuffled,
        }
        return ways | ({PATCHES_KIND: self.patches} if self.pictures else {})

    def blank(self, frames: Sequence[LearnFrame]) -> list[LearnFrame]:
        """Frames of one colour, or of one number."""

        def one(value: Array, spec: TensorSpec) -> Array:
            low, high, mean, _ = self._usual[spec.name]
            if _is_picture(spec):
                return np.broadcast_to(self._random.uniform(low, high, (1, 1, value.shape[-1])), value.shape)
            return np.full(value.shape, self._random.choice([0.0, mean]))

        return self._each(frames, one)

    def frozen(self, frames: Sequence[LearnFrame]) -> list[LearnFrame]:
        """The first frame of each stream again and again."""
        first: dict[str, LearnFrame] = {}
        return [replace(first.setdefault(frame.stream, frame), when_ns=frame.when_ns) for frame in frames]

    def uniform(self, frames: Sequence[LearnFrame]) -> list[LearnFrame]:
        """Any number is as likely as any other."""
        return self._each(frames, lambda value, spec: self._random.uniform(*self._usual[spec.name][:2], value.shape))

    def gaussian(self, frames: Sequence[LearnFrame]) -> list[LearnFrame]:
        """Noise with the mean and the standard deviation of the clean frames."""

        def one(value: Array, spec: TensorSpec) -> Array:
            low, high, mean, deviation = self._usual[spec.name]
            return np.clip(self._random.normal(mean, deviation, value.shape), low, high)

        return self._each(frames, one)

    def shuffled(self, frames: Sequence[LearnFrame]) -> list[LearnFrame]:
        """The pixels of a picture, or the elements of anything else, in another order."""

        def one(value: Array, spec: TensorSpec) -> Array:
            rows = value.reshape(-1, value.shape[-1]) if _is_picture(spec) else value.reshape(-1, 1)
            return rows[self._random.permutation(len(rows))].reshape(value.shape)

        return self._each(frames, one)

    def patches(self, frames: Sequence[LearnFrame]) -> list[LearnFrame]:
        """The patches of a picture in another order; up to seven rows and columns at its end stay as they are."""

        def one(value: Array, spec: TensorSpec) -> Array:
            if not _is_picture(spec):
                return value
            height, width = (extent // PATCHES for extent in value.shape[:2])
            whole = value[: height * PATCHES, : width * PATCHES]
            cut = (
                whole.reshape(PATCHES, height, PATCHES, width, -1).swapaxes(1, 2).reshape(PATCHES**2, height, width, -1)
            )
            mixed = (
                cut[self._random.permutation(PATCHES**2)].reshape(PATCHES, PATCHES, height, width, -1).swapaxes(1, 2)
            )
            spoilt = value.copy()
            spoilt[: height * PATCHES, : width * PATCHES] = mixed.reshape(whole.shape)
            return spoilt

        return self._each(frames, one)

    def _each(self, frames: Sequence[LearnFrame], one: Callable[[Array, TensorSpec], Array]) -> list[LearnFrame]:
        spoilt = []
        for frame in frames:
            inputs: dict[str, Value] = {}
            for name, value in frame.inputs.items():
                spec = self._specs[name]
                clean = array_of(value, spec)
                inputs[name] = _as_was(one(clean, spec), clean, value, spec)
            spoilt.append(replace(frame, inputs=inputs))
        return spoilt


def array_of(value: Value, spec: TensorSpec) -> Array:
    """Returns the numbers that a client sends for an input: pictures [height, width, channels], sound in 16 bits.
    Raises NotSpoilt.
    """
    if not isinstance(value, Encoded):
        if spec.is_text:
            raise NotSpoilt(f"input '{spec.name}' is text, and there is no noise or blank of text")
        return value
    if value.encoding == "PCM_S16LE":
        return np.frombuffer(value.data, "<i2")
    if value.encoding not in _PICTURES:
        raise NotSpoilt(
            f"input '{spec.name}' is {value.encoding}; pictures (JPEG, PNG), sound and arrays can be spoilt"
        )
    picture = cv2.imdecode(np.frombuffer(value.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise NotSpoilt(f"input '{spec.name}': a {value.encoding} cannot be decoded")
    return np.atleast_3d(np.asarray(picture))


def _as_was(spoilt: Array, clean: Array, value: Value, spec: TensorSpec) -> Value:
    """Returns spoilt numbers in the form in which the clean ones came."""
    if np.issubdtype(clean.dtype, np.integer):
        bounds = np.iinfo(clean.dtype)
        spoilt = np.clip(np.round(spoilt), bounds.min, bounds.max)
    array = np.ascontiguousarray(spoilt, clean.dtype)
    if not isinstance(value, Encoded):
        return array
    if value.encoding == "PCM_S16LE":
        return Encoded(value.encoding, array.tobytes())
    encoding = "PNG" if "PNG" in spec.encodings else value.encoding  # which keeps noise as it is
    options = [] if encoding == "PNG" else [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    _, data = cv2.imencode(_PICTURES[encoding], array, options)
    return Encoded(encoding, data.tobytes())


def _elements(signature: Signature) -> str:
    """What the elements of a frame are called, that are shuffled."""
    if any(map(_is_picture, signature.inputs)):
        return "pixels"
    if any("PCM_S16LE" in spec.encodings or spec.sample_rate_hz for spec in signature.inputs):
        return "in time"
    return "columns" if all(len(spec.shape) == 1 for spec in signature.inputs) else "elements"


def _is_picture(spec: TensorSpec) -> bool:
    return bool(spec.pixels_max) or (len(spec.shape) == 3 and spec.shape[2] in (1, 3, 4))


def _ends(spec: TensorSpec) -> tuple[float, float] | None:
    """The lowest and the highest number that a sensor can say; None: its type has no ends."""
    if "PCM_S16LE" in spec.encodings:
        return -32768.0, 32767.0
    dtype = DTYPES[spec.datatype]
    if spec.is_text or not np.issubdtype(dtype, np.integer):
        return None
    return (0.0, 255.0) if dtype == np.uint8 else (float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))
