"""Every kind of device that a lane can be on, and what it takes to run there, in one table.

The settings read it for the names of lanes, a worker for what to ask ONNX Runtime for, `duly doctor` for what is
missing, and docs/accelerators.md is made from it. It loads nothing and looks at nothing.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
WEBGPU = "WebGpuExecutionProvider"
MIGRAPHX = "MIGraphXExecutionProvider"
QNN = "QNNExecutionProvider"
VITIS_AI = "VitisAIExecutionProvider"

FOLDER, FILE, NATIVE = "{folder}", "{file}", "{native}"
"""What stands in options of providers for what is known at load. What switches something on is True and never 1, which
ONNX Runtime refuses of TensorRT."""

_FURTHER = "[2-9]"
"""What numbers the second to the ninth lane on one device; of processors there are more by their own numbers."""
LANE_HOW = "cpu:0, cuda:0, openvino:NPU or webgpu:0"
"""Lanes as examples, for messages about names of no kind."""


class Accelerator(NamedTuple):
    """An execution provider of ONNX Runtime, and the lanes that it runs."""

    provider: str
    """As ONNX Runtime calls it."""
    kind: str
    """What the names of its lanes begin with: "cuda" of "cuda:1". Of several that share one, the first is the lane's
    own, and the others are asked for by `providers` of model.toml."""
    hardware: str
    """What devices these are, in words."""
    wheel: str = ""
    """The distribution of ONNX Runtime on PyPI that has it built in; empty: there is none."""
    plugin: str = ""
    """The distribution on PyPI that brings it to the plain ONNX Runtime, as a plugin; empty: there is none."""
    extra: str = ""
    """The extra of duly that installs either; empty: it has to be installed by hand, in the place of another."""
    machines: tuple[str, ...] = ("x86_64", "aarch64")
    """What there are wheels for, as `uname -m` calls it."""
    python_max: tuple[int, int] | None = None
    """The newest Python that there are wheels for; None: as for duly."""
    needs: str = ""
    """What has to be there besides, that no wheel brings."""
    device_option: str = ""
    """The option of the provider that says which device; empty: it has but one, or is a plugin."""
    devices: str = r"0|[1-9][0-9]{0,2}"
    """A pattern of what names a device: what comes after the colon."""
    first: str = "0"
    """The device of the lane that there is where nobody sets `lanes`."""
    memory: str = ""
    """What ONNX Runtime calls its memory, where batches are copied there by the worker; empty: ONNX Runtime copies."""
    memory_option: str = ""
    """The option of the provider that bounds what it takes of its device's memory; empty: it has none."""
    reads_host: bool = False
    """Whether runs read inputs where they lie in the host's memory. ONNX Runtime copies them to other devices when they
    are bound, and not when they are run, so that what is bound once would be the same for ever."""
    cache_options: tuple[tuple[str, str], ...] = ()
    """The options that have it keep in a folder what it compiles, where FOLDER stands for the folder; none: it keeps
    nothing, or has nothing to compile."""
    cache_ends: bool = False
    """Whether it writes into that folder only when a session ends, and not as soon as it has compiled."""
    shape_options: str = ""
    """What the options begin with that say for which shapes to compile (_min_shapes, _opt_shapes, _max_shapes); empty:
    there are none. Where they are not set, it would compile anew at the first frame of a shape that it has not seen."""
    by_shape: bool = False
    """Whether it compiles for shapes, so that only sizes of batches that were warmed may run, and open extents of
    frames are refused."""
    int8_options: tuple[tuple[str, str], ...] = ()
    """The options that have it run with 8 bits in the ranges of a table, where FILE stands for the table's path, and
    NATIVE for whether it is one of TensorRT's own, True or False; none: it takes no table."""
    idles: bool = False
    """Whether clocks fall where nothing runs, so that the first batches after that would be late."""
    seen_by: str = ""
    """How to see with the system's own means whether a device is there: a command or a file."""


