"""NVML without a GPU: the functions and errors of nvidia-ml-py's module `pynvml` that are used, with its names, its
numbers and its texts. `GPUS` and `STATE` are what a test sets.
"""

from typing import Any

NVML_ERROR_UNINITIALIZED = 1
NVML_ERROR_INVALID_ARGUMENT = 2
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_GPU_IS_LOST = 15

_TEXTS = {
    NVML_ERROR_UNINITIALIZED: "Uninitialized",
    NVML_ERROR_INVALID_ARGUMENT: "Invalid Argument",
    NVML_ERROR_NOT_SUPPORTED: "Not Supported",
    NVML_ERROR_DRIVER_NOT_LOADED: "Driver Not Loaded",
    NVML_ERROR_GPU_IS_LOST: "GPU is lost",
}

GPUS: list[int] = []
"""What each GPU has counted, mJ; negative: the number of the error that it gives."""
STATE = {"begun": 0, "init_error": 0}


class NVMLError(Exception):
    """As in pynvml: `NVMLError(number)` makes an object of the class of that error."""

    def __new__(cls, value: int) -> Any:
        of_number = {NVML_ERROR_NOT_SUPPORTED: NVMLError_NotSupported, NVML_ERROR_GPU_IS_LOST: NVMLError_GpuIsLost}
        made = Exception.__new__(of_number.get(value, cls))
        made.value = value
        return made

    def __str__(self) -> str:
        return _TEXTS[self.value]  # type: ignore[attr-defined]  # set above, as pynvml does


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


def nvmlInit() -> None:
    if STATE["init_error"]:
        raise NVMLError(STATE["init_error"])
    STATE["begun"] += 1


def nvmlShutdown() -> None:
    _begun()
    STATE["begun"] -= 1


def nvmlDeviceGetCount() -> int:
    _begun()
    return len(GPUS)


def nvmlDeviceGetHandleByIndex(index: int) -> tuple[str, int]:
    _begun()
    if not 0 <= index < len(GPUS):
        raise NVMLError(NVML_ERROR_INVALID_ARGUMENT)
    return "handle", index


def nvmlDeviceGetTotalEnergyConsumption(handle: tuple[str, int]) -> int:
    _begun()
    counted = GPUS[handle[1]]
    if counted < 0:
        raise NVMLError(-counted)
    return counted


def _begun() -> None:
    if not STATE["begun"]:
        raise NVMLError(NVML_ERROR_UNINITIALIZED)
