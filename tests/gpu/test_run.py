"""The whole command: it refuses a machine without a GPU, installs from a folder of wheels without the network, and its
rehearsal runs all stages.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.gpu import installing, nvidia_smi, stage_environment
from tests.gpu.installing import InstallError, install, library_folders
from tests.gpu.parts import PartsError, split
from tests.gpu.requirements import BUILDS, CHECKOUT, TENSORRT, requirements
from tests.gpu.wheels import platform_options

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
UUID = "GPU-1e2d3c4b-0000-1111-2222-a1b2c3d4e5f6"
LISTED = f"GPU 0: NVIDIA H200 (UUID: {UUID})\n"
SAID = f"""<?xml version="1.0" ?>
<nvidia_smi_log>
  <driver_version>580.159.04</driver_version>
  <cuda_version>13.0</cuda_version>
  <attached_gpus>1</attached_gpus>
  <gpu id="00000000:1A:00.0">
    <product_name>NVIDIA H200</product_name>
    <product_architecture>Hopper</product_architecture>
    <persistence_mode>Enabled</persistence_mode>
    <mig_mode><current_mig>Disabled</current_mig></mig_mode>
    <serial>1650000000001</serial>
    <uuid>{UUID}</uuid>
    <pci><pci_gpu_link_info><pcie_gen><max_link_gen>5</max_link_gen></pcie_gen>
      <link_widths><max_link_width>16x</max_link_width></link_widths></pci_gpu_link_info></pci>
    <clocks_event_reasons>
      <clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
      <clocks_event_reason_sw_power_cap>Not Active</clocks_event_reason_sw_power_cap>
    </clocks_event_reasons>
    <fb_memory_usage><total>143771 MiB</total><used>0 MiB</used></fb_memory_usage>
    <ecc_mode><current_ecc>Enabled</current_ecc></ecc_mode>
    <temperature><gpu_temp>29 C</gpu_temp></temperature>
    <gpu_power_readings><current_power_limit>N/A</current_power_limit></gpu_power_readings>
    <clocks><sm_clock>345 MHz</sm_clock><mem_clock>3201 MHz</mem_clock></clocks>
    <max_clocks><sm_clock>1980 MHz</sm_clock><mem_clock>3201 MHz</mem_clock></max_clocks>
  </gpu>
</nvidia_smi_log>
"""


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up nvidia-smi, first on the search path."""
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    (tmp_path / "listed").write_text(LISTED)
    (tmp_path / "said").write_text(SAID)
    tool.write_text(f'#!/bin/sh\n[ "$1" = -L ] && exec cat {tmp_path}/listed\nexec cat {tmp_path}/said\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    return tool


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def command(*options: object) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "tests.gpu", *map(str, options)]
    return subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=False)


# ---- the GPU, or none ----


