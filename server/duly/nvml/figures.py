"""How a GPU does now: memory, clocks, temperature, and what holds its clocks down."""

from types import ModuleType
from typing import Any, NamedTuple

from duly.nvml.gpus import Gpu

REASONS = {
    "GpuIdle": "idle",
    "ApplicationsClocksSetting": "setting",
    "SwPowerCap": "power_cap",
    "HwSlowdown": "hardware_slowdown",
    "SyncBoost": "sync_boost",
    "SwThermalSlowdown": "software_thermal",
    "HwThermalSlowdown": "hardware_thermal",
    "HwPowerBrakeSlowdown": "power_brake",
    "DisplayClockSetting": "display_setting",
}
"""What may hold the clocks down: the ends of NVML's names (nvmlClocksEventReason...), and what they are called here."""
_BITS = {name: 1 << bit for bit, name in enumerate(REASONS.values())}
"""nvml.h: one bit each, in this order."""


class Figures(NamedTuple):
    """Figures of one GPU, or of a part of it. None: it does not say."""

    gpu: str
    """As `gpu-0`, by nvidia-smi's number."""
    used_bytes: int | None
    """Memory that programs have, whoever they are."""
    total_bytes: int | None
    sm_hertz: int | None
    memory_hertz: int | None
    celsius: int | None
    held_down_by: frozenset[str] | None
    """Those of `REASONS` that hold now."""


def figures(nvml: ModuleType, gpu: Gpu) -> Figures:
    """Returns the figures of a GPU that answers; memory is that of the part, all else that of the whole."""
    memory = _asked(nvml, "nvmlDeviceGetMemoryInfo", gpu.part)
    sm_mhz = _asked(nvml, "nvmlDeviceGetClockInfo", gpu.device, nvml.NVML_CLOCK_SM)
    memory_mhz = _asked(nvml, "nvmlDeviceGetClockInfo", gpu.device, nvml.NVML_CLOCK_MEM)
    reasons = _asked(nvml, "nvmlDeviceGetCurrentClocksEventReasons", gpu.device)
    if reasons is None:  # as it was called before 535
        reasons = _asked(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", gpu.device)
    celsius = _asked(nvml, "nvmlDeviceGetTemperature", gpu.device, nvml.NVML_TEMPERATURE_GPU)
    if celsius is None:  # as it is called from CUDA 14 on
        celsius = _asked(nvml, "nvmlDeviceGetTemperatureV", gpu.device, nvml.NVML_TEMPERATURE_GPU)
    return Figures(
        gpu.name,
        int(memory.used) if memory is not None else None,
        int(memory.total) if memory is not None else None,
        int(sm_mhz) * 1_000_000 if sm_mhz is not None else None,
        int(memory_mhz) * 1_000_000 if memory_mhz is not None else None,
        int(celsius) if celsius is not None else None,
        frozenset(name for name, bit in _BITS.items() if reasons & bit) if reasons is not None else None,
    )


def _asked(nvml: ModuleType, function: str, *arguments: Any) -> Any:
    """Returns the answer of a function; None: this GPU, driver or package has none."""
    ask = getattr(nvml, function, None)
    if ask is None:
        return None
    try:
        return ask(*arguments)
    except nvml.NVMLError:
        return None
