"""The points of sensor_msgs/PointCloud2 as an array."""

from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from duly_ros2.cdr import Reader, Unreadable

FIELDS_MAX = 64
"""Fields that a point may have; a message with more is not read."""
_KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""Element types, by the numbers of sensor_msgs/PointField."""


def points(reader: Reader, names: tuple[str, ...]) -> NDArray[np.generic]:
    """Reads a cloud, from behind its header on, as [points, fields] of the fields `names`. Where these are of one type
    and at even distances it is a view of the message, else a copy in FP32. Raises Unreadable.
    """
    height, width = reader.integer(), reader.integer()
    count = reader.integer()
    if count > FIELDS_MAX:
        raise Unreadable(f"the cloud's points have {count} fields; at most {FIELDS_MAX} are read")
    held: dict[str, tuple[int, str]] = {}
    for _ in range(count):
        name = reader.text()
        offset, datatype, number = reader.integer(), reader.integer("B"), reader.integer()
        if datatype in _KINDS and number == 1:
            held[name] = offset, _KINDS[datatype]
    big_endian = bool(reader.integer("B"))
    point_step, row_step = reader.integer(), reader.integer()
    data = reader.array("u1")
    missing = [name for name in names if name not in held]
    if missing:
        raise Unreadable(f"the cloud has no field {missing[0]!r}; it has {', '.join(held) or 'none'}")
    row_step = row_step or point_step * width
    ends = max(offset + np.dtype(kind).itemsize for offset, kind in (held[name] for name in names))
    if not width or not height or ends > point_step or row_step < point_step * width or len(data) < row_step * height:
        raise Unreadable(
            f"the cloud is {width}x{height} points of {point_step} bytes in rows of {row_step}, "
            f"of which fields need {ends}, and has {len(data)} bytes"
        )
    order: Literal["<", ">"] = ">" if big_endian else "<"
    offsets = [held[name][0] for name in names]
    kinds = {held[name][1] for name in names}
    distances = {after - before for before, after in pairwise(offsets)}
    if len(kinds) == 1 and len(distances) <= 1:
        dtype = np.dtype(kinds.pop()).newbyteorder(order)
        strides = (row_step, point_step, distances.pop() if distances else dtype.itemsize)
        view = np.ndarray((height, width, len(names)), dtype, data.data, offsets[0], strides)
        return view.reshape(-1, len(names))
    out = np.empty((height, width, len(names)), np.float32)
    for nth, name in enumerate(names):
        offset, kind = held[name]
        out[:, :, nth] = np.ndarray(
            (height, width), np.dtype(kind).newbyteorder(order), data.data, offset, (row_step, point_step)
        )
    return out.reshape(-1, len(names))
