"""NVML without a GPU: the functions, errors and constants of nvidia-ml-py's module `pynvml` that are used, with its
names, its numbers and its texts. `GPUS` and `STATE` are what a test sets.
"""

import queue
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

NVML_ERROR_UNINITIALIZED = 1
NVML_ERROR_INVALID_ARGUMENT = 2
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NO_PERMISSION = 4
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_TIMEOUT = 10
NVML_ERROR_FUNCTION_NOT_FOUND = 13
NVML_ERROR_GPU_IS_LOST = 15
NVML_ERROR_RESET_REQUIRED = 16
NVML_ERROR_UNKNOWN = 999
NVML_SUCCESS = 0

NVML_VOLATILE_ECC = 0
NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
NVML_CLOCK_SM = 1
NVML_CLOCK_MEM = 2
NVML_TEMPERATURE_GPU = 0
NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230

nvmlEventTypeSingleBitEccError = 0x1
nvmlEventTypeDoubleBitEccError = 0x2
nvmlEventTypeXidCriticalError = 0x8

_TEXTS = {
    NVML_ERROR_UNINITIALIZED: "Uninitialized",
    NVML_ERROR_INVALID_ARGUMENT: "Invalid Argument",
    NVML_ERROR_NOT_SUPPORTED: "Not Supported",
    NVML_ERROR_NO_PERMISSION: "Insufficient Permissions",
    NVML_ERROR_NOT_FOUND: "Not Found",
    NVML_ERROR_DRIVER_NOT_LOADED: "Driver Not Loaded",
    NVML_ERROR_TIMEOUT: "Timeout",
    NVML_ERROR_FUNCTION_NOT_FOUND: "Function Not Found",
    NVML_ERROR_GPU_IS_LOST: "GPU is lost",
    NVML_ERROR_RESET_REQUIRED: "GPU requires restart",
    NVML_ERROR_UNKNOWN: "Unknown Error",
}


@dataclass
class Gpu:
    """One that a test makes. What is None is not supported by it."""

    uuid: str = "00000000-0000-0000-0000-000000000001"
    error: int = 0
    """What everything but energy gives in place of an answer."""
    millijoules: int = 0
    """What it has counted; negative: the number of the error that it gives."""
    used_bytes: int | None = 3 << 30
    total_bytes: int = 80 << 30
    processes: dict[int, int | None] | None = field(default_factory=dict)
    """What processes have of its memory, by their ids; None: the driver does not say."""
    clocks_mhz: dict[int, int] | None = field(default_factory=lambda: {NVML_CLOCK_SM: 1410, NVML_CLOCK_MEM: 1593})
    celsius: int = 45
    reasons: int = 0x1
    ecc: int | None = 0
    rows: tuple[int, int, int, int] | None = (0, 0, 0, 0)
    pages_pending: int | None = None
    recovery: int | None = 0
    events: int = nvmlEventTypeSingleBitEccError | nvmlEventTypeDoubleBitEccError | nvmlEventTypeXidCriticalError
    """What events it supports."""
    parent: "Gpu | None" = None
    """Of a part of MIG: the whole."""
    instances: tuple[int, int] = (0xFFFFFFFF, 0xFFFFFFFF)

    def xid(self, number: int, instances: tuple[int, int] = (0xFFFFFFFF, 0xFFFFFFFF)) -> None:
        """The driver reports an Xid."""
        self._happens(nvmlEventTypeXidCriticalError, number, instances)

    def double_bit(self) -> None:
        self._happens(nvmlEventTypeDoubleBitEccError, 0, (0xFFFFFFFF, 0xFFFFFFFF))

    def _happens(self, kind: int, data: int, instances: tuple[int, int]) -> None:
        event = SimpleNamespace(
            device=self, eventType=kind, eventData=data, gpuInstanceId=instances[0], computeInstanceId=instances[1]
        )
        for events in STATE["sets"]:
            if (self.uuid, kind) in events.registered:
                events.queue.put(event)


