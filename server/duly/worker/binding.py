"""Batches that are bound to buffers, on the host or on a lane's device, and run again and again.

What a session needs to know about the device is in `Device`. It also works with the CPU as its device, and in that form
the copies, addresses and graph ids of the CUDA way are tested. It has not run on a GPU yet.
"""

import ctypes
from collections.abc import Callable, Mapping, Set
from typing import Any

import numpy as np

from duly.worker.batch_axes import Placed
from duly.worker.channel import SLOTS
from duly.worker.device_errors import run_error
from duly.worker.dtypes import BFLOAT16, Array
from duly.worker.graph import GraphTensor
from duly.worker.ort_errors import run_reason
from duly.worker.ort_import import LOG_FATAL, onnxruntime
from duly.worker.stream_priority import PriorityStream

NO_GRAPH = -1  # kCudaGraphAnnotationSkip
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


class Binding:
    """A batch size that is bound to buffers: inputs are read where they lie, outputs written where they belong."""

    def __init__(
        self,
        session: Any,
        size: int,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array | None],
        device: "Device | None",
        halves: Set[str] = frozenset(),
        on_host: Set[str] = frozenset(),
        binds_anew: bool = False,
        placed: Placed | None = None,
    ) -> None:
        """`halves`: the tensors of BF16. `on_host`: the inputs that are bound where they lie in the host's memory on
        every device. `binds_anew`: whether these are bound for each run: ONNX Runtime brings an input to the memory
        that the graph takes it from when it is bound, and never when it is run. `placed`: the inputs that somebody else
        copies to the device.
        """
        self._session = session
        self.stream: PriorityStream | None = None
        """What it runs on, where that is none of ONNX Runtime's own."""
        self._binding = session.io_binding()
        # It gives memory of the device back through the session, and would end the process where that is gone already:
        # whatever order objects are freed in, the session itself is held by what it has to outlive.
        self._binding.session = session._sess
        self._of_any_shape = [
            (name, position, reader(name in halves))
            for position, (name, array) in enumerate(outputs.items())
            if array is None
        ]
        self._bound_anew: list[tuple[str, Any]] = []
        self._uploads: list[tuple[Any, Array]] = []
        self._downloads: list[tuple[Any, Array]] = []
        # One captured graph for each batch size, and for each slot where inputs of both lie on the device: replay
        # ignores the binding and uses the captured addresses.
        graph_id = size * SLOTS + (0 if placed is None else placed.slot)
        self.graph_id = graph_id if device is not None and device.graphs else NO_GRAPH
        self._options = run_options(self.graph_id)
        for name, array in inputs.items():
            if device is None or name in on_host:
                value = value_of(array)
                if binds_anew:
                    self._bound_anew.append((name, value))
                self._binding.bind_ortvalue_input(name, value)
                continue
            address = None if placed is None else placed.addresses.get(name)
            if address is not None:
                kind, index = device.kind, device.index
                self._binding.bind_input(name, kind, index, array.dtype.type, list(array.shape), address)
                continue
            value = device.value(size, name, array)
            self._uploads.append((value, array))
            self._binding.bind_ortvalue_input(name, value)
        for name, target in outputs.items():
            if target is None:
                self._binding.bind_output(name)
                continue
            if device is None or not device.graphs:
                value = value_of(target)
            else:
                value = device.value(size, name, target)
                self._downloads.append((value, target))
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> dict[str, Array]:
        """Runs what lies in the inputs. Returns the outputs of any shape; the others are in their arrays.

        Raises:
            RunError: ONNX Runtime failed.
        """
        try:
            for value, source in self._uploads:
                value.update_inplace(source)
            for name, value in self._bound_anew:
                self._binding.bind_ortvalue_input(name, value)
            for name, _, _ in self._of_any_shape:
                # Otherwise the tensor of the last run would be the buffer of this one, and a new shape an error.
                self._binding.bind_output(name)
            self._session.run_with_iobinding(self._binding, self._options)
            if self.stream is not None:
                self.stream.wait()
            for value, target in self._downloads:
                np.copyto(target, value.numpy())
            if not self._of_any_shape:
                return {}
            values = self._binding.get_outputs()
            return {name: read(values[position]) for name, position, read in self._of_any_shape}
        except Exception as error:
            raise run_error(str(error), run_reason(str(error))) from error


class Device:
    """The device of a lane, with tensors at fixed addresses, one for each batch size and graph tensor, which both slots
    of the region use for what is copied within the run.

    With `graphs`, outputs stay on the device too and are copied from it: a CUDA graph holds its addresses for good.
    """

    def __init__(self, kind: str, index: int, graphs: bool) -> None:
        self.graphs = graphs
        self.index = index
        self.kind = kind
        self._values: dict[tuple[int, str], Any] = {}
        self._rooms: list[Any] = []

    def value(self, size: int, name: str, like: Array) -> Any:
        if (size, name) not in self._values:
            self._values[size, name] = self._allocate(like)
        return self._values[size, name]

    def room(self, like: Array) -> int:
        """Returns the address of room for as much as the array has, which stays."""
        self._rooms.append(self._allocate(like))
        address: int = self._rooms[-1].data_ptr()
        return address

    def _allocate(self, like: Array) -> Any:
        shape = list(like.shape)
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, like.dtype.type, self.kind, self.index)


def value_of(array: Array) -> Any:
    """The array as ONNX Runtime has it, in the same memory."""
    if array.dtype == BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def reader(half: bool) -> Callable[[Any], Array]:
    """What makes an array of an output. `half`: it is BF16, of which ONNX Runtime makes none."""
    return _half_array if half else _array


def _array(value: Any) -> Array:
    array: Array = value.numpy()
    return array


def _half_array(value: Any) -> Array:
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, BFLOAT16).reshape(value.shape())


def halves_of(tensors: Mapping[str, GraphTensor]) -> frozenset[str]:
    return frozenset(name for name, tensor in tensors.items() if tensor.datatype == "BF16")


def run_options(graph_id: int) -> Any:
    """Makes the options of a run. Its errors go to the server, so frames that a graph refuses need not fill the log.

    The graph id is always set: ONNX Runtime 1.31 asks for it in every run that has options, and where it is not set,
    the exception inside costs 80 us.
    """
    options = onnxruntime.RunOptions()
    options.log_severity_level = LOG_FATAL
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options
