"""What the system shows of accelerators, by its files and by nvidia-smi. Nothing is loaded or opened.

`root` is where a file system begins, which tests lay out for themselves.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
NVIDIA, AMD, INTEL = "0x10de", "0x1002", "0x8086"
"""Vendors by their numbers on the PCI bus."""
_DISPLAY = ("0x0300", "0x0302", "0x0380")
"""Beginnings of the PCI classes of GPUs."""
_SMI_SECONDS_MAX = 10.0


class Node(NamedTuple):
    """A device of the kernel's, as a driver shows it."""

    name: str
    """As `renderD128` or `accel0`."""
    vendor: str
    """Its number on the PCI bus, as `0x8086`; empty: it is not on one."""
    driver: str
    """Of the kernel, as `i915`, `xe`, `amdgpu`, `intel_vpu`; empty: unknown."""


def nvidia_gpus() -> list[str]:
    """Returns the GPUs of NVIDIA that work, as nvidia-smi names them: `GPU 0: NVIDIA H200`."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SMI_SECONDS_MAX, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.split(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU ")]


def render_nodes(root: Path = ROOT) -> list[Node]:
    """Returns the GPUs that the kernel drives, of all vendors but NVIDIA's own driver."""
    return _nodes((root / "sys/class/drm").glob("renderD*"))


def accel_nodes(root: Path = ROOT) -> list[Node]:
    """Returns the NPUs that the kernel drives."""
    return _nodes((root / "sys/class/accel").glob("accel*"))


def pci_gpus(vendor: str, root: Path = ROOT) -> int:
    """Returns how many GPUs of a vendor are on the PCI bus, whether or not anything drives them."""
    devices = (root / "sys/bus/pci/devices").glob("*")
    return sum(_text(each / "vendor") == vendor and _text(each / "class").startswith(_DISPLAY) for each in devices)


def _nodes(folders: Iterable[Path]) -> list[Node]:
    return [
        Node(folder.name, _text(folder / "device/vendor"), _driver(folder / "device/driver"))
        for folder in sorted(folders)
    ]


def _driver(link: Path) -> str:
    try:
        return link.readlink().name
    except OSError:
        return ""


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
