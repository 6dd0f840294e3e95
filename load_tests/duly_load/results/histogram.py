"""Times as an HdrHistogram, which others can decode, add up and read: Gil Tene, https://hdrhistogram.org.

Values are µs from 1 to an hour, kept to three significant digits; the encoding is the V2 of HistogramLogWriter
(zlib and base64), which every port of the library reads.
"""

from dataclasses import dataclass

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

HOUR_US = 3_600_000_000
DIGITS = 3
Ints = NDArray[np.int64]

_EXACT_BITS = 11
"""Three digits need the upper 11 bits of a value."""
_PARTS = (5000, 9000, 9900, 9990, 9999)
"""Percentiles, in ten-thousandths."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """How times are distributed, ms. A percentile is a value that occurred, or up to 0.1 % more; with fewer values than
    it needs (10,000 for p99_99) it is the greatest. Mean and greatest are exact.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p99_9: float
    p99_99: float
    max: float


def percentiles_of(times_ns: Ints) -> Percentiles | None:
    """The percentiles of a histogram of the times, by nearest rank. None: there are no times."""
    count = len(times_ns)
    if not count:
        return None
    greatest_ms = float(times_ns.max()) / 1e6
    _, last_us, counts = _told_apart(times_ns)
    ranks = [-(-part * count // 10_000) for part in _PARTS]
    at_ms = np.minimum(last_us[np.searchsorted(np.cumsum(counts), ranks)] / 1e3, greatest_ms)
    p50, p90, p99, p99_9, p99_99 = at_ms.tolist()
    return Percentiles(count, float(times_ns.mean()) / 1e6, p50, p90, p99, p99_9, p99_99, greatest_ms)


def encoded(times_ns: Ints) -> str:
    """A histogram of the times as text for `HdrHistogram.decode`; those over an hour count as an hour."""
    histogram = HdrHistogram(1, HOUR_US, DIGITS)
    values_us, _, counts = _told_apart(times_ns)
    for value_us, count in zip(values_us.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value_us, count)
    text: bytes = histogram.encode()
    return text.decode("ascii")


def _told_apart(times_ns: Ints) -> tuple[Ints, Ints, Ints]:
    """The buckets of a histogram of these times, in order: first and last value in µs, and the number of times."""
    times_us = np.clip(times_ns // 1000, 0, HOUR_US)
    shift = np.maximum(0, np.frexp(times_us.astype(np.float64))[1] - _EXACT_BITS)
    values_us, at, counts = np.unique(times_us >> shift << shift, return_index=True, return_counts=True)
    return values_us, values_us + (1 << shift[at]) - 1, counts
