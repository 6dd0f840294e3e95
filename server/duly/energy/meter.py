"""Joules between two points of a program.

    with Meter() as meter:
        frames = work()
    meter.energy.a_frame(frames)  # None, and meter.energy.why_not says why

It is what the devices took in that time, for whatever they did: others' work on the machine counts, and so does idling.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from duly.energy.source import Source
from duly.energy.totals import counted
from duly.energy.watch import EnergyWatch

SECONDS_MIN = 0.5
"""Counters move in steps of up to a tenth of a second, so that what is shorter cannot be measured by them."""


@dataclass(frozen=True, slots=True)
class Energy:
    """What was taken in some time."""

    by_device: Mapping[str, float]
    """Joules of each device that can be read: `package-0`, `dram-0`, `gpu-0`, and `psys`, which contains the others."""
    joules: float | None
    """Joules of all together, nothing counted twice; None: they are not known."""
    seconds: float
    why_not: str = ""
    """Why joules are not known; where they are, what is not among them and why. Empty: nothing is missing."""

    def a_frame(self, frames: int) -> float | None:
        """Returns joules for each of `frames`; None: they are not known, or there was no frame."""
        return self.joules / frames if self.joules is not None and frames > 0 else None

    def words(self, frames: int) -> str:
        """Returns joules for each of `frames` in words, with the devices that took them, or why they are not known."""
        each = self.a_frame(frames)
        if each is None:
            return f"not available: {self.why_not or 'there was no frame'}"
        missing = f"; without {self.why_not}" if self.why_not else ""
        return f"{each:.3g} J a frame, {self.joules:.3g} J in {self.seconds:.3g} s, of {self.devices}{missing}"

    @property
    def devices(self) -> str:
        """The devices whose joules are counted."""
        return ", ".join(sorted(counted(self.by_device)))


class Meter:
    """Measures from the beginning of a `with` to its end; it may be used once."""

    def __init__(self, read: Sequence[Source] | None = None, clock: Callable[[], int] | None = None) -> None:
        """`read`: in place of this machine's own. `clock`: nanoseconds that never go back."""
        self._watch = EnergyWatch(read) if clock is None else EnergyWatch(read, clock)
        self._began_ns = 0
        self.energy = Energy({}, None, 0.0, "the measurement has not ended yet")
        """What was taken; it is there after the end."""

    def __enter__(self) -> Self:
        self._watch.look()
        self._began_ns = self._watch.looked_ns
        self._watch.start()  # no counter goes round unseen, however long it takes
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.stop()
        self._watch.look()
        by_device, seconds = dict(self._watch.joules), (self._watch.looked_ns - self._began_ns) / 1e9
        why_not = "; ".join(each.reason for each in self._watch.missing)
        joules = sum(by_device[device] for device in counted(by_device)) if by_device else None
        if joules is not None and seconds < SECONDS_MIN:
            joules, why_not = None, f"it took {seconds:.3g} s, less than the {SECONDS_MIN:g} s that counters can tell"
        elif joules is not None and self._watch.vanished:
            joules, why_not = None, f"{', '.join(sorted(self._watch.vanished))} vanished meanwhile"
        elif joules is not None and self._watch.gaps:
            joules, why_not = None, "the machine was paused, in which time a counter may have gone round"
        self.energy = Energy(by_device, joules, seconds, why_not or ("" if joules is not None else "nothing to read"))