@pytest.mark.usefixtures("no_gpu")
def test_a_machine_without_a_gpu_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    done = command("--out", tmp_path / "out")
    assert done.returncode == 2
    assert "nvidia-smi is not there: it comes with NVIDIA's driver" in done.stderr
    assert "--rehearse" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_driver_that_sees_no_gpu_is_told(gpu: Path, tmp_path: Path) -> None:
    gpu.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate'\nexit 9\n")
    with pytest.raises(nvidia_smi.NoGpu, match="status 9: NVIDIA-SMI has failed because"):
        nvidia_smi.listed()
    gpu.write_text("#!/bin/sh\necho 'No devices were found'\n")
    with pytest.raises(nvidia_smi.NoGpu, match="lists no GPU: No devices were found"):
        nvidia_smi.listed()
    with pytest.raises(nvidia_smi.NoGpu, match="gives no XML"):
        nvidia_smi.facts(0)
    assert "gives no XML" in nvidia_smi.known(nvidia_smi.state, 0)["not known"]
    nvidia_smi.check_driver()  # what is not known does not keep a GPU from being measured


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("lane", ["cuda:1", "webgpu:0", "cuda:x"])
def test_a_lane_that_is_no_gpu_of_this_machine_is_refused(tmp_path: Path, lane: str) -> None:
    done = command("--lane", lane, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert f"the lane {lane}" in done.stderr


@pytest.mark.usefixtures("gpu")
def test_a_driver_that_is_too_old_for_cuda_13_is_refused(tmp_path: Path) -> None:
    (tmp_path / "said").write_text(SAID.replace("580.159.04", "535.54.03"))
    done = command("--out", tmp_path / "out")
    assert done.returncode == 2
    assert "NVIDIA's driver is 535.54.03, and CUDA 13 needs 580 or newer" in done.stderr


@pytest.mark.usefixtures("gpu")
def test_of_a_gpu_only_what_is_alike_on_all_of_its_kind_is_taken() -> None:
    assert nvidia_smi.listed() == ["NVIDIA H200"]
    assert nvidia_smi.driver() == {"driver": "580.159.04", "CUDA": "13.0"}
    facts, state = nvidia_smi.facts(0), nvidia_smi.state(0)
    assert facts["memory"] == "143771 MiB"
    assert (facts["PCIe generation"], facts["PCIe width"]) == ("5", "16x")
    assert "power limit" not in facts
    assert state["SM clock"] == "345 MHz"
    assert state["clocks lowered by"] == "gpu_idle"
    assert UUID not in str((facts, state))
    assert "1650000000001" not in str((facts, state))
    with pytest.raises(nvidia_smi.NoGpu, match="knows 1 GPUs"):
        nvidia_smi.state(1)


# ---- installing without the network ----

HATCHLING = """
import zipfile
from pathlib import Path

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "duly-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
        home = "duly-0.1.0.dist-info"
        extras = "".join(f"Provides-Extra: {each}\\n" for each in ("gpu", "cpu", "load"))
        wheel.writestr(f"{home}/METADATA", f"Metadata-Version: 2.1\\nName: duly\\nVersion: 0.1.0\\n{extras}")
        wheel.writestr(f"{home}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{home}/RECORD", "")
    return name

def build_wheel(folder, config_settings=None, metadata_directory=None):
    return build_editable(folder)
"""


def wheel(folder: Path, name: str, version: str = "999", files: dict[str, str] | None = None) -> Path:
    """Writes a wheel that has nothing but its name, or these files."""
    plain = name.replace("-", "_")
    path = folder / f"{plain}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (files or {}).items():
            archive.writestr(file, text)
        home = f"{plain}-{version}.dist-info"
        extras = "Provides-Extra: crypto\n"
        archive.writestr(f"{home}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{extras}")
        archive.writestr(f"{home}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{home}/RECORD", "")
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    """A stand-in for everything that is asked for; that of what builds duly makes an empty duly."""
    folder = tmp_path / "made"
    folder.mkdir()
    names = {each.split(">")[0].split("=")[0].split("[")[0].strip() for each in requirements("gpu", False, False)}
    versions = {"grpcio": "1.999", "pydantic": "2.999"}
    return [
        wheel(
            folder,
            name,
            versions.get(name, "999"),
            {"hatchling/__init__.py": "", "hatchling/build.py": HATCHLING} if name == "hatchling" else None,
        )
        for name in sorted(names)
    ]


@pytest.fixture(autouse=True)
def no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")


def test_an_environment_is_installed_from_parts_without_the_network(tmp_path: Path, wheels: list[Path]) -> None:
    laid = tmp_path / "laid"
    split(wheels, laid, 200_000, HERE, platform.machine(), ["extra-thing"])
    log = tmp_path / "pip.log"
    with pytest.raises(InstallError, match="extra-thing"):  # what was asked for when it was laid is asked for here
        install(tmp_path / "venv", laid, "cpu", log)
    wheels.append(wheel(wheels[0].parent, "extra-thing"))
    split(wheels, tmp_path / "again", 200_000, HERE, platform.machine(), ["extra-thing"])
    python = install(tmp_path / "venv", tmp_path / "again", "cpu", log)
    asked = "from importlib.metadata import version as v; print(v('duly'), v('onnxruntime-gpu'), v('extra-thing'))"
    said = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["0.1.0", "999", "999"]  # the wheels say that it is the GPU's
    assert not (tmp_path / "venv-wheels").exists()
    log.unlink()
    assert install(tmp_path / "venv", tmp_path / "again", "cpu", log) == python
    assert not log.exists()  # it was there already, and whole


def test_a_folder_for_another_machine_is_refused_before_anything_is_removed(tmp_path: Path, wheels: list[Path]) -> None:
    (tmp_path / "venv").mkdir()
    split(wheels, tmp_path / "other", 200_000, "3.7", platform.machine(), [])
    with pytest.raises(InstallError, match=rf"for Python 3\.7, and this is {HERE}"):
        install(tmp_path / "venv", tmp_path / "other", "gpu", tmp_path / "pip.log")
    split(wheels, tmp_path / "arm", 200_000, HERE, "pdp11", [])
    with pytest.raises(InstallError, match="for pdp11"):
        install(tmp_path / "venv", tmp_path / "arm", "gpu", tmp_path / "pip.log")
    (tmp_path / "arm/part-001/manifest.json").unlink()
    with pytest.raises(PartsError, match="is missing"):
        install(tmp_path / "venv", tmp_path / "arm", "gpu", tmp_path / "pip.log")
    assert (tmp_path / "venv").is_dir()


@pytest.mark.usefixtures("gpu")
def test_a_run_whose_wheels_are_not_whole_writes_its_record_all_the_same(tmp_path: Path, wheels: list[Path]) -> None:
    split(wheels, tmp_path / "laid", 200_000, HERE, platform.machine(), [])
    (piece,) = (tmp_path / "laid").glob("part-*/numpy-*")
    piece.unlink()
    done = command("--offline", tmp_path / "laid", "--out", tmp_path / "out", "--work", tmp_path / "work")
    assert done.returncode == 1
    page = (tmp_path / "out/report.md").read_text()
    assert "# NVIDIA H200, lane cuda:0" in page
    assert f"pieces are missing: {piece.parent.name}/{piece.name}" in page
    assert "left out: nothing was installed" in page.replace("*", "")
    assert str(tmp_path) not in page


@pytest.mark.usefixtures("no_gpu")
def test_to_prepare_needs_no_gpu_and_says_what_is_missing(tmp_path: Path, wheels: list[Path]) -> None:
    split(wheels, tmp_path / "laid", 200_000, HERE, platform.machine(), ["extra-thing"])
    done = command("--prepare", "--offline", tmp_path / "laid", "--work", tmp_path / "work")
    assert done.returncode == 1
    assert "pip ended with status 1" in done.stdout
    assert "extra-thing" in done.stdout


def test_libraries_beside_this_python_help_where_the_environment_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "venv/bin/python"
    own = tmp_path / "venv/lib/python3.12/site-packages/nvidia/cudnn/lib"
    other = tmp_path / "torch/site-packages/nvidia/cu13/lib"
    for folder in (own, other, tmp_path / "trt"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "torch/site-packages")])
    assert library_folders(python, [tmp_path / "trt"]) == [tmp_path / "trt", own, other]
    for library in ("cudart.so.13", "cublas.so.13", "cublasLt.so.13", "cudnn.so.9", "curand.so.10"):
        (own / f"lib{library}").touch()
    assert library_folders(python, []) == [own]
    beside = tmp_path / "torch/site-packages/tensorrt_libs"
    beside.mkdir()
    assert library_folders(python, []) == [own, beside]  # TensorRT may be there when CUDA is in the environment
    for library in ("libnvinfer.so.10", "libnvonnxparser.so.10"):
        (tmp_path / "trt" / library).touch()
    assert library_folders(python, [tmp_path / "trt"]) == [tmp_path / "trt", own]


