"""What the protocol says of the server itself, and the settings of its log."""

import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import grpc
import structlog

from duly.rpc.errors import guarded
from duly.rpc.kserve.front_end import FrontEnd
from duly.rpc.kserve.messages import (
    LogSettingsRequest,
    LogSettingsResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
    TraceSettingRequest,
    TraceSettingResponse,
)
from duly.streams.errors import CallError
from duly.telemetry import LEVELS, log_level, set_log_level

EXTENSIONS: Final = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "logging",
)
"""What the server knows of the extensions that Triton names."""
_SHARED_MEMORY: Final = "system_shared_memory"
_TRACE: Final = {
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": [""],
    "trace_mode": ["triton"],
}
"""Triton's settings of a server that traces nothing."""
_AS_STARTED: Final = {"log_file": "", "log_format": "default"}
"""What can only be set as the server starts."""
_NAME_CHARS_SHOWN = 64

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_LevelSettings = Mapping[str, bool | int]

_log = structlog.get_logger("duly")


class KServeMachine:
    """Each method serves the RPC of its name."""

    def __init__(self, front: FrontEnd, shared_memory: bool) -> None:
        """`shared_memory`: whether clients may register regions of it."""
        self._streams = front.streams
        self._extensions = (*EXTENSIONS, _SHARED_MEMORY) if shared_memory else EXTENSIONS
        self._version = importlib.metadata.version("duly")  # which reads files

    @guarded
    async def ServerLive(self, request: ServerLiveRequest, context: Context) -> ServerLiveResponse:
        return ServerLiveResponse(live=True)

    @guarded
    async def ServerReady(self, request: ServerReadyRequest, context: Context) -> ServerReadyResponse:
        streams = self._streams
        return ServerReadyResponse(ready=streams.host.catalogue.serves_any() and not streams.draining)

    @guarded
    async def ServerMetadata(self, request: ServerMetadataRequest, context: Context) -> ServerMetadataResponse:
        return ServerMetadataResponse(name="duly", version=self._version, extensions=self._extensions)

    @guarded
    async def TraceSetting(self, request: TraceSettingRequest, context: Context) -> TraceSettingResponse:
        """Says that nothing is traced. A setting that says so, or goes back to that, is taken."""
        if request.model_name:
            self._streams.host.catalogue.find(request.model_name)
        for name, setting in request.settings.items():
            known = _TRACE.get(name)
            if known is None:
                raise _no_setting(name, _TRACE)
            if setting.value and list(setting.value) != known:
                text = f"{name}: should be {known[0]!r}, as this server traces nothing: what became of each request is "
                raise CallError("NOT_SUPPORTED", text + "in its reply's parameters and in the server's recordings")
        response = TraceSettingResponse()
        for name, values in _TRACE.items():
            response.settings[name].value.extend(values)
        return response

    @guarded
    async def LogSettings(self, request: LogSettingsRequest, context: Context) -> LogSettingsResponse:
        """Reads and changes what is logged. The guard has judged who may change it."""
        wanted: dict[str, bool | int] = {}
        for name, setting in request.settings.items():
            if name in _AS_STARTED:
                _check_as_started(name, _text(name, setting))
            else:
                wanted[name] = _level_setting(name, setting)
        if wanted:
            level = _level_for(wanted, log_level())
            set_log_level(level)
            _log.warning("what is logged was set over the wire", from_level=level)
        response = LogSettingsResponse()
        for name, text in _AS_STARTED.items():
            response.settings[name].string_param = text
        for name, value in _settings_of(log_level()).items():
            if isinstance(value, bool):
                response.settings[name].bool_param = value
            else:
                response.settings[name].uint32_param = value
        return response


def _settings_of(level: str) -> _LevelSettings:
    """Returns Triton's settings at a level."""
    rank = LEVELS.index(level)
    return {
        "log_error": True,
        "log_warning": rank >= LEVELS.index("warning"),
        "log_info": rank >= LEVELS.index("info"),
        "log_verbose_level": int(rank >= LEVELS.index("debug")),
    }


def _level_for(wanted: _LevelSettings, now: str) -> str:
    """Returns the level at which all of these settings hold, the one next to that of now. Raises CallError where there
    is none.
    """
    rank = LEVELS.index(now)
    fitting = [level for level in LEVELS if _settings_of(level).items() >= wanted.items()]
    if not fitting:
        asked = ", ".join(f"{name} {value}" for name, value in wanted.items())
        text = f"settings: {asked} do not go together: whoever logs a level logs those above it, and errors always"
        raise CallError("INVALID_REQUEST", text, "settings")
    return min(fitting, key=lambda level: abs(LEVELS.index(level) - rank))


def _level_setting(name: str, setting: LogSettingsRequest.SettingValue) -> bool | int:
    known = _settings_of(LEVELS[0])
    if name not in known:
        raise _no_setting(name, (*_AS_STARTED, *known))
    kind = setting.WhichOneof("parameter_choice")
    if isinstance(known[name], bool):
        if kind != "bool_param":
            raise CallError("INVALID_REQUEST", f"{name}: should be a bool", "settings")
        return setting.bool_param
    if kind != "uint32_param":
        raise CallError("INVALID_REQUEST", f"{name}: should be a uint32", "settings")
    return min(setting.uint32_param, 1)  # there is one level of it


def _text(name: str, setting: LogSettingsRequest.SettingValue) -> str:
    if setting.WhichOneof("parameter_choice") != "string_param":
        raise CallError("INVALID_REQUEST", f"{name}: should be a string", "settings")
    return setting.string_param


def _check_as_started(name: str, value: str) -> None:
    if value != _AS_STARTED[name]:
        where = "the log goes to standard error, in the format that the server was started with (log_format)"
        raise CallError("NOT_SUPPORTED", f"{name}: should be {_AS_STARTED[name]!r}: {where}")


def _no_setting(name: str, known: Iterable[str]) -> CallError:
    text = f"settings: there is no {name[:_NAME_CHARS_SHOWN]!r}; there are: {', '.join(known)}"
    return CallError("INVALID_REQUEST", text, "settings")
