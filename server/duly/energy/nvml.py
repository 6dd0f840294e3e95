"""The counters of energy in NVIDIA's GPUs, as NVML shows them.

A GPU counts since its driver was loaded, in millijoules, in steps of up to a tenth of a second; GPUs older than Volta
do not count. MIG's parts have no counters of their own: the whole GPU's counts. GPUs have NVML's numbers, which are
those of nvidia-smi, whatever CUDA_VISIBLE_DEVICES says.
"""

from collections.abc import Sequence
from types import ModuleType

from duly.energy.source import Missing
from duly.energy.totals import Reading
from duly.nvml.library import Library

GPUS_MAX = 64
"""No more GPUs are read."""


class Nvml:
    def __init__(self, library: Library | None = None) -> None:
        """`library`: which others ask, too; None: this one's own."""
        self._library = library or Library()

    def read(self) -> tuple[Sequence[Reading], Sequence[Missing]]:
        """Returns the counters of all GPUs, and what cannot be read of them; neither where there is no driver."""
        library = self._library
        with library.held:
            nvml = library.begun()
            if nvml is not None:
                try:
                    return _read(nvml)
                except nvml.NVMLError as error:
                    library.give_up(str(error))
            return [], [Missing(library.why_not, library.advice)] if library.why_not else []


def _read(nvml: ModuleType) -> tuple[Sequence[Reading], Sequence[Missing]]:
    readings: list[Reading] = []
    missing: list[Missing] = []
    for number in range(min(int(nvml.nvmlDeviceGetCount()), GPUS_MAX)):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            readings.append(Reading(f"gpu-{number}", 1000 * int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))))
        except nvml.NVMLError as error:
            missing.append(Missing(f"gpu-{number}: {_words(nvml, error)}"))
    return readings, missing


def _words(nvml: ModuleType, error: Exception) -> str:
    if isinstance(error, nvml.NVMLError_NotSupported):
        return "does not count its energy, which GPUs do from Volta on"
    return str(error)