# ---- what to fetch ----


def test_online_tensorrt_is_fetched_where_it_is_asked_for_and_what_was_fetched_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[Sequence[str]] = []
    monkeypatch.setattr(installing, "_run", lambda command, log, output: commands.append(command))
    for tensorrt in (False, False, True):
        install(tmp_path / "work/venv", None, "gpu", tmp_path / "log", tensorrt)
    plain, more = commands  # the second time all was there
    assert TENSORRT not in plain
    assert {*more} - {*plain} == {TENSORRT}
    assert "onnxruntime-gpu[cuda,cudnn]" in plain
    assert plain[plain.index("--cache-dir") + 1] == str(tmp_path / "work/fetched")
    assert "--no-cache-dir" not in plain


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--tensorrt", "--here"), "nothing is fetched with --here"),
        (("--commit", "main"), "is no commit"),
    ],
)
def test_options_that_say_nothing_are_refused(options: tuple[str, ...], says: str) -> None:
    done = command(*options)
    assert done.returncode == 2
    assert says in done.stderr


def test_all_that_a_run_needs_is_asked_for() -> None:
    asked = requirements("gpu", cuda_libraries=True, tensorrt=True)
    assert not [each for each in asked if each.startswith("duly")]
    assert {"onnxruntime-gpu[cuda,cudnn]", TENSORRT, *BUILDS} <= {*asked}
    assert any(each.startswith("pytest>=") for each in asked)
    assert any(each.startswith("hdrhistogram>=") for each in asked)
    assert any(each.startswith("onnxruntime-gpu>=") for each in asked)
    plain = requirements("cpu", cuda_libraries=False, tensorrt=False)
    assert any(each.startswith("onnxruntime>=") for each in plain)
    assert not any("gpu" in each or "tensorrt" in each for each in plain)


