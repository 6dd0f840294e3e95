"""A worker that only reads: it turns what clients send into the rows that a graph takes, so that a lane need not.

It has no graph. It is a process of its own beside the lanes, as the least urgent of the machine, and reads one frame
at a time, whose rows it puts where other workers put outputs. The worker that runs the graph takes them as they are
(`Reader`). What a picture makes a decoder do is confined here as it is there.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from time import monotonic_ns
from typing import Any

import numpy as np

from duly.models.guards import Distribution
from duly.models.spec import ModelConfig, Signature, TensorSpec
from duly.worker.channel import ENCODINGS, INVALID, OK, ROW_HEAD, Done, Region, Run, TensorRef
from duly.worker.dtypes import DTYPES, Array
from duly.worker.errors import InvalidFrame, LoadError
from duly.worker.guards import InputWatch, input_watch
from duly.worker.inputs import InputPlan
from duly.worker.load_model import Loaded
from duly.worker.look import NOTHING_SEEN, Look, Looker
from duly.worker.ops.order import PREPROCESS
from duly.worker.reader import Reader
from duly.worker.run_memory import limit_data, run_bytes
from duly.worker.slot_layout import layout
from duly.worker.version_files import Report
from duly.worker.warmup import Samples

RUNS = 3
"""So often a made-up frame is read before the first one comes."""


class RowReader:
    """Reads the frames of one model, each input into a row."""

    def __init__(
        self, readers: Sequence[Reader], region: Region, watches: Sequence[InputWatch | None] | None = None
    ) -> None:
        """`watches`: what looks at each input for its guards; None: nothing does."""
        self._readers = readers
        self._lookers = [watch.looker if watch is not None else None for watch in watches or [None] * len(readers)]
        self._region = region
        self._row_bases, _ = layout([row_spec(reader).bytes_max for reader in readers], 1)

    def run(self, run: Run) -> Done:
        """Reads the one frame of a batch."""
        started_ns = monotonic_ns()
        ((_, _, refs),) = run.frames
        area, rows = self._region.inputs[run.slot], self._region.outputs[run.slot]
        places: list[TensorRef] = []
        try:
            for reader, looker, base, (offset, length, encoding, shape) in zip(
                self._readers, self._lookers, self._row_bases, refs, strict=True
            ):
                start = base + ROW_HEAD.size
                row = np.frombuffer(rows, reader.dtype, prod(reader.row_shape), start).reshape(reader.row_shape)
                payload = area[offset : offset + length]
                looks: list[Look] = []
                look = None if looker is None else partial(_look, looker, payload, looks)
                _, placement = reader.read(payload, ENCODINGS[encoding], shape, row, None, look)
                ROW_HEAD.pack_into(rows, base, *placement, *(looks[0] if looks else NOTHING_SEEN))
                places.append((base, ROW_HEAD.size + row.nbytes, 0, (ROW_HEAD.size + row.nbytes,)))
        except InvalidFrame as error:
            return Done(run.batch_id, run.slot, started_ns, monotonic_ns(), [(INVALID, [])], {0: str(error)})
        return Done(run.batch_id, run.slot, started_ns, monotonic_ns(), [(OK, places)], {})


def _look(looker: Looker, payload: memoryview, looks: list[Look], value: Array) -> None:
    looks.append(looker.look(value, payload))


def row_spec(reader: Reader) -> TensorSpec:
    """What is given for one input: where the picture lies in the row, and the row, as bytes."""
    size = ROW_HEAD.size + prod(reader.row_shape) * reader.dtype.itemsize
    return TensorSpec.model_validate(
        {"name": reader.spec.name, "datatype": "UINT8", "shape": (size,), "bytes_max": size}
    )


def load_reader(body: dict[str, Any], report: Report) -> Loaded:
    """Makes what LOAD asks for with `reads`: for each input that is to be read, its place in the model's inputs, what
    clients send, and element type and shape of a row.

    Raises:
        LoadError: they do not fit model.toml, so that the version is another one, or there is no memory for it.
    """
    config = ModelConfig.model_validate(body["config"])
    plans = []
    for index, sent, datatype, shape in body["reads"]:
        place, spec = f"input[{index}]", TensorSpec.model_validate(sent)
        operations = [PREPROCESS[type(step)](step) for step in config.inputs[index].preprocess]
        reader = Reader(spec, DTYPES[datatype], operations, place)
        if reader.row_shape != tuple(shape):
            raise LoadError(f"{body['model']}: {place} becomes {list(reader.row_shape)} a frame, not {list(shape)}")
        plans.append(InputPlan(spec.name, reader, place))
    readers = [plan.reader for plan in plans]
    signature = Signature(
        inputs=tuple(reader.spec for reader in readers),
        outputs=tuple(map(row_spec, readers)),
        batch_sizes=(1,),
        any_size=False,
        stateful=False,
    )
    _, input_bytes = layout([spec.bytes_max for spec in signature.inputs], 1)
    _, output_bytes = layout([spec.bytes_max for spec in signature.outputs], 1)
    try:
        region = Region.create(input_bytes, output_bytes)
    except OSError as error:
        raise LoadError(f"{body['model']}: the system refuses memory for reading: {error.strerror}") from error
    samples = Samples(region, signature.inputs, 1)
    guards = [(index, guard) for index, guard in enumerate(config.guards) if not isinstance(guard, Distribution)]
    watches = [
        input_watch(reader.spec, [each for each in guards if each[1].input in ("", reader.spec.name)])
        for reader in readers
    ]
    row_reader = RowReader(readers, region, watches)
    times_ns = []
    for _ in range(RUNS):
        done = row_reader.run(Run(0, 0, samples.put(0, 1)))
        times_ns.append(max(1, done.finished_ns - done.started_ns))
    memory = limit_data(config.memory_bytes_max or run_bytes(plans, 1))
    ready = {
        "signature": signature.model_dump(mode="json"),
        "variants": [{"any_size": False, "providers": [], "warm_after_ns": 0, "samples_ns": {"1": times_ns}}],
        "input_bytes": input_bytes,
        "output_bytes": output_bytes,
        "memory_bytes_max": memory,
        "notes": [],
    }
    return Loaded([], region, samples, ready, reader=row_reader)
