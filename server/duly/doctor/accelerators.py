"""Which execution provider truly runs here: what is installed, which devices are seen, and for each that does not run,
what is missing: a driver, a library, or a package.

Devices are looked for by the system's own means (`hardware`, `vulkan_devices`) and by what ONNX Runtime and its plugins
find themselves (`worker/found`). Whether a provider runs is tried, in a worker (`tried_lane`).
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from duly.accelerators import ACCELERATORS, CPU, CUDA, OPENVINO, QNN, WEBGPU, Accelerator, how_to_install, of_lane
from duly.cpus import usable_cpus
from duly.default_lanes import default_lanes
from duly.doctor.finding import Finding, Level, ProviderFinding
from duly.doctor.tried_lane import Tried, try_lanes
from duly.hardware import AMD, INTEL, NVIDIA, ROOT, accel_nodes, nvidia_gpus, pci_gpus, render_nodes
from duly.models.trust import Trust
from duly.nvml import condition
from duly.nvml.figures import Figures, figures
from duly.nvml.gpus import whole_gpu
from duly.nvml.library import Library
from duly.runtime.worker_command import worker_environment
from duly.worker.providers import ASK_THE_DOCTOR

SUBJECT = "provider"
LANES_MAX = 16
"""No more lanes are tried."""
_SECONDS_MAX = 60.0
_LIBRARIES = (
    ("libcuda.", "NVIDIA's driver, which no package of Python brings"),
    ("libnvidia-", "NVIDIA's driver, which no package of Python brings"),
    ("libnvinfer", "pip install 'tensorrt-cu13-libs<11'"),
    ("libnvonnxparser", "pip install 'tensorrt-cu13-libs<11'"),
    ("libcu", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    ("libnv", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    ("libvulkan.", "apt install libvulkan1"),
    ("libamdhip", "ROCm with MIGraphX"),
    ("libmigraphx", "ROCm with MIGraphX"),
)
"""What brings a library, by how its name begins."""


class Installed(NamedTuple):
    """What ONNX Runtime and its plugins say."""

    providers: Sequence[str]
    devices: Mapping[str, Sequence[str]]
    libraries: Mapping[str, Sequence[str]]
    problems: Mapping[str, str]


def examine_providers(lanes: Sequence[str], trust: Trust) -> list[Finding]:
    """Returns a finding for each provider, and for each lane that is served. `lanes`: those of the settings; none:
    those that there are where nobody sets them. It takes some seconds for each lane that is tried.
    """
    there = _installed()
    if there is None:
        text = (
            "ONNX Runtime cannot be asked what it has: that process crashed, hung or failed; a driver may be at fault"
        )
        return [Finding(SUBJECT, Level.WARNING, text, f"{sys.executable} -P -m duly.worker.found shows how")]
    served = tuple(lanes) or default_lanes()
    rows = [(row, lane) for row in ACCELERATORS for lane in _lanes_of(row, served)][:LANES_MAX]
    ready = [(row, lane) for row, lane in rows if row.provider in there.providers]
    tried = try_lanes([(lane, row.provider) for row, lane in ready], trust)
    result = {(row.provider, lane): each for (row, lane), each in zip(ready, tried, strict=True)}
    return [_finding(row, lane, there, result.get((row.provider, lane)), lane in served) for row, lane in rows]


def _lanes_of(row: Accelerator, served: Sequence[str]) -> list[str]:
    """Returns the lanes on which a provider is looked at: those that are served, or its first."""
    return [lane for lane in served if of_lane(lane).kind == row.kind] or [f"{row.kind}:{row.first}"]


def _finding(row: Accelerator, lane: str, there: Installed, tried: Tried | None, served: bool) -> Finding:
    installed, seen = _distribution(row), _seen(row)
    devices = "; ".join(there.devices.get(row.provider) or seen)
    own = of_lane(lane) is row
    if tried is not None and not tried.problem:
        found, level, advice = f"{row.provider} runs on {lane}", Level.OK, ""
    elif tried is None:
        found = f"{row.provider} is not installed" + ("" if seen else ", and no device is seen")
        unused = bool(seen) and row.kind == "cuda" and own
        level, advice = Level.WARNING if unused else Level.OK, _install(row, seen)
    else:
        lacking = there.libraries.get(row.provider, ())
        what = f"{', '.join(lacking)} cannot be loaded" if lacking else there.problems.get(row.provider, tried.problem)
        found = f"{row.provider} does not run on {lane}: {what}"
        level = Level.WARNING if own else Level.OK
        found = found.replace(f": {row.provider}: ", ": ", 1).removesuffix(ASK_THE_DOCTOR)
        advice = _libraries(row, lacking) if lacking else _driver(row, installed, seen)
    if served and own and (tried is None or tried.problem):
        level = Level.PROBLEM
    runs = tried is not None and not tried.problem
    return ProviderFinding(SUBJECT, level, found, advice, row.provider, installed, devices, lane, runs)


def examine_gpus(library: Library) -> list[Finding]:
    """Returns a finding for each GPU of NVIDIA: how it does, and what of it has failed."""
    nvml = library.begun()
    if nvml is None:
        if not library.why_not:
            return []
        return [Finding("GPU", Level.WARNING, f"lanes are not looked after: {library.why_not}", library.advice)]
    found = []
    try:
        for number in range(int(nvml.nvmlDeviceGetCount())):
            try:
                gpu = whole_gpu(nvml, number)
                now = condition.of(nvml, gpu)
                said = figures(nvml, gpu)
            except nvml.NVMLError as error:
                lost = condition.after(nvml, error)
                if lost is None:
                    raise
                found.append(_of_gpu(f"gpu-{number}", lost, ""))
            else:
                found.append(_of_gpu(gpu.name, now, _does(said)))
    except nvml.NVMLError as error:
        found.append(Finding("GPU", Level.WARNING, f"NVML: {error}", "nvidia-smi should work as the server's user"))
    library.give_up("it was looked at")
    return found


def _does(said: Figures) -> str:
    memory = "its memory is not told"
    if said.used_bytes is not None and said.total_bytes is not None:
        memory = f"{said.used_bytes / 1e9:.1f} of {said.total_bytes / 1e9:.1f} GB taken"
    return memory if said.celsius is None else f"{memory}, {said.celsius} °C"


def _of_gpu(name: str, now: condition.Condition, does: str) -> Finding:
    reset = "nvidia-smi --gpu-reset, when nothing holds it"
    if now.blocked:
        return Finding("GPU", Level.WARNING, f"{name}: {now.blocked}", reset)
    if now.rows_failed:
        return Finding("GPU", Level.WARNING, f"{name}: a row of its memory could not be remapped", "exchange it")
    if now.to_be_reset:
        return Finding("GPU", Level.WARNING, f"{name}: {now.to_be_reset}", reset)
    return Finding("GPU", Level.OK, f"{name}: well; {does}")


# ---- what is installed ----


def _installed() -> Installed | None:
    """Asks ONNX Runtime, in a process of its own; None: it cannot be asked."""
    output = _output([sys.executable, "-P", "-m", "duly.worker.found"])
    try:
        said: dict[str, Any] = json.loads(output.splitlines()[-1]) if output else {}
    except ValueError:
        return None
    if not said:
        return None
    return Installed(said["providers"], said["devices"], said["libraries"], said["problems"])


def _distribution(row: Accelerator) -> str:
    own = [row.wheel, row.plugin]
    if row.provider == CPU:  # each has it
        own += [each.wheel for each in ACCELERATORS]
    for name in filter(None, own):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _output(command: Sequence[str]) -> str:
    """Returns what a command prints; nothing where it fails or takes too long."""
    environ = worker_environment(os.environ)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS_MAX, stdin=subprocess.DEVNULL, env=environ
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# ---- which devices the system shows ----


def _seen(row: Accelerator) -> list[str]:
    """Returns what is seen of a row's devices without its provider; none: nothing is."""
    return _LOOKS.get(row.provider, _LOOKS.get(row.kind, lambda: []))()