def test_each_platform_up_to_the_other_machines_is_named_as_pip_takes_no_range() -> None:
    options = [*platform_options("3.12", "x86_64", "2.31")]
    assert options[:4] == ["--implementation", "cp", "--python-version", "3.12"]
    assert {"cp312", "abi3", "none", "manylinux_2_31_x86_64", "manylinux_2_17_x86_64", "manylinux1_x86_64"} <= {
        *options
    }
    assert "manylinux_2_32_x86_64" not in options


# ---- the rehearsal ----


@pytest.mark.usefixtures("no_gpu")
def test_a_rehearsal_needs_no_gpu_and_says_that_it_is_none(tmp_path: Path) -> None:
    options = ("--rehearse", "--out", tmp_path / "out", "--work", tmp_path / "work")
    done = command(*options, "--stages", "environment,throughput_tensorrt")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "out/report.md").read_text()
    assert "A rehearsal, no GPU" in page
    assert "left out**: a rehearsal has no TensorRT" in page
    found = json.loads((tmp_path / "out/report.json").read_text())["results"]["environment"]
    assert found["onnxruntime"]["version"]
    assert {each["subject"] for each in found["doctor"]} > {"python", "onnxruntime"}
    assert command(*options).returncode == 2  # a record is not written over


def test_a_tree_without_git_has_the_commit_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch("[0-9a-f]{40}|not known.*", stage_environment._commit("")["commit"])
    monkeypatch.setattr(stage_environment, "CHECKOUT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert stage_environment._commit("")["commit"].startswith("not known")
    assert stage_environment._commit("4ff3aba4")["commit"] == "4ff3aba4, as was said, without git"


def test_an_interrupted_run_leaves_a_record_of_what_it_had(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.gpu", "--rehearse", "--stages", "environment,overload"]
    words += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    with subprocess.Popen(words, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("overload"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 130
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [stage["status"] for stage in report["stages"]] == ["done", "interrupted"]
    assert "environment" in report["results"]


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_a_rehearsal_runs_all_stages(tmp_path: Path) -> None:
    done = command("--rehearse", "--out", tmp_path / "out", "--work", tmp_path / "work")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    found = report["results"]
    assert {each["key"]: each["status"] for each in report["stages"]} == {
        "environment": "done",
        "worker_tests": "done",
        "worker_tests_tensorrt": "left out",
        "throughput": "done",
        "throughput_tensorrt": "left out",
        "overlap": "done",
        "overload": "done",
    }
    assert found["worker_tests"]["passed"] == found["worker_tests"]["collected"] > 0
    assert {(row["model"], row["batch"]) for row in found["throughput"]["rows"]} == {
        (model, batch) for model in ("mlp-fp32", "squeezenet-fp32", "squeezenet-fp16") for batch in (1, 4)
    }
    assert all(row["ratio"]["frames_per_s"][0] > 0 for row in found["throughput"]["rows"])
    assert all(row["ms"]["beside"][0] > 0 for row in found["overlap"]["rows"])
    assert all(row["ms"]["beside"][0] > 0 and not row["to the device ahead"] for row in found["overlap"]["workers"])
    assert {row["target"] for row in found["overload"]["rows"]} == {"duly", "floor"}
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) < 1_000_000
