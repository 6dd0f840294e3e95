"""Measures at warm-up what larger frames take, where a model takes frames of several sizes.

What comes out is where `runtime/frame_costs` starts from. Sizes grow up to the largest that a frame may have, or until
the next run is likely to take longer than RUN_NS_MAX, so that neither the warm-up nor the memory that it leaves behind
grow with what a client could send at most.
"""

from math import prod

from duly.models.spec import TensorSpec
from duly.worker.channel import ENCODINGS, OK, Region, Run, TensorRef
from duly.worker.dtypes import DTYPES
from duly.worker.errors import LoadError, RunError
from duly.worker.model import Model
from duly.worker.picture_size import MAGIC, picture_size
from duly.worker.plan import Plan
from duly.worker.warmup import Samples

Points = list[tuple[int, int]]
"""Sizes and nanoseconds, the usual size first."""

RUN_NS_MAX = 25_000_000
"""No size is tried that is likely to take longer. It is the least that batches may block more critical streams for."""
GROWTH = 2
"""From one size to the next, all open extents grow by this."""
STEPS_MAX = 24
"""So many sizes are tried at the most."""
TIMED_RUNS = 3
"""The median of so many runs counts, as what disturbs one of them would make the sizes beyond look out of reach. An
earlier run of that size, which finds new memory, does not. Where two in a row take longer than RUN_NS_MAX they are
enough, as the start of the server waits for them, and the shorter one counts."""


def measure_sizes(model: Model, plan: Plan, region: Region, batch_max: int) -> dict[str, object]:
    """Returns what READY says of sizes: under `read`, for each encoding of pictures, the pixels that a decoder went
    through and the time that reading them took; under `graph`, where the graph leaves extents of the inputs `open`,
    their bytes and the time that the run took apart from reading.
    """
    inputs = tuple(planned.reader.spec for planned in plan.inputs)
    opened = [index for index, planned in enumerate(plan.inputs) if not planned.reader.sized]
    pictures = [name for name in MAGIC if any(name in spec.encodings for spec in inputs)]
    read: dict[str, Points] = {}
    graph: Points = []
    for name in pictures or ([""] if opened else []):
        points, of_graph = _grown(model, [_only(spec, name) for spec in inputs], opened, region, batch_max)
        if name:
            read[name] = points
        graph = graph or of_graph
    return {"read": read, "graph": graph if opened else [], "open": opened}


def _only(spec: TensorSpec, encoding: str) -> TensorSpec:
    """The input with no other encoding than that, if it takes it."""
    return spec.model_copy(update={"encodings": (encoding,)}) if encoding in spec.encodings else spec


def _grown(
    model: Model, inputs: list[TensorSpec], opened: list[int], region: Region, batch_max: int
) -> tuple[Points, Points]:
    read: Points = []
    graph: Points = []
    before_ns = 0
    for step in range(STEPS_MAX):
        try:
            frames = Samples(region, tuple(inputs), batch_max, GROWTH**step).put(0, 1)
            refs = frames[0][2]
            works = [work for ref in refs if (work := _work(region, ref))]
            if step and sum(works) == (read[-1][0] * len(works) if read else 0) and not opened:
                break  # its pictures have one size
            ran_ns, reading_ns = _time(model, Run(0, 0, frames))
        except (LoadError, RunError, MemoryError):
            break  # a frame of that size does not fit, or the graph does not take it
        if works:
            read.append((sum(works) // len(works), max(1, reading_ns // len(works))))
        graph.append((_size(inputs, opened, refs, region), max(1, ran_ns - reading_ns)))
        if ran_ns * max(GROWTH, ran_ns / before_ns if before_ns else GROWTH) > RUN_NS_MAX:
            break
        before_ns = ran_ns
    model.forget([0])
    return read, graph


def _time(model: Model, run: Run) -> tuple[int, int]:
    """Runs one frame several times, and returns what `_timed` does of the one that counts. Raises RunError where it
    fails.
    """
    times = [_timed(model, run)]
    while len(times) < 1 + TIMED_RUNS:
        times.append(_timed(model, run))
        if min(times[-2:])[0] > RUN_NS_MAX:
            return min(times[-2:])
    return sorted(times[1:])[TIMED_RUNS // 2]


def _timed(model: Model, run: Run) -> tuple[int, int]:
    """Runs one frame. Returns how long all of it took, and reading alone. Raises RunError where the frame fails."""
    done = model.run(run)
    if done.frames[0][0] != OK:
        raise RunError(done.reasons[0])
    return done.finished_ns - done.started_ns, sum(done.read_ns)


def _work(region: Region, ref: TensorRef) -> int:
    offset, length, encoding, _ = ref
    name = ENCODINGS[encoding]
    size = picture_size(region.inputs[0][offset : offset + length], name) if name in MAGIC else None
    return size.work if size is not None else 0


def _size(inputs: list[TensorSpec], opened: list[int], refs: list[TensorRef], region: Region) -> int:
    """Bytes of the inputs whose extents the graph leaves open, as `runtime/frame_costs` counts them."""
    size = 0
    for index in opened:
        spec, (_, length, encoding, shape) = inputs[index], refs[index]
        picture = ENCODINGS[encoding] in MAGIC
        size += prod(shape) * DTYPES[spec.datatype].itemsize if picture else length
    return max(1, size)
