"""What corruptions of pictures look like, on one frame, for people."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from duly_learn.frames.frame import Array
from duly_learn.robustness.corruptions import corrupted, corruption_for
from duly_learn.robustness.inputs import Plain
from duly_learn.robustness.kinds import Extent, Kind, channel_axis
from duly_learn.robustness.result import CLEAN, Shown

WIDTH_MAX = 400
SEVERITIES_SHOWN = (1, 3, 5)


def thumbnails(plain: Plain, names: Sequence[str], seed: int) -> Iterator[Shown]:
    """Gives the frame in the middle as the corruptions make it; nothing where there is no picture."""
    pictured = next((each for each in plain.harmable if each.kind is Kind.PICTURE), None)
    if pictured is None:
        return
    index = len(plain.frames) // 2
    array, extent = plain.array(index, pictured.name), pictured.extent
    yield Shown(CLEAN, "", _jpeg(array, extent))
    for name in names:
        corruption = corruption_for(name, Kind.PICTURE)
        for severity in SEVERITIES_SHOWN if corruption is not None else ():
            assert corruption is not None
            harmed = corrupted(corruption, severity, array, extent, seed, index, pictured.name)
            yield Shown(name, str(severity), _jpeg(harmed, extent))


def _jpeg(array: Array, extent: Extent) -> bytes:
    axis = channel_axis(array.shape) if array.ndim == 3 else None
    shown = array[..., None] if axis is None else np.moveaxis(array, axis, 2)
    span = extent.high - extent.low or 1.0
    levels = np.clip((shown.astype(np.float64) - extent.low) / span * 255, 0, 255).astype(np.uint8)
    levels = levels[..., :3][..., ::-1] if levels.shape[2] >= 3 else levels[..., :1]
    height, width = levels.shape[:2]
    factor = WIDTH_MAX / width
    size = (WIDTH_MAX, max(1, round(height * factor)))
    scaled = cv2.resize(np.ascontiguousarray(levels), size, interpolation=cv2.INTER_AREA if factor < 1 else 0)
    _, data = cv2.imencode(".jpg", scaled, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return data.tobytes()
