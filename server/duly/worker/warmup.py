"""Runs a model on made-up frames, which go the whole way of a real batch.

Before the model serves, every batch size is run and measured. When its lane has been idle, a single frame is run.
"""

from collections.abc import Callable
from math import prod
from time import monotonic_ns, thread_time_ns

import numpy as np

from duly.models.spec import TEXT_ELEMENTS_MAX, TensorSpec
from duly.worker.channel import ENCODINGS, FRAME_FAILED, OK, SLOTS, Done, Region, Run, TensorRef
from duly.worker.dtypes import DTYPES, Array, is_floating, of_type
from duly.worker.errors import DeviceFull, LoadError, LoadFull, RunError
from duly.worker.model import Model
from duly.worker.opencv import cv2
from duly.worker.picture_size import MAGIC
from duly.worker.slot_layout import layout
from duly.worker.text import write_texts

UNTIMED_RUNS = 3
"""In these runs buffers are bound and touched, kernels are chosen, and CUDA graphs are captured."""
TIMED_RUNS_MIN = 3
TIMED_NS_MAX = 10_000_000_000
"""A size whose runs take longer than this together is measured by fewer runs, but TIMED_RUNS_MIN at least."""
OTHER_NUMBER = 0.5
EXTENT = 64
"""The extent of a made-up frame along a dimension that is open."""
MADE_UP_TEXT, MORE_TEXT = "0", " more of it"
"""An element of text is a number where model.toml states no other, for graphs that read numbers from text, and as many
words behind it as it is to have."""
GROWN_ELEMENTS_MAX = 32 << 20
"""No larger frame is made up only to see how long it takes."""
PICTURE = (480, 640)
"""Height and width of a picture of open size: VGA, what most cameras can give."""