# The order is that of the page.
ACCELERATORS: tuple[Accelerator, ...] = (
    Accelerator(
        CPU, "cpu", "any processor", wheel="onnxruntime", extra="cpu", reads_host=True
    ),
    Accelerator(
        CUDA, "cuda", "GPUs of NVIDIA", wheel="onnxruntime-gpu", extra="gpu", machines=("x86_64",),
        needs="NVIDIA's driver, 580 or newer, and CUDA 13 with cuDNN: pip install 'onnxruntime-gpu[cuda,cudnn]'",
        device_option="device_id", memory="cuda", memory_option="gpu_mem_limit", idles=True, seen_by="nvidia-smi -L",
    ),
    Accelerator(
        TENSORRT, "cuda", "GPUs of NVIDIA", wheel="onnxruntime-gpu", extra="gpu", machines=("x86_64",),
        needs="what CUDA needs, and TensorRT 10: pip install 'tensorrt-cu13-libs<11'",
        device_option="device_id", memory="cuda",
        memory_option="trt_max_workspace_size", idles=True, seen_by="nvidia-smi -L",
        cache_options=(("trt_engine_cache_enable", "True"), ("trt_engine_cache_path", FOLDER)),
        shape_options="trt_profile", by_shape=True,
        int8_options=(("trt_int8_enable", "True"), ("trt_int8_calibration_table_name", FILE),
                      ("trt_int8_use_native_calibration_table", NATIVE)),
    ),
    Accelerator(
        TENSORRT_RTX, "tensorrt-rtx", "GPUs of NVIDIA of compute capability 8.6, 8.9, or 12.0 and newer",
        plugin="onnxruntime-ep-nv-tensorrt-rtx",
        extra="tensorrt-rtx",
        needs="NVIDIA's driver, 580 or newer, and CUDA's runtime: pip install nvidia-cuda-runtime, and its folder in "
        "LD_LIBRARY_PATH",
        memory_option="nv_max_workspace_size",
        idles=True, seen_by="nvidia-smi -L",
        cache_options=(("nv_runtime_cache_path", FOLDER),), cache_ends=True, shape_options="nv_profile", by_shape=True,
    ),
    Accelerator(
        OPENVINO, "openvino", "processors, GPUs and NPUs of Intel; its CPU device runs on other x86 processors, too",
        wheel="onnxruntime-openvino", plugin="onnxruntime-ep-openvino", extra="openvino",
        machines=("x86_64",), python_max=(3, 13),
        needs="Intel's drivers for GPUs and NPUs: intel-opencl-icd, intel-driver-compiler-npu and intel-level-zero-npu",
        device_option="device_type", devices=r"CPU|(GPU|NPU)(\.(0|[1-9][0-9]?))?", first="CPU",
        reads_host=True, seen_by="/dev/dri/renderD*, /dev/accel/accel*",
        cache_options=(("cache_dir", FOLDER),),
    ),
    Accelerator(
        WEBGPU, "webgpu", "GPUs of any vendor that have Vulkan", wheel="onnxruntime-webgpu",
        plugin="onnxruntime-ep-webgpu", extra="webgpu", machines=("x86_64",),
        needs="libvulkan1 and the vendor's driver for Vulkan", devices="0", idles=True, seen_by="vulkaninfo --summary",
    ),
    Accelerator(
        MIGRAPHX, "migraphx", "GPUs of AMD", wheel="onnxruntime-migraphx", needs="ROCm with MIGraphX",
        device_option="device_id", memory_option="migraphx_mem_limit", idles=True, seen_by="rocminfo",
        cache_options=(("migraphx_model_cache_dir", FOLDER),), by_shape=True,
        int8_options=(("migraphx_int8_enable", "True"), ("migraphx_int8_calibration_table_name", FILE),
                      ("migraphx_int8_use_native_calibration_table", NATIVE)),
    ),
    Accelerator(
        QNN, "qnn", "NPUs of Qualcomm", plugin="onnxruntime-qnn", needs="Qualcomm's driver (FastRPC)",
        seen_by="/dev/fastrpc-cdsp",
    ),
    Accelerator(
        VITIS_AI, "vitisai", "NPUs and adaptive SoCs of AMD", devices="0",
        needs="AMD's own build of ONNX Runtime (Ryzen AI, Vitis AI)", seen_by="xrt-smi examine",
    ),
)  # fmt: skip


def of_provider(name: str) -> Accelerator | None:
    """Returns the row of a provider; None: duly knows nothing about it."""
    return next((each for each in ACCELERATORS if each.provider == name), None)


def of_lane(lane: str) -> Accelerator:
    """Returns what runs a lane where the model asks for nothing else. `lane`: a name that `is_lane`."""
    kind = kind_of(lane)
    return next(each for each in ACCELERATORS if each.kind == kind)


def kind_of(lane: str) -> str:
    """Returns what kind of device a lane is on: "cuda" of "cuda:0". Of what is no lane, what stands in that place."""
    return lane.partition(":")[0]


def device_of(lane: str) -> str:
    """Returns what names the device of a lane: "0" of "cuda:0", and of "cuda:0/2", which is another lane there."""
    return lane.partition(":")[2].partition("/")[0]


def share_device(lane: str, lanes: Iterable[str]) -> bool:
    """Whether another of the lanes is on the same device."""
    own = lane.partition("/")[0]
    return any(other != lane and other.partition("/")[0] == own for other in lanes)