def _nvidia() -> list[str]:
    return nvidia_gpus() or (["a GPU without a driver that works"] if pci_gpus(NVIDIA) else [])


def _intel() -> list[str]:
    nodes = [node for node in render_nodes() if node.vendor == INTEL]
    npus = [node for node in accel_nodes() if node.driver == "intel_vpu"]
    processor = ["CPU"] if platform.machine() == "x86_64" else []
    return [*processor, *(f"GPU {node.name}" for node in nodes), *(f"NPU {node.name}" for node in npus)]


def _vulkan() -> list[str]:
    return _output([sys.executable, "-P", "-m", "duly.vulkan_devices"]).splitlines()


def _amd() -> list[str]:
    gpus = [node.name for node in render_nodes() if node.vendor == AMD]
    return gpus if (ROOT / "dev/kfd").exists() else [f"{name}, and no /dev/kfd" for name in gpus]


def _qualcomm() -> list[str]:
    return [str(node) for node in sorted((ROOT / "dev").glob("fastrpc-cdsp*"))]


def _xdna() -> list[str]:
    return [f"NPU {node.name}" for node in accel_nodes() if node.driver == "amdxdna"]


_LOOKS: Mapping[str, Callable[[], list[str]]] = {
    CPU: lambda: [f"{usable_cpus()} processors"],
    "cuda": _nvidia,
    "tensorrt-rtx": _nvidia,
    OPENVINO: _intel,
    WEBGPU: _vulkan,
    "migraphx": _amd,
    QNN: _qualcomm,
    "vitisai": _xdna,
}
"""What looks for devices, by the provider or by the kind of its lanes."""


