"""Looks after the GPUs of lanes, in a thread of its own: it waits for what the driver reports (Xids, ECC errors), and
asks once a second how each does. What it finds out can be had at any moment, and `changed` is called when a lane goes
down or comes back.

Nothing that was so already when it first looked takes a lane down: who serves on a GPU with a page to be retired has
chosen so. What comes about from then on does:

- a fault: an Xid of the device (`xids`), an ECC error of two bits, rows of memory that could not be remapped;
- what keeps the GPU from working, as long as it lasts: it is lost, it requires a reset, or the driver asks for one
  (`condition`).

Where NVML cannot be asked, nothing is known and no lane goes down: after an update of the driver's packages it refuses
all who ask, and CUDA goes on. While all GPUs that it looks after are kept from working it lets go of them, so that
they can be reset, and looks for a moment every so often; while some are, it begins with NVML anew as often, since what
NVML has of a GPU does not outlast its reset. Nothing of this has run on a GPU.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from duly.nvml import condition
from duly.nvml.figures import Figures, figures
from duly.nvml.gpus import Gpu, find_gpu
from duly.nvml.library import Library
from duly.nvml.recovery import Recovery
from duly.nvml.xids import DEVICE, told

LOOK_MS = 1000
"""Time between two looks; what the driver reports is heard at once."""
REST_NS = 10_000_000_000
"""Time between two looks while the GPUs are let go of."""
ASK_SECONDS = 60.0
"""Which GPUs the lanes are on is asked again after so long, where it could not be told."""
EVENTS_MAX = 64
"""So many reports are taken in one look; the rest in the next."""
NOTES_MAX = 64
"""So many notes are kept for the log; older ones are lost."""


class HealthWatch:
    def __init__(
        self,
        devices: Callable[[], Mapping[str, str]],
        library: Library,
        changed: Callable[[], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`devices`: gives the UUIDs of the lanes' GPUs; it is called in the thread, again while it gives none.
        `changed`: called in the thread. `clock`: nanoseconds that never go back.
        """
        self.down: Mapping[str, str] = {}
        """The lanes that are down, and why."""
        self.figures: Mapping[str, Figures] = {}
        """How the GPUs of lanes do that answer, as of the newest look."""
        self.xids: Counter[tuple[str, str]] = Counter()
        """How many Xids were reported of the GPU of a lane, by lane and by what they are of: `device` or `other`."""
        self.notes: deque[str] = deque(maxlen=NOTES_MAX)
        """What is to be logged."""
        self._ask_devices = devices
        self._devices: Mapping[str, str] = {}
        self._library = library
        self._changed = changed
        self._clock = clock
        self._stop = threading.Event()
        self._recovery: dict[str, Recovery] = {}
        self._before: dict[str, condition.Condition] = {}
        """How each lane's GPU was at the look before."""
        self._begun_times = 0
        self._anew_ns = 0
        """When NVML was last begun with anew for a GPU that is kept from working."""
        self._gpus: dict[str, Gpu] = {}
        self._events: Any = None
        self._noted = False
        self._said: dict[str, str] = {}
        """What was noted last of each lane's reports, which need not be noted again."""

    def start(self) -> None:
        """Begins to look, in a thread that ends with the process, or some time after `stop`."""
        threading.Thread(target=self._run, name="health", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                pause_seconds = self.look(LOOK_MS)
            except Exception as error:  # whatever a driver or another release of the package comes up with
                self._note(f"lanes are not looked after for a while: {type(error).__name__}: {error}")
                self._changed()
                pause_seconds = ASK_SECONDS
            self._stop.wait(pause_seconds)

    def look(self, wait_ms: int) -> float:
        """Waits for reports for so long, and looks. Returns after how many seconds to look again."""
        self._library.wake()
        nvml = self._library.begun()
        if not self._devices:
            self._devices = dict(self._ask_devices()) if nvml is not None else {}
            self._recovery = {lane: Recovery() for lane in self._devices}
            if not self._devices:
                return ASK_SECONDS
        faults: dict[str, str] = {}
        blocked: dict[str, str] = {}
        waited = False
        if nvml is not None:
            if self._begun_times != self._library.begun_times:
                self._begin(nvml)
            waited, homeless = self._wait(nvml, wait_ms, faults)
            with self._library.held:  # it is not begun with anew meanwhile by others who ask
                if self._library.begun() is not None:
                    self._ask(nvml, faults, blocked)
            if homeless:
                faults |= {lane: homeless for lane in blocked if lane not in faults}
        self._decide(faults, blocked)
        if nvml is not None and blocked:
            rests = len(blocked) == len(self._devices)
            if rests or self._clock() - self._anew_ns >= REST_NS:
                self._anew_ns = self._clock()
                self._free(nvml)
                self._library.rest("it is let go of, so that the GPU can be reset")
            return REST_NS / 1e9 if rests else LOOK_MS / 1000
        return 0.0 if waited else LOOK_MS / 1000

    def _begin(self, nvml: ModuleType) -> None:
        """Has reports of the lanes' GPUs come from now on. GPUs that do not report are asked all the same."""
        self._begun_times, self._events, self._gpus = self._library.begun_times, None, {}
        registered: set[str] = set()
        wanted = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
        for lane, device in self._devices.items():
            try:
                if self._events is None:
                    self._events = nvml.nvmlEventSetCreate()
                gpu = self._gpus[lane] = find_gpu(nvml, device)
                if gpu.name not in registered:
                    kinds = wanted & int(nvml.nvmlDeviceGetSupportedEventTypes(gpu.device))
                    if not kinds:
                        continue
                    nvml.nvmlDeviceRegisterEvents(gpu.device, kinds, self._events)
                    registered.add(gpu.name)
            except nvml.NVMLError as error:
                note = f"{lane}: its GPU does not report errors: {error}"
                if self._said.get(lane) != note:
                    self._said[lane] = note
                    self._note(note)
        if not registered:
            self._free(nvml)

    def _wait(self, nvml: ModuleType, wait_ms: int, faults: dict[str, str]) -> tuple[bool, str]:
        """Takes what the driver reports. Returns whether there was anything to wait for, and a fault of a GPU that
        does not even say which it is.
        """
        homeless = ""
        if self._events is None:
            return False, ""
        for nth in range(EVENTS_MAX):
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, wait_ms if nth == 0 else 0)
            except nvml.NVMLError_Timeout:
                break
            except nvml.NVMLError:  # a GPU is lost, or NVML is gone: asking will tell
                self._free(nvml)
                self._begun_times = 0
                return False, homeless
            is_xid = event.eventType == nvml.nvmlEventTypeXidCriticalError
            fault = int(event.eventData) in DEVICE if is_xid else True
            words = told(int(event.eventData)) if is_xid else "ECC error of two bits"
            try:
                name = f"gpu-{int(nvml.nvmlDeviceGetIndex(event.device))}"
            except nvml.NVMLError:
                homeless = homeless or (words if fault else "")
                continue
            for lane, gpu in self._gpus.items():
                if gpu.name == name and gpu.concerns(event.gpuInstanceId, event.computeInstanceId):
                    self._note(f"{lane}: {words}")
                    if is_xid:
                        self.xids[lane, "device" if fault else "other"] += 1
                    if fault:
                        faults.setdefault(lane, words)
        return True, homeless

    def _ask(self, nvml: ModuleType, faults: dict[str, str], blocked: dict[str, str]) -> None:
        """Asks each GPU how it does."""
        found = {}
        for lane, device in self._devices.items():
            try:
                gpu = self._gpus.get(lane) or find_gpu(nvml, device)
                now = condition.of(nvml, gpu)
                found[lane] = figures(nvml, gpu)
            except nvml.NVMLError as error:
                lost = condition.after(nvml, error)
                if lost is None:
                    self._free(nvml)
                    self._library.give_up(str(error))
                    return
                now = lost
            before = self._before.get(lane)
            if now.blocked:
                blocked[lane] = now.blocked
            elif fault := now.worse_than(before):
                faults.setdefault(lane, fault)
            if now.to_be_reset and not (before and before.to_be_reset):
                self._note(f"{lane}: {now.to_be_reset}")
            self._before[lane] = now
        self.figures = found

    def _decide(self, faults: Mapping[str, str], blocked: Mapping[str, str]) -> None:
        now_ns = self._clock()
        for lane, recovery in self._recovery.items():
            recovery.look(now_ns, faults.get(lane, ""), blocked.get(lane, ""))
        down = {lane: recovery.down for lane, recovery in self._recovery.items() if recovery.down}
        if down != self.down or self._noted:
            self.down, self._noted = down, False
            self._changed()

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self._noted = True

    def _free(self, nvml: ModuleType) -> None:
        events, self._events = self._events, None
        if events is not None:
            try:
                nvml.nvmlEventSetFree(events)
            except nvml.NVMLError:
                return  # it has gone with NVML
