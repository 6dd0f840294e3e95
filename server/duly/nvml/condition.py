"""What a GPU says of its own condition.

The driver's recovery action (since R570) says whether it can be used, and NVIDIA's "GPU Memory Error Management" what
that means: where it is none, "the GPU can be immediately used again by starting a new GPU process", and rows that are
to be remapped with the next reset hinder nothing.
"""

from contextlib import suppress
from types import ModuleType
from typing import NamedTuple

from duly.nvml.gpus import Gpu

_ACTIONS = {
    1: "the driver asks for a reset of the GPU",
    2: "the driver asks for a reboot of the machine",
    6: "the driver asks for a reset of the GPU's bus",
    7: "the driver asks for a reboot of the machine",
}
"""nvmlDeviceGpuRecoveryAction_t, those with which nothing runs. With "drain P2P" (3), "drain and reset" (4: less of the
GPU is left) and "recover IMEX domain" (5) goes on what needs no other GPU."""


class Condition(NamedTuple):
    lost: str = ""
    """Why it does not answer; empty: it does."""
    action: int | None = None
    """The recovery action; None: it does not say."""
    ecc_errors: int | None = None
    """ECC errors that could not be corrected since the driver was loaded; None: it does not say."""
    rows_failed: bool | None = None
    """Whether a row of memory could not be remapped, for which a GPU is to be exchanged; None: it does not say."""
    to_be_reset: str = ""
    """Why it is to be reset when there is time for it, though it works; empty: it is not."""

    @property
    def blocked(self) -> str:
        """What keeps it from working now; empty: nothing."""
        return self.lost or _ACTIONS.get(self.action or 0, "")

    def worse_than(self, before: "Condition | None") -> str:
        """Returns what of its memory has failed since; empty: nothing. Errors that are contained are counted, too, so
        that where there is a recovery action the count decides nothing.
        """
        if before is None:
            return ""
        if self.rows_failed and before.rows_failed is False:
            return "a row of its memory could not be remapped"
        if self.action is None and self.ecc_errors is not None and before.ecc_errors is not None:
            more = self.ecc_errors - before.ecc_errors
            if more > 0:
                return f"{more} ECC errors that could not be corrected"
        return ""


def of(nvml: ModuleType, gpu: Gpu) -> Condition:
    """Returns the condition of a GPU. Raises NVMLError where it does not answer, or NVML is at fault."""
    try:
        nvml.nvmlDeviceGetMemoryInfo(gpu.part)
    except nvml.NVMLError_NotSupported:  # GPUs that share the machine's memory have none of their own to tell of
        with suppress(nvml.NVMLError_NotSupported):
            nvml.nvmlDeviceGetClockInfo(gpu.device, nvml.NVML_CLOCK_SM)
    remapped_rows = _rows(nvml, gpu)
    return Condition(
        "",
        _action(nvml, gpu),
        _ecc_errors(nvml, gpu),
        bool(remapped_rows[3]) if remapped_rows is not None else None,
        _to_be_reset(nvml, gpu, remapped_rows),
    )


def after(nvml: ModuleType, error: Exception) -> Condition | None:
    """Returns the condition of a GPU that gives this error; None: it is NVML's own."""
    if isinstance(error, nvml.NVMLError_NotFound):
        return Condition(lost="GPU is not there any more")
    if isinstance(error, (nvml.NVMLError_GpuIsLost, nvml.NVMLError_ResetRequired, nvml.NVMLError_Unknown)):
        return Condition(lost=str(error))
    return None


def _action(nvml: ModuleType, gpu: Gpu) -> int | None:
    field = getattr(nvml, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
    if field is None:  # an older package
        return None
    (value,) = nvml.nvmlDeviceGetFieldValues(gpu.device, [field])
    return int(value.value.uiVal) if value.nvmlReturn == nvml.NVML_SUCCESS else None


def _ecc_errors(nvml: ModuleType, gpu: Gpu) -> int | None:
    kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    try:
        return int(nvml.nvmlDeviceGetTotalEccErrors(gpu.device, kind, since))
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NoPermission):
        return None


def _rows(nvml: ModuleType, gpu: Gpu) -> tuple[int, int, int, int] | None:
    """Rows that were remapped for errors that could be corrected, and that could not; whether one is to be, and
    whether one could not be. None: it does not say.
    """
    try:
        remapped: tuple[int, int, int, int] = nvml.nvmlDeviceGetRemappedRows(gpu.device)
        return remapped
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NoPermission):
        return None


def _to_be_reset(nvml: ModuleType, gpu: Gpu, remapped_rows: tuple[int, int, int, int] | None) -> str:
    if remapped_rows is not None:
        return "rows of its memory are remapped with the next reset of the GPU" if remapped_rows[2] else ""
    try:
        pending = nvml.nvmlDeviceGetRetiredPagesPendingStatus(gpu.device)
        return "pages of its memory are retired with the next reset of the GPU" if pending else ""
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NoPermission):
        return ""