class Samples:
    """Makes up frames from the inputs of a model."""

    def __init__(self, region: Region, inputs: tuple[TensorSpec, ...], batch_max: int, growth: int = 1) -> None:
        """`growth`: so many times the usual extents where they are open. Raises LoadError where an input leaves no room
        for such a frame.
        """
        self._region = region
        self._inputs = inputs
        self._strides = [spec.bytes_max for spec in inputs]
        self._bases, _ = layout(self._strides, batch_max)
        self._samples = [sample(spec, growth) for spec in inputs]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the inputs of a made-up frame."""
        return [shape for _, _, shape in self._samples]

    def put(self, slot: int, count: int) -> list[tuple[int, bool, list[TensorRef]]]:
        """Writes `count` frames into the slot. Returns them as the frames of a Run, each with a stream of its own."""
        area = self._region.inputs[slot]
        frames: list[tuple[int, bool, list[TensorRef]]] = []
        for index in range(count):
            refs: list[TensorRef] = []
            for (payload, encoding, shape), base, stride in zip(self._samples, self._bases, self._strides, strict=True):
                start = base + index * stride
                area[start : start + len(payload)] = payload
                refs.append((start, len(payload), ENCODINGS.index(encoding), shape))
            frames.append((index, False, refs))
        return frames

    def warm(self, model: Model, batch_id: int, slot: int) -> Done:
        """Runs one frame, as one of stream 0, which no client has. Raises RunError where the graph fails on it."""
        done = self.run(model, slot, 1)
        return Done(batch_id, slot, done.started_ns, done.finished_ns, [], {})

    def run(self, model: Model, slot: int, count: int) -> Done:
        """Runs so many frames, all as those of stream 0, which no client has. Raises RunError where the graph fails on
        them.
        """
        try:
            return model.run(Run(0, slot, [(0, reset, refs) for _, reset, refs in self.put(slot, count)]))
        finally:
            model.forget([0])

    def fails(self, model: Model, slot: int) -> bool:
        """Whether made-up frames are FAILED now, also one of other numbers: what is no number for one, such as the
        logarithm of zero, says nothing of others.
        """
        frames = self.put(slot, 1)
        if not self._is_failed(model, slot, frames):
            return False
        area = self._region.inputs[slot]
        for spec, (offset, length, encoding, shape) in zip(self._inputs, frames[0][2], strict=True):
            dtype = DTYPES[spec.datatype]
            if not encoding and is_floating(dtype):
                area[offset : offset + length] = of_type(np.full(shape, OTHER_NUMBER), dtype).tobytes()
        return self._is_failed(model, slot, frames)

    def _is_failed(self, model: Model, slot: int, frames: list[tuple[int, bool, list[TensorRef]]]) -> bool:
        try:
            return model.run(Run(0, slot, frames)).frames[0][0] == FRAME_FAILED
        except RunError:
            return True
        finally:
            model.forget([0])


def profile(
    model: Model,
    samples: Samples,
    sizes: tuple[int, ...],
    runs: int,
    own_time: bool = False,
    begins: Callable[[int, int, int], None] = lambda size, nth, sizes: None,
) -> dict[int, list[int]]:
    """Measures up to `runs` runs of every batch size. Returns their times in nanoseconds, by size.

    `own_time`: whether only the time counts in which this thread ran. A load in the background is interrupted by
    everything else, as a batch that serves is not. It is for models that run on one thread. `begins(size, nth, sizes)`
    is told of each size before it runs.

    Raises:
        LoadError: a batch cannot be run; the message says which size it has and why.
    """
    times: dict[int, list[int]] = {}
    for nth, size in enumerate(sizes, start=1):
        begins(size, nth, len(sizes))
        frames, *_ = [samples.put(slot, size) for slot in range(SLOTS)]
        for slot in range(UNTIMED_RUNS):
            _run(model, Run(0, slot % SLOTS, frames))
        taken = times[size] = []
        until_ns = monotonic_ns() + TIMED_NS_MAX
        while len(taken) < runs and (len(taken) < TIMED_RUNS_MIN or monotonic_ns() < until_ns):
            before_ns = thread_time_ns()
            took_ns = _run(model, Run(0, 0, frames))
            taken.append(max(1, min(took_ns, thread_time_ns() - before_ns)) if own_time else took_ns)
    model.forget(range(sizes[-1]))
    return times


def _run(model: Model, run: Run) -> int:
    try:
        done = model.run(run)
    except RunError as error:
        size = len(run.frames)
        if isinstance(error, DeviceFull):
            raise LoadFull(f"warm-up with a batch of {size}: {error}") from error
        advice = "" if size == 1 else "; if the graph takes no such batch, set batch_sizes"
        raise LoadError(f"warm-up with a batch of {size}: {error}{advice}") from error
    for index, (status, _) in enumerate(done.frames):
        if status != OK:
            raise LoadError(f"warm-up with a batch of {len(run.frames)}: {done.reasons[index]}")
    return done.finished_ns - done.started_ns


def sample(spec: TensorSpec, growth: int = 1) -> tuple[bytes, str, tuple[int, ...]]:
    """Makes up a frame for one input. Returns its payload, its encoding ("" for a tensor) and its shape. A frame that
    has not grown is made smaller until it fits.

    Raises:
        LoadError: `bytes_max` leaves room for no frame.
    """
    picture = next((encoding for encoding in spec.encodings if encoding in MAGIC), None)
    sound = "PCM_S16LE" in spec.encodings
    shrink = 1
    while shrink <= (EXTENT if growth == 1 else 1):
        extents = PICTURE if picture or spec.pixels_max else (EXTENT,) * len(spec.shape)
        opened = (max(1, extent * growth // shrink) for extent in (*extents, *spec.shape[len(extents) :]))
        shape = tuple(extent if fixed < 0 else fixed for extent, fixed in zip(opened, spec.shape, strict=True))
        if growth > 1 and prod(shape) > GROWN_ELEMENTS_MAX:
            break
        if picture:
            kind = ".png" if picture == "PNG" else ".jpg"
            payload = cv2.imencode(kind, _gradient(shape).astype(DTYPES[spec.datatype]))[1].tobytes()
            if len(payload) <= spec.bytes_max and prod(shape[:2]) <= spec.pixels_max:
                return payload, picture, shape
        elif spec.is_text:
            payload = write_texts([(spec.example or MADE_UP_TEXT) + MORE_TEXT * (growth - 1)] * prod(shape))
            if len(payload) <= spec.bytes_max and prod(shape) <= TEXT_ELEMENTS_MAX:
                return payload, "", shape
        elif prod(shape) * (2 if sound else DTYPES[spec.datatype].itemsize) <= spec.bytes_max:
            if sound:
                return np.zeros(shape, "<i2").tobytes(), spec.encodings[0], shape
            return _values(spec.datatype, shape).tobytes(), "", shape
        shrink *= 2
    raise LoadError(
        f"input '{spec.name}': bytes_max {spec.bytes_max} leaves room for no frame; raise it, or the server's limits"
    )


def _gradient(shape: tuple[int, ...]) -> Array:
    height, width, channels = shape
    down, across = (np.linspace(0, 127, extent).astype(np.uint8) for extent in (height, width))
    picture = np.add.outer(down, across)
    return np.repeat(picture[..., None], channels, axis=2)


def _values(datatype: str, shape: tuple[int, ...]) -> Array:
    """Numbers in 0..1, or zeros where they may stand for something, such as indices."""
    dtype = DTYPES[datatype]
    if is_floating(dtype):
        return of_type(np.linspace(0, 1, prod(shape)).reshape(shape), dtype)
    return np.zeros(shape, dtype)
