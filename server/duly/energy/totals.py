"""Counters of energy, added up over looks at them: they begin again at 0, are set back, vanish and come again.

Time is an argument, and nothing is read here.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

DEVICE_WATTS_MAX = 10_000
"""No device takes more. A counter that says more has been set back or exchanged, and a counter that could have gone
round between two looks at this power is not trusted."""
STEP_NS_MAX = 1_000_000_000
"""Counters move in steps, those of GPUs in up to a tenth of a second: what one look finds may be of so long before."""
PLATFORM = "psys"
"""Devices whose names begin so are the whole machine, in which all others are contained."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One counter as it is now."""

    device: str
    """Such as `package-0`, `dram-0`, `psys`, `gpu-0`."""
    microjoules: int
    range_microjoules: int = 0
    """The greatest value, after which the counter begins again at 0; 0: it never does."""

    @property
    def followed_ns_max(self) -> float:
        """How long there may be between two looks, so that the counter has not gone round unseen."""
        return self.range_microjoules * 1000 / DEVICE_WATTS_MAX if self.range_microjoules else math.inf


class Totals:
    """What each device took since it was first seen."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._looked_ns = 0
        self._microjoules: dict[str, int] = {}
        self.gaps = 0
        """How often there was so long between two looks that a counter may have gone round unseen: from there on, the
        totals are the least that was taken."""

    def take(self, readings: Iterable[Reading], now_ns: int) -> None:
        """Adds what was taken since the look before. A device that is missing begins anew when it is there again."""
        since_ns, self._looked_ns = now_ns - self._looked_ns, now_ns
        before, self._last = self._last, {}
        gap = False
        for reading in readings:
            device = reading.device
            self._last[device] = reading.microjoules
            self._microjoules.setdefault(device, 0)
            if device in before:
                self._microjoules[device] += _taken(before[device], reading, since_ns)
                gap = gap or since_ns > reading.followed_ns_max
        self.gaps += gap

    def there(self) -> set[str]:
        """Returns the devices that could be read at the newest look."""
        return set(self._last)

    def joules(self) -> dict[str, float]:
        """Returns what each device took, the ones that have vanished among them."""
        return {device: microjoules / 1e6 for device, microjoules in self._microjoules.items()}


def _taken(before: int, reading: Reading, since_ns: int) -> int:
    """Returns how many microjoules a counter has counted since it said `before`."""
    most = DEVICE_WATTS_MAX * (since_ns + STEP_NS_MAX) // 1000
    taken = reading.microjoules - before
    if taken < 0 and reading.range_microjoules:  # it has begun again
        taken += reading.range_microjoules
    if 0 <= taken <= most:
        return taken
    return reading.microjoules if reading.microjoules <= most else 0  # it was set back to 0; or it is another counter


def counted(devices: Collection[str]) -> list[str]:
    """Returns the devices that together are all, none contained in another: the whole machine counts only where no
    processor tells what it takes.
    """
    parts = [device for device in devices if not device.startswith(PLATFORM)]
    if any(device.startswith("package") for device in parts) or len(parts) == len(devices):
        return parts
    return [device for device in devices if device.startswith(PLATFORM)]
