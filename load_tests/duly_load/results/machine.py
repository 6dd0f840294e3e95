"""What a load ran on: without it, its figures say little."""

import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("duly", "grpcio", "protobuf", "onnxruntime", "uvloop", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """The one that this process runs on, which is the generator's."""

    cpu: str
    cores: int
    """The number of cores that this process may use."""
    memory_bytes: int
    hypervisor: bool
    """It is a virtual machine: others may take its cores away, unseen."""
    kernel: str
    python: str
    versions: dict[str, str]
    """The version of each package, or "not installed"."""
    load_average_1m: float
    """The load average of the minute before `look`: how many processes wanted to run."""

    def facts(self) -> list[tuple[str, str]]:
        """The facts for people, as (name, value)."""
        versions = ", ".join(f"{package} {version}" for package, version in self.versions.items())
        kind = "virtual" if self.hypervisor else "physical, as far as it can be seen"
        return [
            ("Generator's machine", kind),
            ("Processor", f"{self.cpu}, {self.cores} core{'' if self.cores == 1 else 's'}"),
            ("Memory", f"{self.memory_bytes / 2**30:.1f} GiB"),
            ("Kernel", self.kernel),
            ("Load before", f"{self.load_average_1m:.2f}"),
            ("Python", self.python),
            ("Packages", versions),
        ]

    def to_json(self) -> dict[str, Any]:
        """The machine as plain data for `json`."""
        return asdict(self)


def look() -> Machine:
    """This machine, now: look before the load, which would be seen in `load_average_1m`."""
    about_cpu = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    return Machine(
        _after(about_cpu, "model name") or platform.machine(),
        len(os.sched_getaffinity(0)),
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "hypervisor" in _after(about_cpu, "flags").split(),
        f"{platform.system()} {platform.release()}",
        platform.python_version(),
        {package: _version(package) for package in PACKAGES},
        os.getloadavg()[0],
    )


def _after(text: str, name: str) -> str:
    """The value of the first line `name : value`; empty: there is none."""
    values = (value for key, _, value in (line.partition(":") for line in text.splitlines()) if key.strip() == name)
    return next(values, "").strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
