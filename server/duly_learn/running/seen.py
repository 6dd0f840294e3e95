"""What the graph of a version is given for frames, and what it gives, as its worker sees both: after preprocessing,
with states, controls and constants, in the graph's own layout.

The worker's own code reads the frames, here in this process, so that what a graph is calibrated and trained with is
what it will get.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from duly.models.repository import ModelVersion
from duly.models.sizes import SizeLimits
from duly.models.spec import ModelConfig
from duly.streams.errors import InvalidFrame
from duly.worker.batch_axes import Placed
from duly.worker.binding import Binding
from duly.worker.channel import OK, Region, Run, TensorRef
from duly.worker.dtypes import Array
from duly.worker.errors import LoadError, RunError
from duly.worker.first_states import with_first_states
from duly.worker.memory import memory_bytes_max
from duly.worker.model import Model
from duly.worker.open_graph import OpenGraph, plan_graph
from duly.worker.open_session import MachineShare
from duly.worker.ort_session import OrtSession
from duly.worker.plan import Plan
from duly.worker.sizing import Room, with_room
from duly.worker.slot_layout import layout
from duly.worker.version_files import GraphFile, VersionFiles
from duly_learn.frames.frame import LearnFrame
from duly_learn.running.model import FrameRefused, NotRunning
from duly_learn.running.payload import Payloads

Tensors = Mapping[str, Array]
"""Tensors of the graph by name, with their batch dimension of 1 where they have one."""


class Sight(NamedTuple):
    """One run of the graph."""

    inputs: Tensors
    outputs: Tensors
    """Those that clients get, or that postprocessing or a state is made of."""


class GraphView:
    """Looks at a graph while it runs frames, one at a time. It holds the graph in this process's memory."""

    def __init__(self, version: ModelVersion, variant: str | None = None, threads: int = 1) -> None:
        """Opens one variant, the most accurate one where none is named, on the CPU. Raises NotRunning."""
        chosen = next(each for each in version.config.variants if variant in (None, each.name))
        name = f"{version.key}/{chosen.file}"
        config = version.config.model_copy(update={"variants": (chosen,), "providers": (), "batch_sizes": None})
        toml = f"{version.name}/model.toml"
        room = Room(SizeLimits(), memory_bytes_max())
        try:
            files = VersionFiles(version.key, version.folder, lambda digests: None)
            graph = files.graph(chosen.file)
            self._session = _WatchedSession(graph, name, config, "cpu:0", version.model_folder, threads)
            opened = plan_graph(self._session, config, toml)
            sizes = room.settle([opened.needs], toml)
            plan = with_room(opened.plan, sizes)
            self.plan = with_first_states(plan, config, files, version.model_folder, version.name)
            self._open(opened, self.plan)
        except LoadError as error:
            raise NotRunning(version.told(str(error))) from error
        self._version = version

    def _open(self, opened: OpenGraph, plan: Plan) -> None:
        self.signature = plan.signature()
        batch_max = plan.batch_sizes[-1]
        self._bases, input_bytes = layout([spec.bytes_max for spec in self.signature.inputs], batch_max)
        _, output_bytes = layout([spec.bytes_max for spec in self.signature.outputs], batch_max)
        self._region = Region.create(input_bytes, output_bytes)
        self._model = Model(plan, opened.rows, self._region)
        self._payloads = Payloads(self.signature)

    def of(self, frames: Sequence[LearnFrame]) -> Iterator[Sight]:
        """Gives what the graph was given and gave for each frame. Of a model with state the frames of a stream come in
        their order, from its beginning. Raises FrameRefused at a frame that cannot be run.
        """
        streams: dict[str, int] = {}
        for index, frame in enumerate(frames):
            is_first = frame.stream not in streams
            stream = streams.setdefault(frame.stream, len(streams))
            yield self._run(index, frame, stream, is_first)
        self._model.forget(list(streams.values()))

    def _run(self, index: int, frame: LearnFrame, stream: int, is_first: bool) -> Sight:
        place = f"{self._version.key}: frame {index} of {frame.stream}"
        refs: list[TensorRef] = []
        try:
            for (encoding, shape, data), base in zip(self._payloads.of(frame), self._bases, strict=True):
                if not isinstance(data, bytes):
                    raise FrameRefused(f"{place}: its data lies elsewhere")
                self._region.reserve(0, base, len(data))
                self._region.inputs[0][base : base + len(data)] = data
                refs.append((base, len(data), encoding, shape))
            self._session.seen.clear()
            done = self._model.run(Run(index, 0, [(stream, is_first, refs)]))
        except (InvalidFrame, RunError) as error:
            raise FrameRefused(f"{place}: {error}") from error
        if done.frames[0][0] != OK:
            raise FrameRefused(f"{place}: {done.reasons[0]}")
        return self._session.seen[-1]


class _WatchedSession(OrtSession):
    """A session that keeps copies of what went through it."""

    def __init__(
        self, file: GraphFile, name: str, config: ModelConfig, lane: str, model_folder: Path, threads: int
    ) -> None:
        super().__init__(file, name, config, lane, model_folder, MachineShare(threads))
        self.seen: list[Sight] = []

    def bind(
        self,
        size: int,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array | None],
        placed: Placed | None = None,
    ) -> Binding:
        return _WatchedBinding(super().bind(size, inputs, outputs, placed), inputs, outputs, self.seen)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        given = {name: array.copy() for name, array in inputs.items()}
        results = super().run(inputs, outputs)
        self.seen.append(Sight(given, {name: array.copy() for name, array in results.items()}))
        return results


class _WatchedBinding(Binding):
    """A binding that keeps copies of what went through it."""

    def __init__(
        self, bound: Binding, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None], seen: list[Sight]
    ) -> None:
        self._bound = bound
        self._inputs = inputs
        self._outputs = outputs
        self._seen = seen

    def run(self) -> dict[str, Array]:
        given = {name: array.copy() for name, array in self._inputs.items()}
        free = self._bound.run()
        there = {name: array for name, array in self._outputs.items() if array is not None} | free
        self._seen.append(Sight(given, {name: array.copy() for name, array in there.items()}))
        return free
