"""NVML, begun with once for all who ask in this process, begun with anew where it had gone, and let go of where that
is wanted.

A process that has begun with NVML holds the GPUs, and `nvidia-smi --gpu-reset` refuses to reset a GPU that is held. So
NVML can `rest`: it is shut down, and nobody who asks gets it until it is to `wake`.
"""

import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

TRIED_AGAIN_NS = 60_000_000_000
"""A library that could not be begun with is tried again after so long."""
_DRIVER = Path("/proc/driver/nvidia/version")
_SHOULD_WORK = "nvidia-smi should work as the server's user"


class Library:
    def __init__(
        self, module: str = "pynvml", driver: Path = _DRIVER, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """`driver`: a file that is there where NVIDIA's driver is loaded. `clock`: nanoseconds that never go back."""
        self.held = threading.RLock()
        """To be held by who asks NVML something that is soon answered, so that it is not shut down meanwhile."""
        self.why_not = ""
        """Why NVML cannot be asked; empty: it can be, or there is no driver, so that nothing is missed."""
        self.advice = ""
        """What to do about that; empty: nothing."""
        self.begun_times = 0
        """How often NVML was begun with: handles of GPUs are good for one such time."""
        self._module = module
        self._driver = driver
        self._clock = clock
        self._nvml: ModuleType | None = None
        self._again_ns = 0
        """When to try next."""
        self._rests = False

    def begun(self) -> ModuleType | None:
        """Returns NVML, ready to be asked; None: it cannot be, for the reason in `why_not`."""
        with self.held:
            if self._nvml is not None or self._rests:
                return self._nvml
            if self._again_ns > self._clock():
                return None
            if not self._driver.exists():
                self.why_not = self.advice = ""  # no GPU is missed
                return None
            self._again_ns = self._clock() + TRIED_AGAIN_NS
            try:
                nvml = importlib.import_module(self._module)
            except Exception as error:  # whatever a package does as it is imported
                self.why_not = f"NVML: the module {self._module} cannot be imported: {type(error).__name__}"
                self.advice = "pip install nvidia-ml-py"
                return None
            try:
                nvml.nvmlInit()
            except nvml.NVMLError as error:
                self.why_not, self.advice = f"NVML: {error}", _SHOULD_WORK
                return None
            self._nvml, self._again_ns = nvml, 0
            self.begun_times += 1
            self.why_not = self.advice = ""
            return nvml

    def give_up(self, reason: str) -> None:
        """The driver is gone or was exchanged: begin anew, a while later."""
        with self.held:
            self._shut_down()
            self._again_ns = self._clock() + TRIED_AGAIN_NS
            self.why_not, self.advice = f"NVML: {reason}", _SHOULD_WORK

    def rest(self, why: str) -> None:
        """Lets go of all GPUs, until `wake`."""
        with self.held:
            self._shut_down()
            self._rests = True
            self.why_not, self.advice = f"NVML: {why}", ""

    def wake(self) -> None:
        """Ends a rest: NVML may be begun with again, at once."""
        with self.held:
            if self._rests:
                self._rests, self._again_ns = False, 0

    def _shut_down(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                return  # it was not begun with any more
