"""Opens sessions of ONNX Runtime on the providers asked for, built in or plugins, and checks that these run them."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duly.accelerators import CPU, CUDA, TENSORRT, device_of, of_provider
from duly.models.spec import ModelConfig, Provider
from duly.worker.calibration import Table
from duly.worker.device_errors import is_full
from duly.worker.engines import Engines, NoLink
from duly.worker.errors import LoadError, LoadFull
from duly.worker.libraries import shown
from duly.worker.ort_errors import full_reason, load_reason, run_reason
from duly.worker.ort_import import LOG_ERRORS, onnxruntime
from duly.worker.ort_installed import check_installed
from duly.worker.plugins import chosen, plugin_of
from duly.worker.providers import ASK_THE_DOCTOR, Node, ProviderError, check_available, check_used, on_host, wanted
from duly.worker.stream_priority import PriorityStream, priority_stream
from duly.worker.version_files import GraphFile

_NO_DEVICE = "Failed to get a WebGPU adapter"  # there is no driver for Vulkan, or none that WebGPU takes
_SAME_AS_REQUESTED = 1  # ArenaExtendStrategy::kSameAsRequested


def onnxruntime_version() -> str:
    return str(onnxruntime.__version__)


@dataclass(frozen=True, slots=True)
class MachineShare:
    """What a session may take of the machine."""

    threads: int
    """Intra-op threads, where model.toml does not say it; 0: ONNX Runtime chooses."""
    device_memory_bytes_max: int = 0
    """Memory of a GPU; 0: what there is."""
    stream_class: str = ""
    """The class by which it has a priority on a GPU of CUDA that it shares; empty: none."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session as it was opened."""

    session: Any
    asked: tuple[Provider, ...]
    """The providers that were asked for, in order of preference."""
    providers: tuple[str, ...]
    """Those that truly run it."""
    operators: frozenset[str]
    host_inputs: frozenset[str]
    """The graph's inputs that it takes from the host's memory, whatever runs it."""
    stream: PriorityStream | None
    """What it runs on, where that is none of ONNX Runtime's own."""


def open_session(
    file: GraphFile,
    name: str,
    config: ModelConfig,
    lane: str,
    model_folder: Path,
    share: MachineShare,
    engines: Engines | None = None,
    table: Table | None = None,
) -> OpenSession:
    """Opens `file`, which errors call `name`. `share`: what it may take of the machine. `engines`: what providers
    compile at load; None: nobody keeps it. `table`: ranges for 8 bits.

    Raises:
        LoadError: the file cannot be loaded, or a provider that is asked for does not run it. It is LoadFull where
            there is not enough memory.
    """
    threads = config.threads or share.threads
    asked = wanted(config, lane, threads, share.device_memory_bytes_max)
    stream: PriorityStream | None = None
    toml = f"{name.partition('/')[0]}/model.toml" + (f" for {file.path.name}" if len(config.variants) > 1 else "")
    if config.cuda_graph and asked[0].name != CUDA:
        raise LoadError(f"{toml}: cuda_graph needs {CUDA} as the first provider, not {asked[0].name} on {lane}")
    try:
        plugins = _plugins(asked)
        built_in = onnxruntime.get_available_providers()
        check_available(asked, [*built_in, *plugins], check_installed())
        if share.stream_class and asked[0].name in (CUDA, TENSORRT):
            onnxruntime.preload_dlls()
            stream = priority_stream(int(device_of(lane)), share.stream_class)

        def opened(asked: Sequence[Provider]) -> Any:
            options = _options(config, threads)
            _hand_over(file, options)
            # Engines do not depend on the stream, so it comes in behind what they are known by.
            given = asked if stream is None else stream.given_to(asked)
            return _open(file.data, options, given, model_folder, plugins, device_of(lane))

        engines = engines or Engines(NoLink(), lane, onnxruntime.__version__)
        session = engines.open(asked, file, table, config, opened)
        assigned = _assigned(session)
        taken_from, given_to = _memories(session)
        providers = check_used(asked, session.get_providers(), assigned, {*taken_from.values(), *given_to})
        operators = frozenset(node.op_type for nodes in assigned.values() for node in nodes)
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
    return OpenSession(session, tuple(asked), providers, operators, on_host(taken_from), stream)


def _asker(config: ModelConfig, lane: str) -> str:
    """What asks for the providers: the setting of the model, or the lane where the model states none."""
    return "providers" if config.providers else f"lane {lane}"


def _options(config: ModelConfig, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads
    # A pattern is kept for every shape ever seen, with memory for the largest; batch sizes make all shapes dynamic.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(config.spinning)))
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.use_env_allocators", "1")
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
                options.add_provider_for_devices(plugin_devices(name, library, shown(library)), values)
            elif name in plugins and row is not None:
                found = plugin_devices(name, plugins[name], row.plugin)
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


def plugin_devices(name: str, library: Path, called: str) -> list[Any]:
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


def _memories(session: Any) -> tuple[dict[str, str], set[str]]:
    """What ONNX Runtime calls the memory that each input is taken from, and those that outputs are given to."""
    named = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
    return {each.name: info.name for each, info in named}, {info.name for info in session.get_output_memory_infos()}
