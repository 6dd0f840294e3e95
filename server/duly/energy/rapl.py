"""RAPL: the counters of energy in processors of Intel and AMD, as Linux shows them in /sys/class/powercap.

Each zone is a folder with `name`, `energy_uj` and `max_energy_range_uj` (Documentation/power/powercap/powercap.rst).
Zones lie in one another: `intel-rapl:0` is a package, and `intel-rapl:0:0` a part of it. Of a package, `core` and
`uncore` are contained in what it says itself, so that they are left out; `dram` is not. `psys` is the whole machine.
`intel-rapl-mmio` shows packages once more, by another way to the same counter.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duly.energy.source import Missing
from duly.energy.totals import PLATFORM, Reading

POWERCAP = Path("/sys/class/powercap")
ZONES_MAX = 512
"""No more zones are read: a machine has a handful for each processor."""
FOLLOWED_NS_MIN = 4_000_000_000
"""A counter that might go round sooner cannot be followed, and is left out. Those of processors take at least 6 s."""
_ZONE = re.compile(r"(intel-rapl|intel-rapl-mmio)((?::\d{1,4}){1,2})", re.ASCII)
_FILE_BYTES_MAX = 64
_ROOT_ALONE = (
    "let the server's user read it, as root and after each start: chmod o+r /sys/class/powercap/intel-rapl*/energy_uj, "
    "or the same in tmpfiles.d; whoever reads it often can learn secrets of other programs from it (CVE-2020-8694)"
)
_MASKED = (
    "the container hides it: let it see /sys/devices/virtual/powercap (docker: --security-opt systempaths=unconfined), "
    "or measure outside of it"
)
_NO_RAPL = Missing(
    "no RAPL: the kernel shows no counters of this processor in {root}",
    "virtual machines have none; elsewhere: modprobe intel_rapl_msr, which is for AMD as well",
)


@dataclass(frozen=True, slots=True)
class _Zone:
    device: str
    folder: Path
    range_microjoules: int


class _Unreadable(Exception):
    """A zone that does not tell: why, and what to do about it."""

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.advice = advice


class Rapl:
    def __init__(self, root: Path = POWERCAP) -> None:
        self._root = root
        self._listed: list[str] = []
        self._zones: list[_Zone] = []
        self._unreadable: dict[str, _Unreadable] = {}
        """Zones that are not read, by the name of their device, or of the zone where that is not known."""

    def read(self) -> tuple[Sequence[Reading], Sequence[Missing]]:
        """Returns the counters of packages, of memory and of the whole machine, and what cannot be read of them."""
        try:
            listed = sorted(filter(_ZONE.fullmatch, os.listdir(self._root)))[:ZONES_MAX]
        except OSError:
            listed = []
        if not listed:
            self._listed, self._zones = [], []
            return [], [Missing(_NO_RAPL.reason.format(root=self._root), _NO_RAPL.advice)]
        if listed != self._listed:
            self._look_at_zones(listed)
        readings, unreadable = [], dict(self._unreadable)
        for zone in self._zones:
            try:
                microjoules = _number(zone.folder / "energy_uj")
            except _Unreadable as error:
                unreadable[zone.device] = error
                self._listed = []  # it may have vanished, or be another one: look again next time
            else:
                readings.append(Reading(zone.device, microjoules, zone.range_microjoules))
        return readings, _together(unreadable)

    def _look_at_zones(self, listed: list[str]) -> None:
        """Finds out which zones are to be read. Those of the processor's registers come before those of its memory."""
        self._listed, self._unreadable = listed, {}
        zones: dict[str, _Zone] = {}
        for entry in sorted(listed, key=lambda entry: ("mmio" in entry, len(entry), entry)):
            device = ""
            try:
                device = self._device(entry)
                if device and device not in zones:
                    zones[device] = self._zone(device, self._root / entry)
            except _Unreadable as error:
                self._listed = []
                self._unreadable[device or entry] = error
        self._zones = list(zones.values())

    def _device(self, entry: str) -> str:
        """Returns what the zone's energy is counted as; empty: it is contained in another's."""
        name = _text(self._root / entry / "name")
        if entry.count(":") == 1:
            return name if name.startswith(("package", PLATFORM)) else ""
        package = _text(self._root / entry.rpartition(":")[0] / "name")
        return f"dram{package.removeprefix('package')}" if name == "dram" and package.startswith("package") else ""

    def _zone(self, device: str, folder: Path) -> _Zone:
        zone = _Zone(device, folder, _number(folder / "max_energy_range_uj"))
        if not zone.range_microjoules:
            raise _Unreadable("it does not say when its counter begins again, so that it cannot be followed")
        if Reading(device, 0, zone.range_microjoules).followed_ns_max < FOLLOWED_NS_MIN:
            raise _Unreadable(
                f"its counter begins again after {zone.range_microjoules / 1e6:g} J, too often to be followed"
            )
        return zone


def _number(file: Path) -> int:
    text = _text(file)
    if not (text.isascii() and text.isdigit()):
        raise _Unreadable(f"{file.name} says {text!r}, should be a number of microjoules")
    return int(text)


def _text(file: Path) -> str:
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read(_FILE_BYTES_MAX).decode("ascii", "replace").strip()
    except PermissionError:
        raise _Unreadable(f"{file.name} may be read by root alone", _ROOT_ALONE) from None
    except FileNotFoundError:
        if not file.parent.exists():  # a link that leads nowhere
            raise _Unreadable("listed, and not there", _MASKED) from None
        raise _Unreadable(f"{file.name} is not there") from None
    except OSError as error:
        raise _Unreadable(f"{file.name}: {error.strerror}") from None


def _together(unreadable: dict[str, _Unreadable]) -> list[Missing]:
    """Zones that do not tell for the same reason are named in one sentence."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, error in unreadable.items():
        alike.setdefault((error.why, error.advice), []).append(name)
    return [Missing(f"{', '.join(names)}: {why}", advice) for (why, advice), names in alike.items()]