def compiles(lane: str, providers: Sequence[str]) -> bool:
    """Whether anything is compiled when a model is loaded on the lane. `providers`: those that the model asks for;
    none: the lane's own.
    """
    rows = [of_provider(name) for name in providers] or [of_lane(lane)]
    return any(row is not None and bool(row.cache_options) for row in rows)


def is_lane(name: str) -> bool:
    """Whether it is the name of a lane that there can be."""
    kind = kind_of(name)
    device, apart, nth = name.partition(":")[2].partition("/")
    if apart and (kind == "cpu" or re.fullmatch(_FURTHER, nth) is None):
        return False
    return any(each.kind == kind and re.fullmatch(each.devices, device) is not None for each in ACCELERATORS)


def how_to_install(row: Accelerator, there: str) -> str:
    """Returns what to type to have a provider; empty: no package has it. `there`: the distribution of ONNX Runtime that
    is installed, which has to go first where it is another than the one that is needed.
    """
    needed = row.wheel or "onnxruntime"  # plugins stand beside the plain one
    if row.extra:
        command = f"pip install 'duly[{row.extra}]'"
    elif row.wheel:
        command = f"pip install {row.wheel}"
    elif row.plugin:
        command = f"pip install 'duly[cpu]' {row.plugin}"
    else:
        return ""
    return command if there in ("", needed) else f"pip uninstall {there}, then {command}"


class Meaning(NamedTuple):
    """What names of lanes mean, for people."""

    lanes: tuple[str, ...]
    """Names as examples."""
    means: str


MEANINGS = (
    Meaning(("cpu:0", "cpu:1"), "a worker for each model, on all processors, or on those that `--cpus` gives the lane"),
    Meaning(("cuda:0", "cuda:1"), "an NVIDIA GPU by the number that CUDA gives it (`CUDA_VISIBLE_DEVICES`)"),
    Meaning(("tensorrt-rtx:0", "tensorrt-rtx:1"), "the first, the second GPU that the plugin finds"),
    Meaning(
        ("openvino:CPU", "openvino:GPU", "openvino:GPU.1", "openvino:NPU"),
        "a device as OpenVINO names it: the processor, the first GPU, the second one, the NPU",
    ),
    Meaning(("webgpu:0",), "the GPU that Vulkan gives first (`VK_DRIVER_FILES`)"),
    Meaning(("migraphx:0", "migraphx:1"), "an AMD GPU by the number that HIP gives it (`HIP_VISIBLE_DEVICES`)"),
    Meaning(("qnn:0",), "the first device that the plugin finds"),
    Meaning(("vitisai:0",), "the device that AMD's build of ONNX Runtime takes"),
)


def lanes_like(name: str) -> str:
    """Returns examples of lanes, in words, for who has given the `name` of none: those of its kind, if there is one."""
    kind = kind_of(name)
    own = next((each.lanes for each in MEANINGS if kind_of(each.lanes[0]) == kind), ())
    return f"{', '.join(own[:-1])} or {own[-1]}" if len(own) > 1 else "".join(own) or LANE_HOW


class Proof(NamedTuple):
    """What tests have shown of a provider, and where they have run."""

    name: str
    """What people call it, with how it is had where there are two ways."""
    where: str
    """The device that its tests run on; empty: none."""
    assigned: str
    """That the nodes which are said to run there do."""
    fallen: str
    """That a session which has silently become one of the CPU is caught."""
    lost: str
    """That the worker which has lost its device is replaced, that for its version the lane is down until the new one is
    warm on the device, and that frames are answered.
    """


IN_CI = "in CI"
LOGIC = "logic only"
"""The rules are tested, with something made up in the place of the device."""
NEVER = "cannot happen"
PROOFS = (
    Proof("CPU", "processors", IN_CI, "others fall to it", NEVER),
    Proof("OpenVINO", "its CPU device, on any x86 processor", IN_CI, IN_CI, f"CPU {NEVER}; GPU, NPU {LOGIC}"),
    Proof("WebGPU", "SwiftShader: Vulkan in software", IN_CI, IN_CI, IN_CI),
    Proof("OpenVINO, WebGPU as plugins", "", LOGIC, f"{IN_CI}: no device is found", LOGIC),
    Proof("CUDA", "", LOGIC, LOGIC, LOGIC),
    Proof("TensorRT", "", LOGIC, LOGIC, LOGIC),
    Proof("TensorRT-RTX (plugin)", "", LOGIC, LOGIC, LOGIC),
    Proof("MIGraphX (ROCm)", "", LOGIC, LOGIC, LOGIC),
    Proof("QNN (plugin), Vitis AI", "", LOGIC, LOGIC, LOGIC),
)
"""The README and docs/accelerators.md show it as it is here."""