# ---- what to do ----


def _install(row: Accelerator, seen: Sequence[str]) -> str:
    """Says how to have a provider that is not installed."""
    machine, python = platform.machine(), sys.version_info[:2]
    if machine not in row.machines:
        return f"there are no packages of it for {machine}"
    if row.python_max is not None and python > row.python_max:
        newest = ".".join(map(str, row.python_max))
        return f"its packages are for Python {newest} at most, and this is {python[0]}.{python[1]}"
    there = _distribution(of_lane("cpu:0")).partition(" ")[0]
    parts = "; ".join(filter(None, (how_to_install(row, there), row.needs)))
    return parts if seen else f"for {row.hardware}: {parts}"


def _driver(row: Accelerator, installed: str, seen: Sequence[str]) -> str:
    """Says what is needed where a provider is installed, has its libraries, and does not run."""
    needs = row.needs or "install it again"
    if row.provider == WEBGPU and seen and all(device.startswith("processor ") for device in seen):
        return "Vulkan finds no GPU; its drivers in software that WebGPU takes are few (SwiftShader)"
    if row.provider == OPENVINO and not installed.startswith(row.wheel + " "):
        return f"its plugin takes devices of Intel alone; {_install(row, seen)}"
    if row.provider == CUDA and seen:
        return f"nvidia-smi should work as the server's user; {needs}"
    return f"{'it needs' if seen else 'no device is seen; it needs'} {needs}"


def _libraries(row: Accelerator, lacking: Sequence[str]) -> str:
    """Says what brings the libraries that are missing."""
    told: dict[str, list[str]] = {}
    for library in lacking:
        remedy = next((words for begins, words in _LIBRARIES if library.startswith(begins)), "find its package")
        if library.startswith("libcudart.") and not row.wheel:
            remedy = "pip install nvidia-cuda-runtime, and its folder in LD_LIBRARY_PATH"
        told.setdefault(remedy, []).append(library)
    return "; ".join(f"{', '.join(names)}: {remedy}" for remedy, names in told.items())
