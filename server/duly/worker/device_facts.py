"""What a compiled graph depends on beside the graph: the device, and the versions of what compiled it and runs it.

Names of two devices that are alike are equal here: nothing of a serial number, slot or UUID, so that what was compiled
on one serves on the other. It has not run on a GPU.
"""

import ctypes
import hashlib
import os
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path

from duly.accelerators import CUDA, MIGRAPHX, OPENVINO, TENSORRT, TENSORRT_RTX, Accelerator

Facts = dict[str, str | int]

_CUDA_LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
_MAJOR, _MINOR, _PROCESSORS = 75, 76, 16  # CUdevice_attribute
_TENSORRT_LIBRARIES = ("libnvinfer.so.{}", "libnvinfer_plugin.so.{}", "libnvonnxparser.so.{}")
_TENSORRT_MAJORS = (10, 11)
_TENSORRT_PACKAGE = "tensorrt_libs"
"""What NVIDIA's wheels put the libraries of TensorRT into."""
_DRIVER_LINE_CHARS_MAX = 200


def device_facts(row: Accelerator, device: str, root: Path = Path("/")) -> Facts:
    """Returns what is to be known of a device of the lane's kind; `device`: what names it there."""
    facts: Facts = {"machine": os.uname().machine}
    if row.provider in (TENSORRT, TENSORRT_RTX, CUDA):
        facts |= _cuda_facts(int(device) if device.isdecimal() else 0)
        facts["driver"] = _first_line(root / "proc/driver/nvidia/version")
    elif row.provider == MIGRAPHX:
        facts |= _amd_facts(int(device) if device.isdecimal() else 0, root)
    elif row.provider == OPENVINO:
        facts["device"] = device
        facts |= _processor_facts(root) if device.startswith("CPU") else _intel_facts(root)
    return facts


def version_facts(row: Accelerator, onnxruntime: str) -> Facts:
    """Returns the versions of ONNX Runtime and of what the provider brings or loads besides."""
    facts: Facts = {"onnxruntime": onnxruntime}
    for package in (row.wheel, row.plugin):
        if package:
            with suppress(metadata.PackageNotFoundError):
                facts[package] = metadata.version(package)
    if row.provider == TENSORRT:
        facts["tensorrt"] = _tensorrt_version()
    return facts


# ---- TensorRT ----


def preload_tensorrt() -> None:
    """Loads the libraries of TensorRT from where its wheels put them, which is on no search path. What is not there is
    looked for by the system, and missed by ONNX Runtime in its own words.
    """
    spec = util.find_spec(_TENSORRT_PACKAGE)
    for folder in spec.submodule_search_locations or () if spec else ():
        for major in _TENSORRT_MAJORS:
            for library in _TENSORRT_LIBRARIES:
                with suppress(OSError):
                    ctypes.CDLL(str(Path(folder) / library.format(major)), mode=ctypes.RTLD_GLOBAL)


def _tensorrt_version() -> int:
    """The number of the loaded TensorRT (getInferLibVersion), such as 101300 for 10.13.0; 0: there is none."""
    for major in _TENSORRT_MAJORS:
        with suppress(OSError, AttributeError):
            return int(ctypes.CDLL(_TENSORRT_LIBRARIES[0].format(major)).getInferLibVersion())
    return 0


# ---- devices ----


def _cuda_facts(number: int) -> Facts:
    """Asks CUDA's driver, which counts devices as ONNX Runtime does; empty where it does not answer."""
    try:
        cuda = ctypes.CDLL(_CUDA_LIBRARY)
        device, value, total = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
        name = ctypes.create_string_buffer(_NAME_BYTES)
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), number):
            return {}
        facts: Facts = {}
        if not cuda.cuDeviceGetName(name, _NAME_BYTES, device):
            facts["name"] = name.value.decode(errors="replace")
        for key, attribute in (("major", _MAJOR), ("minor", _MINOR), ("processors", _PROCESSORS)):
            if not cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
                facts[key] = value.value
        # An engine made where there is much memory may not load where there is less.
        if not cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device):
            facts["memory_bytes"] = total.value
        if not cuda.cuDriverGetVersion(ctypes.byref(value)):
            facts["cuda"] = value.value
        return facts
    except (OSError, AttributeError):
        return {}


def _amd_facts(number: int, root: Path) -> Facts:
    """Reads the topology that the kernel's driver shows; processors are nodes of it too, without SIMDs."""
    gpus: list[dict[str, str]] = []
    with suppress(OSError):
        nodes = root / "sys/class/kfd/kfd/topology/nodes"
        for node in sorted(nodes.iterdir(), key=lambda path: int(path.name) if path.name.isdecimal() else -1):
            lines = (node / "properties").read_text().splitlines()
            found = dict(line.split(maxsplit=1) for line in lines if " " in line)
            if int(found.get("simd_count", "0")) > 0:
                gpus.append(found)
    facts: Facts = {"rocm": _first_line(root / "opt/rocm/.info/version")}
    if number < len(gpus):
        facts |= {key: gpus[number].get(key, "") for key in ("gfx_target_version", "simd_count", "device_id")}
    return facts


def _processor_facts(root: Path) -> Facts:
    lines = _text(root / "proc/cpuinfo").split("\n\n")[0].splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", ""))
    return {
        "name": fields.get("model name", ""),
        "flags": hashlib.sha256(flags.encode()).hexdigest(),
        "processors": len(os.sched_getaffinity(0)),
    }


def _intel_facts(root: Path) -> Facts:
    devices = []
    for pattern in ("sys/class/drm/renderD*", "sys/class/accel/accel*"):
        for each in sorted(root.glob(pattern)):
            devices.append(f"{_first_line(each / 'device/vendor')}:{_first_line(each / 'device/device')}")
    return {"devices": " ".join(devices), "kernel": os.uname().release}


def _first_line(path: Path) -> str:
    return (_text(path).splitlines() or [""])[0][:_DRIVER_LINE_CHARS_MAX]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