class _Events:
    def __init__(self) -> None:
        self.queue: queue.Queue[Any] = queue.Queue()
        self.registered: set[tuple[str, int]] = set()


GPUS: list[Gpu] = []
PARTS: list[Gpu] = []
"""Parts of MIG, which are counted by nobody."""
STATE: dict[str, Any] = {"begun": 0, "init_error": 0, "sets": []}


def fresh(*gpus: Gpu) -> None:
    """Begins with a machine that has these GPUs."""
    GPUS[:] = gpus
    PARTS.clear()
    STATE.update(begun=0, init_error=0, sets=[])


class NVMLError(Exception):
    """As in pynvml: `NVMLError(number)` makes an object of the class of that error."""

    def __new__(cls, value: int) -> Any:
        of_number = {
            NVML_ERROR_NOT_SUPPORTED: NVMLError_NotSupported,
            NVML_ERROR_NO_PERMISSION: NVMLError_NoPermission,
            NVML_ERROR_NOT_FOUND: NVMLError_NotFound,
            NVML_ERROR_TIMEOUT: NVMLError_Timeout,
            NVML_ERROR_FUNCTION_NOT_FOUND: NVMLError_FunctionNotFound,
            NVML_ERROR_GPU_IS_LOST: NVMLError_GpuIsLost,
            NVML_ERROR_RESET_REQUIRED: NVMLError_ResetRequired,
            NVML_ERROR_UNKNOWN: NVMLError_Unknown,
        }
        made = Exception.__new__(of_number.get(value, cls))
        made.value = value
        return made

    def __str__(self) -> str:
        return _TEXTS[self.value]  # type: ignore[attr-defined]  # set above, as pynvml does


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_NoPermission(NVMLError):
    pass


class NVMLError_NotFound(NVMLError):
    pass


class NVMLError_Timeout(NVMLError):
    pass


class NVMLError_FunctionNotFound(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


class NVMLError_ResetRequired(NVMLError):
    pass


class NVMLError_Unknown(NVMLError):
    pass


def nvmlInit() -> None:
    if STATE["init_error"]:
        raise NVMLError(STATE["init_error"])
    STATE["begun"] += 1


def nvmlShutdown() -> None:
    _begun()
    STATE["begun"] -= 1


# ---- finding a GPU ----


def nvmlDeviceGetCount() -> int:
    _begun()
    return len(GPUS)


def nvmlDeviceGetHandleByIndex(index: int) -> Gpu:
    _begun()
    if not 0 <= index < len(GPUS):
        raise NVMLError(NVML_ERROR_INVALID_ARGUMENT)
    if GPUS[index].error == NVML_ERROR_GPU_IS_LOST:
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    return GPUS[index]


def nvmlDeviceGetHandleByUUID(uuid: str) -> Gpu:
    _begun()
    if any(gpu.error == NVML_ERROR_GPU_IS_LOST for gpu in GPUS):  # nvml.h: "if any GPU has fallen off the bus"
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    for gpu, kind in [*((gpu, "GPU") for gpu in GPUS), *((part, "MIG") for part in PARTS)]:
        if uuid == f"{kind}-{gpu.uuid}":
            return gpu
    raise NVMLError(NVML_ERROR_NOT_FOUND)


def nvmlDeviceGetUUID(handle: Gpu) -> str:
    _begun()
    return f"{'MIG' if handle.parent else 'GPU'}-{handle.uuid}"


def nvmlDeviceGetIndex(handle: Gpu) -> int:
    _begun()
    return next(index for index, gpu in enumerate(GPUS) if gpu is handle)


def nvmlDeviceGetMaxMigDeviceCount(handle: Gpu) -> int:
    """The first number is free, as that of a part that was taken away is."""
    _begun()
    return 1 + sum(part.parent is handle for part in PARTS)


def nvmlDeviceGetMigDeviceHandleByIndex(handle: Gpu, index: int) -> Gpu:
    _begun()
    if index == 0:
        raise NVMLError(NVML_ERROR_NOT_FOUND)
    return [part for part in PARTS if part.parent is handle][index - 1]


def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle: Gpu) -> Gpu:
    _begun()
    assert handle.parent is not None
    return handle.parent


