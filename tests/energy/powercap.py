"""Folders of /sys/class/powercap as the kernel makes them: a flat folder of links, and zones nested in one another."""

from pathlib import Path

RANGE_UJ = 262_143_328_850
"""2^32 units of 61 µJ, which is what most processors of Intel have."""
DRAM_RANGE_UJ = 65_712_999_613
"""2^32 units of 15.3 µJ, the memory of servers."""


class Powercap:
    """A class folder with zones that can be counted on, hidden and taken away."""

    def __init__(self, root: Path) -> None:
        self.classes = root / "sys/class/powercap"
        self._devices = root / "sys/devices/virtual/powercap"
        self.classes.mkdir(parents=True)

    def control_type(self, name: str) -> None:
        """A control type: a folder that is listed among the zones."""
        (self._devices / name).mkdir(parents=True)
        (self._devices / name / "enabled").write_text("1\n")
        self._link(name, self._devices / name)

    def zone(self, entry: str, name: str, energy_uj: int, range_uj: int = RANGE_UJ) -> None:
        """A zone such as `intel-rapl:0:2`, in the folder of the zone that it is part of."""
        folder = self.folder(entry)
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "enabled").write_text("0\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        (folder / "energy_uj").chmod(0o400)
        self._link(entry, folder)

    def folder(self, entry: str) -> Path:
        """Where a zone lies."""
        kind, *numbers = entry.split(":")
        folder = self._devices / kind
        for depth in range(len(numbers)):
            folder /= ":".join([kind, *numbers[: depth + 1]])
        return folder

    def count(self, entry: str, energy_uj: int) -> None:
        """Sets a zone's counter, at once for whoever reads it meanwhile."""
        file = self.folder(entry) / "energy_uj"
        new = file.with_name("new")
        new.write_text(f"{energy_uj}\n")
        new.chmod(0o400)
        new.replace(file)

    def take_away(self, entry: str) -> None:
        """Takes a zone away, and all that lie in it, as where the last core of a processor is switched off."""
        folder = self.folder(entry)
        for link in self.classes.iterdir():
            if folder in (link.resolve(), *link.resolve().parents):
                link.unlink()
        _remove(folder)

    def mask(self) -> None:
        """Hides the devices and leaves the links, as container runtimes do."""
        _remove(self._devices)
        self._devices.mkdir()

    def _link(self, name: str, folder: Path) -> None:
        target = Path("../../devices/virtual/powercap") / folder.relative_to(self._devices)
        (self.classes / name).symlink_to(target)


def _remove(folder: Path) -> None:
    for each in folder.iterdir():
        _remove(each) if each.is_dir() else each.unlink()
    folder.rmdir()


def server_of_two_sockets(root: Path) -> Powercap:
    """Two packages with memory and cores, and the whole machine; as Xeons show it."""
    powercap = Powercap(root)
    powercap.control_type("intel-rapl")
    powercap.control_type("dtpm")
    for socket in (0, 1):
        powercap.zone(f"intel-rapl:{socket}", f"package-{socket}", 1_000_000 * (socket + 1))
        powercap.zone(f"intel-rapl:{socket}:0", "dram", 500_000, DRAM_RANGE_UJ)
        powercap.zone(f"intel-rapl:{socket}:1", "core", 900_000)
        powercap.zone(f"intel-rapl:{socket}:2", "uncore", 20_000)
    powercap.zone("intel-rapl:2", "psys", 9_000_000)
    return powercap
