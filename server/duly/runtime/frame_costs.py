"""What frames of one model version take beyond usual ones, learnt by their sizes.

Theory. The profile (`core/timing/profile`) plans for frames like those of the warm-up. Most models take frames of one
size, and nothing is to be added. Two things vary: decoding a picture takes as long as its pixels are many, and a graph
whose extents are open takes as long as its input is large, often more than in proportion. Both are known from the
header or the shape when a frame comes, so that what it takes more is planned before it runs (`Frame.extra_ns`).

The warm-up measures a few sizes. From then on every run teaches: a size is believed to take about the longest of its
last runs. A size that never ran is taken to be in proportion to the next smaller one that did, with an allowance for
content (UNKNOWN_FACTOR), or for graphs in proportion to its square, but never longer than a larger one that ran.
Sizes within a quarter of an octave are one. What is planned of a size that never ran is a guess, and the scheduler may
try such a frame against it (`Frame.untried`), once for each size: it is known from then on.

How long the profile's own part of a run took is what is left once the measured extra is taken off. Of a graph with
open extents that is not known; such a run teaches nothing about usual frames.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Mapping, Sequence
from math import log2, prod
from typing import Any

from duly.models.spec import ELEMENT_BYTES, Signature
from duly.runtime.held_frames import InputData
from duly.worker.channel import ENCODINGS

PICTURES = tuple(ENCODINGS.index(name) for name in ("JPEG", "PNG", "MJPEG"))
RUNS_MAX = 32
"""So many of its last runs are remembered for each size."""
STEPS_AN_OCTAVE = 4
POINTS_MAX = 64
"""A worker may have measured so many sizes."""
UNKNOWN_FACTOR = 3.0
"""Noise takes so many times as long to decode as the smooth picture of the warm-up, and large pictures are slower for
each pixel."""
MARGIN = 1.1
EXTRA_NS_MIN = 200_000
"""Less than this is no extra; it is within what frames of one size vary."""
EXTRA_NS_MAX = 3_600_000_000_000
"""No frame is planned for longer than an hour more, whatever its size extrapolates to."""


class SizeCosts:
    """How long sizes take, beside a usual size."""

    def __init__(self, measured: Sequence[tuple[int, int]], power: float, unknown_factor: float) -> None:
        """`measured`: sizes and nanoseconds of the warm-up, the usual one first. A size that never ran takes
        `unknown_factor` times what the next smaller one takes, times the ratio of their sizes to that power.

        Raises ValueError where a number is not positive.
        """
        if not measured or min(min(point) for point in measured) <= 0:
            raise ValueError(f"sizes need positive sizes and times, got {measured}")
        self.usual_size, self.usual_ns = measured[0]
        self._power = power
        self._unknown_factor = unknown_factor
        self._steps: list[int] = []
        self._runs: dict[int, deque[tuple[int, int]]] = {}
        for size, ns in measured:
            self.observe(size, ns)

    def observe(self, size: int, ns: int) -> None:
        """Learns that a frame of that size took so long."""
        step = _step(size)
        runs = self._runs.get(step)
        if runs is None:
            runs = self._runs[step] = deque(maxlen=RUNS_MAX)
            insort(self._steps, step)
        runs.append((size, max(1, ns)))

    def is_guess(self, size: int) -> bool:
        """Whether it is planned to take longer than the usual size, though no frame near that size has run."""
        return _step(size) not in self._runs and self.beyond_ns(size) > 0

    def beyond_ns(self, size: int) -> int:
        """Returns how much longer than the usual size that size is planned to take."""
        if _step(size) <= _step(self.usual_size):
            return 0
        extra_ns = self._expected_ns(size) * MARGIN - self.usual_ns
        return 0 if extra_ns < EXTRA_NS_MIN else int(min(extra_ns, EXTRA_NS_MAX))

    def _expected_ns(self, size: int) -> float:
        step = _step(size)
        at = bisect_right(self._steps, step) - 1
        below = self._steps[at]  # there is one, as the usual size is smaller
        base_size, base_ns = self._longest(below)
        expected_ns = float(base_ns * max(1.0, size / base_size) ** self._power)
        if below != step:
            expected_ns *= self._unknown_factor
            above = bisect_left(self._steps, step)
            if above < len(self._steps):
                expected_ns = min(expected_ns, self._longest(self._steps[above])[1])
        return expected_ns

    def _longest(self, step: int) -> tuple[int, int]:
        """The longest run of that step, or the second longest where one alone may have been disturbed."""
        runs = sorted(self._runs[step], key=_time)
        return runs[-2] if len(runs) >= RUNS_MAX // 2 else runs[-1]


class FrameCosts:
    """What frames of one model version take, by their sizes."""

    def __init__(self, signature: Signature, sizes: Mapping[str, Any], took_ns: int) -> None:
        """`sizes`: what READY says of them (`worker/size_warmup`). `took_ns`: how long the load has taken.

        Raises an exception that says what is wrong where that cannot be true.
        """
        self._read = {
            ENCODINGS.index(name): SizeCosts(_points(measured, took_ns), 1.0, UNKNOWN_FACTOR)
            for name, measured in sizes.get("read", {}).items()
            if ENCODINGS.index(name) in PICTURES
        }
        graph = _points(sizes.get("graph", ()), took_ns)
        self._graph = SizeCosts(graph, 2.0, 1.0) if graph else None
        self._open = [int(index) for index in sizes.get("open", ())] if graph else []
        specs = signature.inputs
        if any(not 0 <= index < len(specs) for index in self._open):
            raise ValueError(f"there are {len(specs)} inputs, not {self._open}")
        self._pixel_bytes = [
            ELEMENT_BYTES[spec.datatype] * (spec.shape[2] if len(spec.shape) == 3 and spec.encodings else 1)
            for spec in specs
        ]

    def __bool__(self) -> bool:
        return bool(self._read) or self._graph is not None

    def extra_ns(self, payload: Sequence[InputData]) -> tuple[int, int]:
        """Returns how much longer than a usual frame this one is planned to take, and how much of that is reading."""
        reading_ns, running_ns = self.reading_ns(payload), 0
        if self._graph is not None:
            running_ns = self._graph.beyond_ns(self._graph_size(payload))
        return reading_ns + running_ns, reading_ns

    def untried(self, payload: Sequence[InputData]) -> bool:
        """Whether no frame near that size has run, so that what `extra_ns` says is a guess."""
        guess = self._graph is not None and self._graph.is_guess(self._graph_size(payload))
        return guess or self.reading_untried(payload)

    def reading_ns(self, payload: Sequence[InputData]) -> int:
        """Returns how much longer than that of a usual frame reading is planned to take of this one, or of the one
        input that a frame of a fusion group has.
        """
        return sum([costs.beyond_ns(pixels) for costs, pixels in self._pictures(payload)]) if self._read else 0

    def reading_untried(self, payload: Sequence[InputData]) -> bool:
        """Whether what `reading_ns` says is a guess likewise."""
        return any([costs.is_guess(pixels) for costs, pixels in self._pictures(payload)])

    def observe(
        self,
        payloads: Sequence[Sequence[InputData]],
        larger: Sequence[bool],
        read_ns: Sequence[int],
        ran_ns: int,
        whole: bool = True,
    ) -> int:
        """Learns from a batch that took `ran_ns`, in which reading frame i took `read_ns[i]`; `larger[i]` says whether
        the frame was planned to take longer than usual ones, and `whole` whether all frames gave results.

        Returns how much of that time the batch took because of frames that are larger than usual; -1: not known.
        """
        extra_ns = 0
        for payload, is_larger, ns in zip(payloads, larger, read_ns, strict=False):
            pictures = self._pictures(payload)
            work = sum(pixels for _, pixels in pictures)
            for costs, pixels in pictures:
                own_ns = ns * pixels // max(1, work)
                costs.observe(pixels, own_ns)
                if is_larger:
                    extra_ns += max(0, own_ns - costs.usual_ns)
        if self._graph is not None:
            if len(payloads) == 1 and whole:
                self._graph.observe(self._graph_size(payloads[0]), max(1, ran_ns - sum(read_ns)))
            if any(self._graph.beyond_ns(self._graph_size(payload)) for payload in payloads):
                return -1
        return min(extra_ns, ran_ns)

    def _pictures(self, payload: Sequence[InputData]) -> list[tuple[SizeCosts, int]]:
        """The pixels of each picture, with what such pictures cost."""
        return [(self._read[encoding], prod(shape)) for encoding, shape, _ in payload if encoding in self._read]

    def _graph_size(self, payload: Sequence[InputData]) -> int:
        """Bytes of the inputs whose extents the graph leaves open, as it gets them."""
        size = 0
        for index in self._open:
            encoding, shape, data = payload[index]
            size += prod(shape[:2]) * self._pixel_bytes[index] if encoding in PICTURES else len(data)
        return max(1, size)


def _points(measured: Sequence[Sequence[Any]], took_ns: int) -> list[tuple[int, int]]:
    """Reads sizes with their times. Raises an exception that says what is wrong, where anything is."""
    points = [(size, ns) for size, ns in measured[:POINTS_MAX]]
    if any(type(size) is not int or type(ns) is not int or not 0 < ns <= took_ns for size, ns in points):
        raise ValueError(f"sizes with times that can't be: {str(points)[:100]}")
    return points


def _step(size: int) -> int:
    return int(log2(max(1, size)) * STEPS_AN_OCTAVE)


def _time(run: tuple[int, int]) -> int:
    return run[1]
