"""ONNX Runtime sessions are opened on the providers asked for, bound once to warm buffers, and run again and again.

This is the only importer of onnxruntime. What a session needs to know about a lane's device is in `Device`. It also
works with the CPU as its device, and in that form the copies, addresses and graph ids of the CUDA way are tested. It
has not run on a GPU yet.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from duly.accelerators import CPU, CUDA, TENSORRT, device_of, of_provider
from duly.models.spec import ModelConfig, Provider
from duly.worker.batch_axes import Placed
from duly.worker.calibration import Table
from duly.worker.channel import SLOTS
from duly.worker.device_errors import is_full, run_error
from duly.worker.dtypes import BFLOAT16, DTYPES, Array
from duly.worker.engines import Engines, NoLink
from duly.worker.errors import LoadError, LoadFull
from duly.worker.graph import Graph, GraphTensor
from duly.worker.libraries import shown
from duly.worker.ort_errors import full_reason, load_reason, run_reason
from duly.worker.ort_installed import check_installed
from duly.worker.plugins import chosen, plugin_of
from duly.worker.providers import ASK_THE_DOCTOR, Node, ProviderError, check_available, check_used, wanted
from duly.worker.stream_priority import PriorityStream, priority_stream
from duly.worker.version_files import GraphFile

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # on by default on Linux since 1.29, and only read at import
check_installed()

import onnxruntime  # noqa: E402

_LOG_ERRORS = 3  # ORT_LOGGING_LEVEL_ERROR
_LOG_FATAL = 4  # ORT_LOGGING_LEVEL_FATAL
onnxruntime.set_default_logger_severity(_LOG_ERRORS)  # else it may warn of devices that a confined worker cannot see
_NO_DEVICE = "Failed to get a WebGPU adapter"  # there is no driver for Vulkan, or none that WebGPU takes
_NO_GRAPH = -1  # kCudaGraphAnnotationSkip
_SAME_AS_REQUESTED = 1  # ArenaExtendStrategy::kSameAsRequested
_DATATYPES = {f"tensor({dtype.name})": name for name, dtype in DTYPES.items()}
_DATATYPES |= {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "STRING",
}
"""The protocol's names of element types by those of ONNX Runtime, which calls two of them as C does."""
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


