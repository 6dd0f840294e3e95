"""ONNX Runtime sessions: each is opened, bound once to warm buffers, and run again and again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from duly.accelerators import of_provider
from duly.models.spec import ModelConfig
from duly.worker.batch_axes import Placed
from duly.worker.binding import NO_GRAPH, Binding, Device, halves_of, reader, run_options, value_of
from duly.worker.calibration import Table
from duly.worker.device_errors import run_error
from duly.worker.dtypes import DTYPES, Array
from duly.worker.engines import Engines
from duly.worker.graph import Graph, GraphTensor
from duly.worker.open_session import MachineShare, open_session
from duly.worker.ort_errors import run_reason
from duly.worker.version_files import GraphFile

_DATATYPES = {f"tensor({dtype.name})": name for name, dtype in DTYPES.items()}
_DATATYPES |= {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "STRING",
}
"""The protocol's names of element types by those of ONNX Runtime, which calls two of them as C does."""


class OrtSession:
    """One variant of a model on one lane. All calls come from one thread, because a CUDA session that is run from
    changing threads grows by gigabytes (microsoft/onnxruntime#29351).
    """

    def __init__(
        self,
        file: GraphFile,
        name: str,
        config: ModelConfig,
        lane: str,
        model_folder: Path,
        share: MachineShare,
        engines: Engines | None = None,
        table: Table | None = None,
    ) -> None:
        """Opens `file`. `open_session` explains the arguments, and what is raised."""
        opened = open_session(file, name, config, lane, model_folder, share, engines, table)
        self._session = opened.session
        self._stream = opened.stream
        self.providers, self.operators = opened.providers, opened.operators
        self.graph = Graph(_tensors(self._session.get_inputs()), _tensors(self._session.get_outputs()))
        self.host_inputs = opened.host_inputs
        """The inputs that the graph takes from the host's memory, whatever its device."""
        self._halves = halves_of(self.graph.inputs) | halves_of(self.graph.outputs)
        self._on_host = self._halves | self.host_inputs
        self._run_options = run_options(NO_GRAPH)
        self._device: Device | None = None
        first, rows = opened.asked[0], [of_provider(provider.name) for provider in opened.asked]
        if (row := rows[0]) is not None and row.memory:
            self._device = Device(row.memory, int(first.options.get(row.device_option, 0)), config.cuda_graph)
        self.by_shape = next((each.provider for each in rows if each is not None and each.by_shape), "")
        """The provider that compiles for shapes, so that only sizes that were warmed may run; empty: none does."""
        self._binds_anew = not all(each is not None and each.reads_host for each in rows)

    @property
    def device(self) -> int | None:
        """The number of the GPU that batches run on; None: they run on the CPU.

        On a GPU each batch size has buffers and kernel choices of its own, so only sizes that were warmed may run.
        """
        return None if self._device is None else self._device.index

    def bind(
        self,
        size: int,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array | None],
        placed: Placed | None = None,
    ) -> Binding:
        """Binds a batch of `size` frames to host arrays that stay where they are. An output of None has any shape.
        `placed`: the inputs that will be on the device when the batch runs.
        """
        device, halves, on_host = self._device, self._halves, self._on_host
        bound = Binding(self._session, size, inputs, outputs, device, halves, on_host, self._binds_anew, placed)
        bound.stream = self._stream
        return bound

    def make_room(self, like: Array) -> int:
        """Returns the address of room on the device for as much as the array has, for as long as the session lives."""
        assert self._device is not None
        return self._device.room(like)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Runs a batch whose shapes may be new.

        Raises:
            RunError: ONNX Runtime refused it or failed.
        """
        try:
            if self._halves:
                return self._runhalves_of(inputs, outputs)
            values = self._session.run(list(outputs), dict(inputs), self._run_options)
            if self._stream is not None:
                self._stream.wait()
            return dict(zip(outputs, values, strict=True))
        except Exception as error:
            raise run_error(str(error), run_reason(str(error))) from error

    def _runhalves_of(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Runs a graph some of whose tensors are BF16, which ONNX Runtime neither takes nor gives as arrays."""
        feeds = {name: value_of(array) if name in self._halves else array for name, array in inputs.items()}
        if self._halves.isdisjoint(outputs):
            values = self._session.run(list(outputs), feeds, self._run_options)
            return dict(zip(outputs, values, strict=True))
        feeds = {name: value_of(array) for name, array in inputs.items()}
        results = self._session.run_with_ort_values(list(outputs), feeds, self._run_options)
        return {name: reader(name in self._halves)(value) for name, value in zip(outputs, results, strict=True)}


def _tensors(arguments: Sequence[Any]) -> dict[str, GraphTensor]:
    return {
        argument.name: GraphTensor(argument.name, _DATATYPES.get(argument.type, argument.type), tuple(argument.shape))
        for argument in arguments
    }
