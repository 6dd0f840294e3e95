"""Which provider truly runs: what is installed, what is seen, what was tried, and what to do about the rest."""

import importlib.metadata
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from duly import hardware
from duly.accelerators import ACCELERATORS, CPU, CUDA, OPENVINO, TENSORRT, TENSORRT_RTX, WEBGPU
from duly.doctor import accelerators, tried_lane
from duly.doctor.accelerators import Installed, examine_gpus, examine_providers
from duly.doctor.finding import Level, ProviderFinding
from duly.doctor.tried_lane import Tried, try_lanes
from duly.models.trust import Trust
from duly.nvml.library import Library
from duly.worker.providers import ASK_THE_DOCTOR
from duly.worker.shared_libraries import missing, needs
from tests.nvml import stand_in as nvml

H200 = "GPU 0: NVIDIA H200"


class Machine:
    """What there is to be found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.versions = {"onnxruntime": "1.32.0"}
        self.there = Installed([CPU], {}, {}, {})
        self.results: dict[str, Tried] = {}
        self.seen: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        monkeypatch.setattr(accelerators, "_installed", lambda: self.there)
        monkeypatch.setattr(accelerators, "_seen", lambda row: self.seen.get(row.provider, []))
        monkeypatch.setattr(accelerators, "try_lanes", self.tries)
        monkeypatch.setattr(accelerators, "default_lanes", lambda: ("cpu:0",))
        monkeypatch.setattr(importlib.metadata, "version", self.version)
        monkeypatch.setattr(accelerators.platform, "machine", lambda: "x86_64")

    def version(self, name: str) -> str:
        if name not in self.versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return self.versions[name]

    def tries(self, asked: list[tuple[str, str]], trust: Trust) -> list[Tried]:
        self.asked = asked
        return [self.results.get(provider, Tried("", (provider,))) for _, provider in asked]

    def has(self, provider: str, result: str = "", libraries: Mapping[str, list[str]] | None = None) -> None:
        self.there = Installed([provider, CPU], {}, libraries or {}, {})
        self.results = {provider: Tried(result)}

    def told(self, provider: str, *lanes: str) -> ProviderFinding:
        found = [each for each in examine_providers(lanes, Trust()) if isinstance(each, ProviderFinding)]
        assert {each.provider for each in found} == {each.provider for each in ACCELERATORS}, "a row for each"
        return next(each for each in found if each.provider == provider)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_what_runs(machine: Machine) -> None:
    found = machine.told(CPU)
    assert (found.level, found.runs, found.lane, found.installed) == (Level.OK, True, "cpu:0", "onnxruntime 1.32.0")
    assert machine.asked == [("cpu:0", CPU)], "nothing else is installed"


def test_what_is_neither_installed_nor_there_is_no_trouble(machine: Machine) -> None:
    found = machine.told(WEBGPU)
    assert (found.level, found.runs, found.installed) == (Level.OK, False, "")
    assert found.found == "WebGpuExecutionProvider is not installed, and no device is seen"
    assert "pip uninstall onnxruntime, then pip install 'duly[webgpu]'" in found.advice
    assert "libvulkan1" in found.advice


def test_a_gpu_of_nvidia_without_its_package_is_a_warning(machine: Machine) -> None:
    machine.seen = {CUDA: [H200], TENSORRT: [H200]}
    found = machine.told(CUDA)
    assert (found.level, found.devices) == (Level.WARNING, H200)
    assert found.advice.startswith("pip uninstall onnxruntime, then pip install 'duly[gpu]'")
    assert machine.told(TENSORRT).level is Level.OK, "one warning is enough"


def test_a_lane_that_is_served_and_does_not_run_is_a_problem(machine: Machine) -> None:
    assert machine.told(CUDA, "cuda:0", "cpu:0").level is Level.PROBLEM
    session = "CUDAExecutionProvider could not start here; the session has CPUExecutionProvider only"
    machine.has(CUDA, f"{session}{ASK_THE_DOCTOR}")
    found = machine.told(CUDA, "cuda:0")
    assert (found.level, found.runs) == (Level.PROBLEM, False)
    assert found.found == (
        "CUDAExecutionProvider does not run on cuda:0: CUDAExecutionProvider could not start here; the session has "
        "CPUExecutionProvider only"
    )
    assert found.advice.startswith("no device is seen; it needs NVIDIA's driver, 580 or newer")
    machine.seen = {CUDA: [H200]}
    assert machine.told(CUDA, "cuda:0").advice.startswith("nvidia-smi should work as the server's user")


def test_each_lane_that_is_served_is_tried(machine: Machine) -> None:
    machine.has(CUDA)
    examine_providers(["cuda:1", "cuda:0", "cpu:0"], Trust())
    assert machine.asked == [("cpu:0", CPU), ("cuda:1", CUDA), ("cuda:0", CUDA)]


def test_libraries_that_are_missing_are_named_with_what_brings_them(machine: Machine) -> None:
    lacking = ["libcublasLt.so.13", "libcudnn.so.9", "libnvinfer.so.10", "libcuda.so.1"]
    machine.has(TENSORRT, "it says what it likes", {TENSORRT: lacking})
    found = machine.told(TENSORRT)
    assert found.found.endswith(f"does not run on cuda:0: {', '.join(lacking)} cannot be loaded")
    assert found.advice == (
        "libcublasLt.so.13, libcudnn.so.9: pip install 'onnxruntime-gpu[cuda,cudnn]'; "
        "libnvinfer.so.10: pip install 'tensorrt-cu13-libs<11'; "
        "libcuda.so.1: NVIDIA's driver, which no package of Python brings"
    )
    machine.has(TENSORRT_RTX, "no", {TENSORRT_RTX: ["libcudart.so.13"]})
    assert machine.told(TENSORRT_RTX).advice.startswith("libcudart.so.13: pip install nvidia-cuda-runtime")


def test_vulkan_in_software_is_told_as_such(machine: Machine) -> None:
    machine.seen = {WEBGPU: ["processor llvmpipe (LLVM 15.0.6, 256 bits)"]}
    machine.has(WEBGPU, "WebGpuExecutionProvider: Failed to get a WebGPU adapter: No supported adapters")
    found = machine.told(WEBGPU, "webgpu:0")
    assert found.found == (
        "WebGpuExecutionProvider does not run on webgpu:0: Failed to get a WebGPU adapter: No supported adapters"
    )
    assert "Vulkan finds no GPU" in found.advice


def test_the_plugin_of_openvino_takes_less_than_its_wheel(machine: Machine) -> None:
    machine.versions["onnxruntime-ep-openvino"] = "1.8.1"
    machine.has(OPENVINO, "its library onnxruntime-ep-openvino finds no device for it")
    found = machine.told(OPENVINO)
    assert (found.level, found.installed) == (Level.WARNING, "onnxruntime-ep-openvino 1.8.1")
    assert found.advice.startswith("its plugin takes devices of Intel alone; ")


def test_where_there_are_no_wheels(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators.platform, "machine", lambda: "aarch64")
    assert machine.told(WEBGPU).advice == "there are no packages of it for aarch64"


# ---- on the machine of the tests ----


def test_a_worker_runs_the_graph_or_says_why_it_does_not() -> None:
    runs, not_there = try_lanes([("cpu:0", ""), ("migraphx:0", "")], Trust())
    assert runs == Tried("", (CPU,))
    assert "MIGraphXExecutionProvider is not in onnxruntime" in not_there.problem


def test_a_device_that_computes_something_else_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    right = tried_lane.graph()
    wrong = right.replace(b"\0\0\x80\x3f", b"\0\0\x90\x3f")  # 1.0, 1.125
    assert right != wrong
    monkeypatch.setattr(tried_lane, "graph", lambda: wrong)
    (tried,) = try_lanes([("cpu:0", "")], Trust())
    assert "checks/one.npz" in tried.problem


def test_where_onnxruntime_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "_output", lambda command: "")
    (found,) = examine_providers([], Trust())
    assert (found.level, "a driver may be at fault" in found.found) == (Level.WARNING, True)
    assert "duly.worker.found" in found.advice


def test_onnxruntime_is_asked_in_a_process_of_its_own() -> None:
    there = accelerators._installed()
    assert there is not None
    assert CPU in there.providers
    assert there.problems == {}


def test_libraries_name_what_they_need(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "empty.c").write_text("int nothing;\n")
    for name in ("gone", "beside"):
        soname = f"lib{name}_of_duly.so.1"
        subprocess.run(
            ["cc", "-shared", "-o", tmp_path / soname, f"-Wl,-soname,{soname}", tmp_path / "empty.c"], check=True
        )
    library = tmp_path / "libwhole.so"
    subprocess.run(
        ["cc", "-shared", "-o", library, tmp_path / "empty.c", "-Wl,--no-as-needed", *tmp_path.glob("lib*.so.1")],
        check=True,
    )
    assert {"libgone_of_duly.so.1", "libbeside_of_duly.so.1", "libc.so.6"} <= set(needs(library))
    assert missing(library) == []
    (tmp_path / "libgone_of_duly.so.1").unlink()
    assert missing(library, ["libc.so.6", "libnowhere.so.7"]) == ["libgone_of_duly.so.1", "libnowhere.so.7"]


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF\x02\x01", b"\x7fELF\x01\x01" + bytes(100), b"\x7fELF\x02\x01" + b"\xff" * 90]
)
def test_what_is_no_library_needs_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.so").write_bytes(data)
    assert needs(tmp_path / "x.so") == []
    assert needs(tmp_path / "nowhere.so") == []


# ---- what the system shows ----


def test_what_is_on_the_bus_without_a_driver_is_seen(tmp_path: Path) -> None:
    for name, vendor, kind in (("a", "0x10de", "0x030200"), ("b", "0x10de", "0x040300"), ("c", "0x8086", "0x030000")):
        device = tmp_path / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert hardware.pci_gpus(hardware.NVIDIA, tmp_path) == 1, "and not the sound of its monitor"
    assert hardware.pci_gpus(hardware.AMD, tmp_path) == 0


def test_how_gpus_do(tmp_path: Path) -> None:
    worn, lost, good, shared = (nvml.Gpu(f"00000000-0000-0000-0000-{nth:012}") for nth in range(4))
    nvml.fresh(worn, lost, good, shared)
    shared.used_bytes = None
    worn.rows, lost.error = (0, 1, 1, 0), nvml.NVML_ERROR_GPU_IS_LOST
    found = examine_gpus(Library(nvml.__name__, tmp_path))
    assert [each.level for each in found] == [Level.WARNING, Level.WARNING, Level.OK, Level.OK]
    assert found[0].found == "gpu-0: rows of its memory are remapped with the next reset of the GPU"
    assert found[1].found == "gpu-1: GPU is lost"
    assert found[2].found == "gpu-2: well; 3.2 of 85.9 GB taken, 45 °C"
    assert found[3].found == "gpu-3: well; its memory is not told, 45 °C"
    assert nvml.STATE["begun"] == 0
    nvml.STATE["init_error"] = nvml.NVML_ERROR_DRIVER_NOT_LOADED
    (refused,) = examine_gpus(Library(nvml.__name__, tmp_path))
    assert (refused.level, "Driver Not Loaded" in refused.found) == (Level.WARNING, True)
    assert examine_gpus(Library(nvml.__name__, tmp_path / "no driver")) == []