def onnxruntime_version() -> str:
    return str(onnxruntime.__version__)


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
        threads: int,
        device_memory_bytes_max: int = 0,
        stream_class: str = "",
        engines: Engines | None = None,
        table: Table | None = None,
    ) -> None:
        """Loads `file`, which errors call `name`. `threads`: intra-op threads; 0: ONNX Runtime chooses.
        `device_memory_bytes_max`: what it may take of a GPU's memory; 0: what there is. `stream_class`: by which it has
        a priority on a GPU of CUDA that it shares; empty: none. `engines`: what providers compile at load; None: nobody
        keeps it. `table`: ranges for 8 bits.

        Raises:
            LoadError: the file cannot be loaded, or a provider that is asked for does not run it. It is LoadFull where
                there is not enough memory.
        """
        asked = wanted(config, lane, config.threads or threads, device_memory_bytes_max)
        self._stream: PriorityStream | None = None
        toml = f"{name.partition('/')[0]}/model.toml" + (f" for {file.path.name}" if len(config.variants) > 1 else "")
        if config.cuda_graph and asked[0].name != CUDA:
            raise LoadError(f"{toml}: cuda_graph needs {CUDA} as the first provider, not {asked[0].name} on {lane}")
        try:
            plugins = _plugins(asked)
            built_in = onnxruntime.get_available_providers()
            check_available(asked, [*built_in, *plugins], check_installed())
            if stream_class and asked[0].name in (CUDA, TENSORRT):
                onnxruntime.preload_dlls()
                self._stream = priority_stream(int(device_of(lane)), stream_class)

            def opened(asked: Sequence[Provider]) -> Any:
                options = _options(config, threads)
                _hand_over(file, options)
                # Engines do not depend on the stream, so it comes in behind what they are known by.
                given = asked if self._stream is None else self._stream.given_to(asked)
                return _open(file.data, options, given, model_folder, plugins, device_of(lane))

            engines = engines or Engines(NoLink(), lane, onnxruntime.__version__, threads)
            self._session = engines.open(asked, file, table, config, opened)
            assigned = _assigned(self._session)
            self.providers = check_used(asked, self._session.get_providers(), assigned, _memories(self._session))
            self.operators = frozenset(node.op_type for nodes in assigned.values() for node in nodes)
        except ProviderError as error:
            raise LoadError(f"{toml if config.providers else name}: {_asker(config, lane)}: {error}") from error
        except LoadError:
            raise
        except Exception as error:
            if is_full(str(error)):
                of_device = asked[0].name != CPU
                raise LoadFull(f"{name}: {full_reason(str(error), of_device)}") from error
            provider = "" if asked[0].name == CPU else f"{_asker(config, lane)}: {asked[0].name}: "
            hint = ASK_THE_DOCTOR if _NO_DEVICE in str(error) else ""
            raise LoadError(f"{name}: {load_reason(str(error), file.path, provider)}{hint}") from error
        self.graph = Graph(_tensors(self._session.get_inputs()), _tensors(self._session.get_outputs()))
        self._halves = _halves(self.graph.inputs) | _halves(self.graph.outputs)
        self._run_options = _run_options(_NO_GRAPH)
        self._device: Device | None = None
        row = of_provider(asked[0].name)
        if row is not None and row.memory:
            self._device = Device(row.memory, int(asked[0].options.get(row.device_option, 0)), config.cuda_graph)
        rows = [of_provider(provider.name) for provider in asked]
        self.by_shape = next((each.provider for each in rows if each is not None and each.by_shape), "")
        """The provider that compiles for shapes, so that only sizes that were warmed may run; empty: none does."""
        self._binds_anew = self._device is None and not all(each is not None and each.reads_host for each in rows)

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
    ) -> "Binding":
        """Binds a batch of `size` frames to host arrays that stay where they are. An output of None has any shape.
        `placed`: the inputs that will be on the device when the batch runs.
        """
        bound = Binding(self._session, size, inputs, outputs, self._device, self._halves, self._binds_anew, placed)
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
                return self._run_halves(inputs, outputs)
            values = self._session.run(list(outputs), dict(inputs), self._run_options)
            if self._stream is not None:
                self._stream.wait()
            return dict(zip(outputs, values, strict=True))
        except Exception as error:
            raise run_error(str(error), run_reason(str(error))) from error

    def _run_halves(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Runs a graph some of whose tensors are BF16, which ONNX Runtime neither takes nor gives as arrays."""
        feeds = {name: _value(array) if name in self._halves else array for name, array in inputs.items()}
        if self._halves.isdisjoint(outputs):
            values = self._session.run(list(outputs), feeds, self._run_options)
            return dict(zip(outputs, values, strict=True))
        feeds = {name: _value(array) for name, array in inputs.items()}
        results = self._session.run_with_ort_values(list(outputs), feeds, self._run_options)
        return {name: _reader(name in self._halves)(value) for name, value in zip(outputs, results, strict=True)}


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
        binds_anew: bool = False,
        placed: Placed | None = None,
    ) -> None:
        """`halves`: the tensors of BF16, which lie in the host's memory on every device. `binds_anew`: whether inputs
        are bound for each run, as binding is what copies them to the device. `placed`: the inputs that somebody else
        copies there.
        """
        self._session = session
        self.stream: PriorityStream | None = None
        """What it runs on, where that is none of ONNX Runtime's own."""
        self._binding = session.io_binding()
        # It gives memory of the device back through the session, and would end the process where that is gone already:
        # whatever order objects are freed in, the session itself is held by what it has to outlive.
        self._binding.session = session._sess
        self._of_any_shape = [
            (name, position, _reader(name in halves))
            for position, (name, array) in enumerate(outputs.items())
            if array is None
        ]
        self._bound_anew: list[tuple[str, Any]] = []
        self._uploads: list[tuple[Any, Array]] = []
        self._downloads: list[tuple[Any, Array]] = []
        # One captured graph for each batch size, and for each slot where inputs of both lie on the device: replay
        # ignores the binding and uses the captured addresses.
        graph_id = size * SLOTS + (0 if placed is None else placed.slot)
        self.graph_id = graph_id if device is not None and device.graphs else _NO_GRAPH
        self._options = _run_options(self.graph_id)
        for name, array in inputs.items():
            address = None if placed is None else placed.addresses.get(name)
            if device is not None and address is not None:
                kind, index = device.kind, device.index
                self._binding.bind_input(name, kind, index, array.dtype.type, list(array.shape), address)
                continue
            if device is None or name in halves:
                value = _value(array)
            else:
                value = device.value(size, name, array)
                self._uploads.append((value, array))
            if binds_anew:
                self._bound_anew.append((name, value))
            self._binding.bind_ortvalue_input(name, value)
        for name, target in outputs.items():
            if target is None:
                self._binding.bind_output(name)
                continue
            if device is None or not device.graphs:
                value = _value(target)
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


def _value(array: Array) -> Any:
    """The array as ONNX Runtime has it, in the same memory."""
    if array.dtype == BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _reader(half: bool) -> Callable[[Any], Array]:
    """What makes an array of an output. `half`: it is BF16, of which ONNX Runtime makes none."""
    return _half_array if half else _array


def _array(value: Any) -> Array:
    array: Array = value.numpy()
    return array


def _half_array(value: Any) -> Array:
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, BFLOAT16).reshape(value.shape())


