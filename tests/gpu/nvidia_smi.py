"""What NVIDIA's own tool says of GPUs, of which only what is alike on all machines of a kind is taken: no serial
numbers, no identifiers, no processes. It has not run on a GPU yet.
"""

import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping

DRIVER_MIN = 580
"""The first driver for CUDA 13."""
SECONDS_MAX = 20.0
XML_BYTES_MAX = 16 << 20

FACTS: Mapping[str, str] = {
    "name": "product_name",
    "architecture": "product_architecture",
    "memory": "fb_memory_usage/total",
    "ECC": "ecc_mode/current_ecc",
    "MIG": "mig_mode/current_mig",
    "persistence mode": "persistence_mode",
    "compute mode": "compute_mode",
    "virtualization": "gpu_virtualization_mode/virtualization_mode",
    "PCIe generation": "pci/pci_gpu_link_info/pcie_gen/max_link_gen",
    "PCIe width": "pci/pci_gpu_link_info/link_widths/max_link_width",
    "SM clock, most": "max_clocks/sm_clock",
    "memory clock, most": "max_clocks/mem_clock",
    "power limit": "gpu_power_readings/current_power_limit",
}
"""What a GPU is, by where `nvidia-smi -q -x` has it."""
STATES: Mapping[str, str] = {
    "SM clock": "clocks/sm_clock",
    "memory clock": "clocks/mem_clock",
    "temperature": "temperature/gpu_temp",
    "memory used": "fb_memory_usage/used",
    "utilization": "utilization/gpu_util",
}
"""What it is like at the moment."""


class NoGpu(Exception):
    """There is no GPU of NVIDIA that works. The message says what is missing."""


def listed() -> list[str]:
    """Returns the names of the GPUs. Raises NoGpu where there is none, or the tool or its driver is not there."""
    text = _asked("-L")
    names = [line.partition(": ")[2].partition(" (UUID")[0] for line in text.splitlines() if line.startswith("GPU ")]
    if not names:
        raise NoGpu(f"nvidia-smi lists no GPU: {text.strip()[:200] or 'it says nothing'}")
    return names


def driver() -> dict[str, str]:
    """Returns the versions of the driver, and of the newest CUDA that it can do. Raises NoGpu."""
    said = _parsed()
    return {
        name: said.findtext(tag, "").strip() for name, tag in (("driver", "driver_version"), ("CUDA", "cuda_version"))
    }


def known(ask: Callable[..., dict[str, str]], *arguments: int) -> dict[str, str]:
    """Returns what `ask` gives, or why it gives nothing: a GPU that runs models is measured, whatever the tool says."""
    try:
        return ask(*arguments)
    except NoGpu as error:
        return {"not known": str(error)}


def check_driver() -> None:
    """Raises NoGpu where the driver is known to be too old for CUDA 13."""
    version = known(driver).get("driver", "")
    if version.partition(".")[0].isdigit() and int(version.partition(".")[0]) < DRIVER_MIN:
        raise NoGpu(f"NVIDIA's driver is {version}, and CUDA 13 needs {DRIVER_MIN} or newer")


def facts(index: int) -> dict[str, str]:
    """Returns what the GPU with that number is. What the tool does not say is left out. Raises NoGpu."""
    return _of(index, FACTS)


def state(index: int) -> dict[str, str]:
    """Returns what it is like now, and why its clocks are lowered. Raises NoGpu."""
    gpu = _gpu(index)
    said = _told(gpu, STATES)
    # "throttle" is what older drivers call it.
    reasons = [
        each.tag.removeprefix("clocks_event_reason_").removeprefix("clocks_throttle_reason_")
        for name in ("clocks_event_reasons", "clocks_throttle_reasons")
        for each in gpu.iterfind(f"{name}/*")
        if (each.text or "").strip() == "Active"
    ]
    return said | ({"clocks lowered by": ", ".join(reasons)} if reasons else {})


def _of(index: int, places: Mapping[str, str]) -> dict[str, str]:
    return _told(_gpu(index), places)


def _told(gpu: ElementTree.Element, places: Mapping[str, str]) -> dict[str, str]:
    found = {name: gpu.findtext(place, "").strip() for name, place in places.items()}
    return {name: value for name, value in found.items() if value and value != "N/A"}


def _gpu(index: int) -> ElementTree.Element:
    gpus = _parsed().findall("gpu")
    if index >= len(gpus):
        raise NoGpu(f"nvidia-smi knows {len(gpus)} GPUs, counted from 0, and none of number {index}")
    return gpus[index]


def _parsed() -> ElementTree.Element:
    text = _asked("-q", "-x")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise NoGpu(f"nvidia-smi -q -x gives no XML: {error}") from None


def _asked(*options: str) -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", *options], capture_output=True, text=True, errors="replace", timeout=SECONDS_MAX, check=False
        )
    except FileNotFoundError:
        raise NoGpu(f"nvidia-smi is not there: it comes with NVIDIA's driver, {DRIVER_MIN} or newer") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoGpu(f"nvidia-smi does not answer: {type(error).__name__}") from None
    if done.returncode:
        raise NoGpu(f"nvidia-smi ends with status {done.returncode}: {(done.stdout + done.stderr).strip()[:200]}")
    return done.stdout[:XML_BYTES_MAX]
