"""What happens to pictures. They are float, [height, width, channels], from 0 to 1, and stay so.

Names and severities are those of ImageNet-C (Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations, ICLR 2019) where it is not said otherwise. Its lengths in pixels are for pictures whose
shorter side has 224, and grow with it.
"""

import cv2
import numpy as np

from duly_learn.frames.frame import Array

SIDE = 224
DISK_MIN = 8
"""ImageNet-C draws the disk of its blur into a square of at least so much to either side."""


def gaussian_noise(picture: Array, deviation: float, chance: np.random.Generator) -> Array:
    return picture + chance.normal(0.0, deviation, picture.shape)


def shot_noise(picture: Array, photons: float, chance: np.random.Generator) -> Array:
    return chance.poisson(np.clip(picture, 0, 1) * photons) / photons


def impulse_noise(picture: Array, share: float, chance: np.random.Generator) -> Array:
    hit = chance.random(picture.shape)
    return np.where(hit < share / 2, 0.0, np.where(hit < share, 1.0, picture))


def defocus_blur(picture: Array, amount: tuple[float, float], chance: np.random.Generator) -> Array:
    radius, soft = (each * _scale(picture) for each in amount)
    reach = int(np.ceil(max(DISK_MIN * _scale(picture), radius)))
    across = np.arange(-reach, reach + 1)
    disk = (across[:, None] ** 2 + across[None, :] ** 2 <= radius**2).astype(np.float64)
    disk = cv2.GaussianBlur(disk / disk.sum(), (3, 3) if radius <= DISK_MIN else (5, 5), sigmaX=max(soft, 1e-3))
    return _with_channels(cv2.filter2D(picture, -1, disk, borderType=cv2.BORDER_REFLECT_101), picture)


def gaussian_blur(picture: Array, deviation: float, chance: np.random.Generator) -> Array:
    blurred = cv2.GaussianBlur(picture, (0, 0), sigmaX=deviation * _scale(picture))
    return _with_channels(blurred, picture)


def brightness(picture: Array, amount: float, chance: np.random.Generator) -> Array:
    """Adds to the value of hue, saturation and value; of gray pictures to the gray."""
    if picture.shape[2] != 3:
        return picture + amount
    value = picture.max(axis=2, keepdims=True)
    brighter = np.clip(value + amount, 0, 1)
    return np.asarray(np.where(value > 0, picture * (brighter / np.maximum(value, 1e-9)), brighter))


def contrast(picture: Array, share: float, chance: np.random.Generator) -> Array:
    means = picture.mean(axis=(0, 1), keepdims=True)
    return np.asarray((picture - means) * share + means)


def jpeg_compression(picture: Array, quality: float, chance: np.random.Generator) -> Array:
    levels = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
    if levels.shape[2] not in (1, 3):  # JPEG has no more channels: each by itself
        return np.concatenate([jpeg_compression(picture[..., [nth]], quality, chance) for nth in range(4)], axis=2)
    colours = levels[..., ::-1] if levels.shape[2] == 3 else levels
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(colours), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    read = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB if levels.shape[2] == 3 else cv2.IMREAD_GRAYSCALE)
    return _with_channels(np.asarray(read, np.float64) / 255, picture)


def pixelate(picture: Array, share: float, chance: np.random.Generator) -> Array:
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (max(1, int(width * share)), max(1, int(height * share))), interpolation=cv2.INTER_AREA)
    return _with_channels(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), picture)


def occlusion(picture: Array, share: float, chance: np.random.Generator) -> Array:
    """A gray square, or what of one fits, of that share of the picture's area. Not of ImageNet-C."""
    height, width = picture.shape[:2]
    side = np.sqrt(share * height * width)
    tall, wide = min(height, round(side)), min(width, round(side))
    top, left = chance.integers(0, height - tall + 1), chance.integers(0, width - wide + 1)
    covered = picture.copy()
    covered[top : top + tall, left : left + wide] = 0.5
    return covered


def dropped(picture: Array, share: float, chance: np.random.Generator) -> Array:
    """Lines that got lost, in slices of a sixteenth of the height: the line above each slice is in their place. Not of
    ImageNet-C.
    """
    lines = max(1, picture.shape[0] // 16)
    holed = picture.copy()
    for low in range(0, picture.shape[0], lines):
        if chance.random() < share:
            holed[low : low + lines] = picture[max(0, low - 1)]
    return holed


def _scale(picture: Array) -> float:
    return float(min(picture.shape[:2])) / SIDE


def _with_channels(filtered: Array, picture: Array) -> Array:
    """Of pictures with one channel OpenCV leaves that dimension out."""
    return np.asarray(filtered).reshape(picture.shape)