def _halves(tensors: Mapping[str, GraphTensor]) -> frozenset[str]:
    return frozenset(name for name, tensor in tensors.items() if tensor.datatype == "BF16")


def _asker(config: ModelConfig, lane: str) -> str:
    """What asks for the providers: the setting of the model, or the lane where the model states none."""
    return "providers" if config.providers else f"lane {lane}"


def _options(config: ModelConfig, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = config.threads or threads
    # A pattern is kept for every shape ever seen, with memory for the largest; batch sizes make all shapes dynamic.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(config.spinning)))
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def _run_options(graph_id: int) -> Any:
    """Makes the options of a run. Its errors go to the server, so frames that a graph refuses need not fill the log.

    The graph id is always set: ONNX Runtime 1.31 asks for it in every run that has options, and where it is not set,
    the exception inside costs 80 us.
    """
    options = onnxruntime.RunOptions()
    options.log_severity_level = _LOG_FATAL
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


def _hand_over(file: GraphFile, options: Any) -> None:
    """Gives ONNX Runtime the external data of the graph, which it copies when the session is made."""
    if b"EPContext" in file.data:  # its provider reads an engine beside the graph by itself
        options.add_session_config_entry("ep.context_file_path", str(file.path))
    if file.external:
        buffers = list(file.external.values())
        options.add_external_initializers_from_files_in_memory(list(file.external), buffers, [len(b) for b in buffers])


def _plugins(asked: Sequence[Provider]) -> dict[str, Path]:
    """Returns the libraries of the providers that neither the model brings nor this ONNX Runtime has, by provider."""
    built_in = onnxruntime.get_available_providers()
    names = [provider.name for provider in asked if provider.library is None and provider.name not in built_in]
    return {name: library for name in names if (library := plugin_of(name)) is not None}


def _open(
    graph: bytes,
    options: Any,
    asked: Sequence[Provider],
    model_folder: Path,
    plugins: Mapping[str, Path],
    device: str,
) -> Any:
    """Opens a session. `plugins`: the libraries of installed plugins, by provider. `device`: the lane's."""
    _share_cpu_arena()
    if any(provider.name in (CUDA, TENSORRT) for provider in asked):
        onnxruntime.preload_dlls()  # CUDA and cuDNN as pip installs them are on no search path
    providers: list[tuple[str, dict[str, str]]] | None = None
    plain = [(provider.name, {key: str(value) for key, value in provider.options.items()}) for provider in asked]
    if plugins or any(provider.library for provider in asked):
        # A plugin is added by its devices. Providers that are named beside that replace it, so all go into the options.
        for provider, (name, values) in zip(asked, plain, strict=True):
            row = of_provider(name)
            if provider.library is not None:
                library = model_folder / provider.library
                options.add_provider_for_devices(_plugin_devices(name, library, shown(library)), values)
            elif name in plugins and row is not None:
                found = _plugin_devices(name, plugins[name], row.plugin)
                nth = chosen(name, device, [dict(each.ep_metadata) for each in found])
                values.pop(row.device_option, None)  # the device says it
                options.add_provider_for_devices([found[nth]], values)
            else:
                options.add_provider(name, values)
    else:
        providers = plain
    session = onnxruntime.InferenceSession(graph, options, providers, enable_fallback=0)
    session._model_bytes = None  # it would keep the whole file, for a fallback that is off
    return session


def _share_cpu_arena() -> None:
    """Makes the one arena of this process that all sessions use. It takes from the system no more than is asked for."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(
        memory, onnxruntime.OrtArenaCfg({"arena_extend_strategy": _SAME_AS_REQUESTED})
    )


def _plugin_devices(name: str, library: Path, called: str) -> list[Any]:
    """Returns the devices of a plugin, whose library errors call `called`."""
    try:
        _register(name, str(library))
    except Exception as error:
        reason = run_reason(str(error).replace(str(library), called))
        raise ProviderError(f"{name}: library {called}: {reason}") from error
    devices = onnxruntime.get_ep_devices()
    found = [device for device in devices if device.ep_name == name]
    if not found:
        names = ", ".join(sorted({device.ep_name for device in devices}))
        raise ProviderError(f"{name}: its library {called} finds no device for it; there are: {names}")
    return found


@functools.cache
def _register(name: str, library: str) -> None:
    """Registers a plugin once in this process; all sessions then share it."""
    onnxruntime.register_execution_provider_library(name, library)


def _assigned(session: Any) -> dict[str, list[Node]]:
    assigned: dict[str, list[Node]] = {}
    for part in session.get_provider_graph_assignment_info():
        assigned.setdefault(part.ep_name, []).extend(Node(node.op_type, node.name) for node in part.get_nodes())
    return assigned


def _memories(session: Any) -> set[str]:
    """What ONNX Runtime calls the memories that inputs are taken from and outputs are given to."""
    return {info.name for info in (*session.get_input_memory_infos(), *session.get_output_memory_infos())}


def _tensors(arguments: Sequence[Any]) -> dict[str, GraphTensor]:
    return {
        argument.name: GraphTensor(argument.name, _DATATYPES.get(argument.type, argument.type), tuple(argument.shape))
        for argument in arguments
    }


# ---- what there is, for who asks without a model ----


def release() -> tuple[str, list[str], Path]:
    """Returns the version of ONNX Runtime, the providers that it has built in, and the folder of their libraries."""
    return onnxruntime.__version__, list(onnxruntime.get_available_providers()), Path(onnxruntime.capi.__path__[0])


def find_libraries() -> None:
    """Loads CUDA and cuDNN as pip installs them, which are on no search path; what is not there is left out."""
    if CUDA in onnxruntime.get_available_providers():
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints what it does not find
            onnxruntime.preload_dlls()


def openvino_devices() -> list[str]:
    """Returns the devices that a built-in OpenVINO finds, by its own names."""
    return [str(name) for name in onnxruntime.capi._pybind_state.get_available_openvino_device_ids()]


def plugin_devices(provider: str, library: Path) -> list[str]:
    """Returns the devices that a plugin finds, in words. Raises ProviderError where it finds none, or does not load."""
    row = of_provider(provider)
    found = _plugin_devices(provider, library, row.plugin if row is not None else library.name)
    return [
        dict(each.ep_metadata).get("ov_device")
        or dict(each.device.metadata).get("Description")
        or f"{each.device.vendor} {each.device.type.name}"
        for each in found
    ]