def nvmlDeviceGetGpuInstanceId(handle: Gpu) -> int:
    return handle.instances[0]


def nvmlDeviceGetComputeInstanceId(handle: Gpu) -> int:
    return handle.instances[1]


# ---- what it says of itself ----


def nvmlDeviceGetTotalEnergyConsumption(handle: Gpu) -> int:
    _begun()
    if handle.millijoules < 0:
        raise NVMLError(-handle.millijoules)
    return handle.millijoules


def nvmlDeviceGetMemoryInfo(handle: Gpu) -> SimpleNamespace:
    used: int = _asked(handle, handle.used_bytes)
    return SimpleNamespace(total=handle.total_bytes, free=handle.total_bytes - used, used=used)


def nvmlDeviceGetComputeRunningProcesses(handle: Gpu) -> list[SimpleNamespace]:
    running: dict[int, int | None] = _asked(handle, handle.processes)
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in running.items()]


def nvmlDeviceGetClockInfo(handle: Gpu, kind: int) -> int:
    clocks: dict[int, int] = _asked(handle, handle.clocks_mhz)
    return clocks[kind]


def nvmlDeviceGetTemperature(handle: Gpu, sensor: int) -> int:
    _asked(handle)
    assert sensor == NVML_TEMPERATURE_GPU
    return handle.celsius


def nvmlDeviceGetCurrentClocksEventReasons(handle: Gpu) -> int:
    _asked(handle)
    return handle.reasons


def nvmlDeviceGetTotalEccErrors(handle: Gpu, kind: int, since: int) -> int:
    assert (kind, since) == (NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC)
    return _asked(handle, handle.ecc)


def nvmlDeviceGetRemappedRows(handle: Gpu) -> tuple[int, int, int, int]:
    return _asked(handle, handle.rows)


def nvmlDeviceGetRetiredPagesPendingStatus(handle: Gpu) -> int:
    return _asked(handle, handle.pages_pending)


def nvmlDeviceGetFieldValues(handle: Gpu, fields: list[int]) -> list[SimpleNamespace]:
    _asked(handle)
    assert fields == [NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]
    status = NVML_SUCCESS if handle.recovery is not None else NVML_ERROR_NOT_SUPPORTED
    return [SimpleNamespace(nvmlReturn=status, value=SimpleNamespace(uiVal=handle.recovery or 0))]


# ---- events ----


def nvmlEventSetCreate() -> _Events:
    _begun()
    events = _Events()
    STATE["sets"].append(events)
    return events


def nvmlDeviceGetSupportedEventTypes(handle: Gpu) -> int:
    return _asked(handle, handle.events)


def nvmlDeviceRegisterEvents(handle: Gpu, kinds: int, events: _Events) -> None:
    _asked(handle)
    assert not kinds & ~handle.events
    events.registered |= {(handle.uuid, 1 << bit) for bit in range(16) if kinds >> bit & 1}


def nvmlEventSetWait_v2(events: _Events, timeout_ms: int) -> Any:
    _begun()
    try:
        return events.queue.get(timeout=timeout_ms / 1000) if timeout_ms else events.queue.get_nowait()
    except queue.Empty:
        raise NVMLError(NVML_ERROR_TIMEOUT) from None


def nvmlEventSetFree(events: _Events) -> None:
    _begun()
    STATE["sets"].remove(events)


def _asked(handle: Gpu, answer: Any = 0) -> Any:
    _begun()
    whole = handle.parent or handle
    if whole.error:
        raise NVMLError(whole.error)
    if answer is None:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return answer


def _begun() -> None:
    if not STATE["begun"]:
        raise NVMLError(NVML_ERROR_UNINITIALIZED)
