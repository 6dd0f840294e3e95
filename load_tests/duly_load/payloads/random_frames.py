"""Payloads drawn from a seed, for models whose work does not depend on what they see, which are most.

Floats are standard normal; integers of 8 and 16 bits have their full range; wider ones lie in 0..127, since they mostly
are indices, and texts are a few of those. A model that takes JPEG gets pictures that are smooth with a little grain, so
that they compress about as photographs do; one that takes PCM gets noise.
"""

from dataclasses import replace

import cv2
import numpy as np

from duly_client import to_bfloat16
from duly_client.convert import Array
from duly_client.recordings import CHUNK_S
from duly_client.types import Payload, TensorSpec
from duly_load.payloads.pictures import Pixels, as_taken

PICTURE_WIDTH, PICTURE_HEIGHT = 640, 480
"""The size of pictures where neither the model nor the scenario says."""

WORDS = 8
"""Whole numbers in each text."""
_SHAPE_PIXELS = 16
_GRAIN = 3.0
"""The standard deviation of the grain; pixels go to 255."""
_LOUDNESS = 3277.0
"""The standard deviation of sound; samples go to 32767."""


def usual_extents(spec: TensorSpec) -> TensorSpec:
    """`spec` with extents in place of free ones, for the two kinds of input that have usual ones: pictures as JPEG, and
    sound, of which a chunk is 32 ms.
    """
    if _is_picture(spec):
        usual: tuple[int, ...] = (PICTURE_HEIGHT, PICTURE_WIDTH, 3)
    elif spec.sample_rate_hz and len(spec.shape) == 1:
        usual = (round(spec.sample_rate_hz * CHUNK_S),)
    else:
        return spec
    return replace(spec, shape=tuple(usual[index] if extent < 0 else extent for index, extent in enumerate(spec.shape)))


def draw(specs: tuple[TensorSpec, ...], rng: np.random.Generator) -> Payload:
    """One frame for a model with these inputs, all of whose extents are known; several inputs get arrays."""
    if len(specs) > 1:
        return {spec.name: _numbers(spec, rng) for spec in specs}
    (spec,) = specs
    if _is_picture(spec):
        return as_taken(_picture(spec.shape[0], spec.shape[1], rng), spec)
    if "PCM_S16LE" in spec.encodings:
        return np.clip(rng.standard_normal(spec.shape) * _LOUDNESS, -32768, 32767).astype("<i2").tobytes()
    return _numbers(spec, rng)


def _is_picture(spec: TensorSpec) -> bool:
    return "JPEG" in spec.encodings and len(spec.shape) == 3


def _numbers(spec: TensorSpec, rng: np.random.Generator) -> Array:
    if spec.dtype.kind == "f":
        return rng.standard_normal(spec.shape).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return rng.random(spec.shape) < 0.5
    if spec.datatype == "BF16":
        return to_bfloat16(rng.standard_normal(spec.shape))
    if spec.datatype == "STRING":
        numbers = rng.integers(0, 128, (*spec.shape, WORDS))
        texts = np.empty(numbers.shape[:-1], spec.dtype)
        texts.ravel()[:] = [" ".join(map(str, words)) for words in numbers.reshape(-1, WORDS).tolist()]
        return texts
    limits = np.iinfo(spec.dtype)
    low, high = (limits.min, limits.max) if spec.dtype.itemsize <= 2 else (0, 127)
    return rng.integers(low, high, spec.shape, spec.dtype, endpoint=True)


def _picture(height: int, width: int, rng: np.random.Generator) -> Pixels:
    coarse = rng.integers(0, 256, (height // _SHAPE_PIXELS + 2, width // _SHAPE_PIXELS + 2, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    grain = rng.standard_normal((height, width, 1), np.float32) * _GRAIN
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)
