"""All counters of energy of this machine, looked at once a second in a thread of its own.

A thread, because a counter is read where it counts: reading one interrupts a core of that processor, which is a matter
of microseconds until that core is busy with something that cannot be interrupted, and a GPU's driver may take its time.
Nobody waits for it: what it found last can be had at any moment.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from duly.energy.nvml import Nvml
from duly.energy.rapl import Rapl
from duly.energy.source import Missing, Source
from duly.energy.totals import Totals
from duly.nvml.library import Library

LOOK_SECONDS = 1.0
"""Time between two looks: much less than any counter takes to go round, and seldom enough to cost nothing and to tell
nobody secrets (CVE-2020-8694 needs thousands of looks a second)."""
LOOK_SECONDS_NOTHING = 60.0
"""Time between two looks where there was nothing to be read: a driver may be loaded, or a right given, later on."""


def sources(library: Library | None = None) -> tuple[Source, ...]:
    """Returns what energy is read from on this machine. `library`: NVML, where others ask it, too."""
    return Rapl(), Nvml(library)


class EnergyWatch:
    def __init__(self, read: Sequence[Source] | None = None, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`read`: in place of this machine's `sources`. `clock`: nanoseconds that never go back."""
        self._sources = sources() if read is None else read
        self._clock = clock
        self._totals = Totals()
        self._one_looks = threading.Lock()
        self._stop = threading.Event()
        self.joules: Mapping[str, float] = {}
        """What each device took since the first look, as of the newest."""
        self.looked_ns = 0
        """When the newest look was, on the clock."""
        self.missing: Sequence[Missing] = ()
        """What could not be read at the newest look."""

    @property
    def gaps(self) -> int:
        """See `Totals.gaps`."""
        return self._totals.gaps

    @property
    def vanished(self) -> set[str]:
        """The devices that could be read once, and not at the newest look."""
        return self.joules.keys() - self._totals.there()

    def start(self) -> None:
        """Begins to look, in a thread that ends with the process, or some time after `stop`."""
        threading.Thread(target=self._run, name="energy", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def look(self) -> None:
        """Looks now. It may block."""
        with self._one_looks:
            found = [source.read() for source in self._sources]
            self.looked_ns = self._clock()
            self._totals.take((reading for readings, _ in found for reading in readings), self.looked_ns)
            self.joules = self._totals.joules()
            self.missing = [each for _, missing in found for each in missing]

    def _run(self) -> None:
        self.look()
        while not self._stop.wait(LOOK_SECONDS if self.joules else LOOK_SECONDS_NOTHING):
            self.look()
