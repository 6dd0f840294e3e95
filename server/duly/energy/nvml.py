"""NVML: the counters of energy in NVIDIA's GPUs, through the module `pynvml` of the package nvidia-ml-py.

A GPU counts since its driver was loaded, in millijoules, in steps of up to a tenth of a second; GPUs older than Volta
do not count. MIG's parts have no counters of their own: the whole GPU's counts. GPUs have NVML's numbers, which are
those of nvidia-smi, whatever CUDA_VISIBLE_DEVICES says.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from duly.energy.source import Missing
from duly.energy.totals import Reading

GPUS_MAX = 64
"""No more GPUs are read."""
TRIED_AGAIN_READS = 60
"""After so many reads a library that could not be begun with is tried again."""
_DRIVER = Path("/proc/driver/nvidia/version")


class Nvml:
    def __init__(self, module: str = "pynvml", driver: Path = _DRIVER) -> None:
        """`driver`: a file that is there where NVIDIA's driver is loaded."""
        self._module = module
        self._driver = driver
        self._nvml: ModuleType | None = None
        self._why_not: list[Missing] = []
        self._wait_reads = 0

    def read(self) -> tuple[Sequence[Reading], Sequence[Missing]]:
        """Returns the counters of all GPUs, and what cannot be read of them; neither where there is no driver."""
        nvml = self._begun()
        if nvml is None:
            return [], self._why_not
        readings: list[Reading] = []
        missing: list[Missing] = []
        try:
            count = min(int(nvml.nvmlDeviceGetCount()), GPUS_MAX)
        except nvml.NVMLError as error:
            self._give_up(nvml, f"NVML: {error}")
            return [], self._why_not
        for number in range(count):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                readings.append(Reading(f"gpu-{number}", 1000 * int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))))
            except nvml.NVMLError as error:
                missing.append(Missing(f"gpu-{number}: {_words(nvml, error)}"))
        return readings, missing

    def _begun(self) -> ModuleType | None:
        """Returns NVML, ready to be asked; None: it cannot be, for the reason in `_why_not`."""
        if self._nvml is not None:
            return self._nvml
        if self._wait_reads > 0:
            self._wait_reads -= 1
            return None
        if not self._driver.exists():
            self._why_not = []  # no GPU is missed
            return None
        self._wait_reads = TRIED_AGAIN_READS
        try:
            nvml = importlib.import_module(self._module)
        except Exception as error:  # whatever a package does as it is imported
            text = f"NVML: the module {self._module} cannot be imported: {type(error).__name__}"
            self._why_not = [Missing(text, "pip install nvidia-ml-py")]
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self._why_not = [Missing(f"NVML: {error}", "nvidia-smi should work as the server's user")]
            return None
        self._nvml, self._why_not, self._wait_reads = nvml, [], 0
        return nvml

    def _give_up(self, nvml: ModuleType, reason: str) -> None:
        """The driver is gone or was exchanged: begin anew, a while later."""
        self._nvml, self._wait_reads = None, TRIED_AGAIN_READS
        self._why_not = [Missing(reason, "nvidia-smi should work as the server's user")]
        try:
            nvml.nvmlShutdown()
        except nvml.NVMLError:
            return  # it was not begun with any more


def _words(nvml: ModuleType, error: Exception) -> str:
    if isinstance(error, nvml.NVMLError_NotSupported):
        return "does not count its energy, which GPUs do from Volta on"
    return str(error)
