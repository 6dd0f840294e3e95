"""`make setup` picks by what is there: folders are laid out as the kernel does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from duly import chosen_extra, hardware
from duly.accelerators import ACCELERATORS
from duly.chosen_extra import chosen, clashing

SERVER = Path(chosen_extra.__file__).parent.parent
THREE = (3, 12)


def lay(root: Path, place: str, vendor: str, driver: str) -> None:
    """Makes a device of the kernel's, as `drm/renderD128`."""
    folder = root / "sys/class" / place / "device"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (root / "drivers" / driver).mkdir(parents=True, exist_ok=True)
    (folder / "driver").symlink_to(root / "drivers" / driver)


@pytest.fixture(autouse=True)
def no_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen_extra, "nvidia_gpus", lambda: [])


def test_a_gpu_of_nvidia_that_works_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "accel/accel0", hardware.INTEL, "intel_vpu")
    monkeypatch.setattr(chosen_extra, "nvidia_gpus", lambda: ["GPU 0: NVIDIA H200"])
    assert chosen(tmp_path, THREE, "x86_64") == "gpu"
    assert chosen(tmp_path, THREE, "aarch64") == "cpu", "there are no wheels"


@pytest.mark.parametrize(
    ("place", "vendor", "driver", "extra"),
    [
        ("accel/accel0", "0x8086", "intel_vpu", "openvino"),
        ("drm/renderD128", "0x8086", "xe", "openvino"),
        ("drm/renderD128", "0x8086", "i915", "openvino"),
        ("drm/renderD128", "0x1002", "amdgpu", "cpu"),
        ("accel/accel0", "0x1022", "amdxdna", "cpu"),
        ("drm/card0", "0x8086", "i915", "cpu"),
    ],
)
def test_what_the_kernel_drives_of_intel(tmp_path: Path, place: str, vendor: str, driver: str, extra: str) -> None:
    lay(tmp_path, place, vendor, driver)
    assert chosen(tmp_path, THREE, "x86_64") == extra


def test_a_second_gpu_counts_too(tmp_path: Path) -> None:
    lay(tmp_path, "drm/renderD128", hardware.AMD, "amdgpu")
    lay(tmp_path, "drm/renderD129", hardware.INTEL, "xe")
    assert chosen(tmp_path, THREE, "x86_64") == "openvino"


def test_a_python_without_wheels_gets_the_processor(tmp_path: Path) -> None:
    lay(tmp_path, "accel/accel0", hardware.INTEL, "intel_vpu")
    assert chosen(tmp_path, (3, 13), "x86_64") == "openvino"
    assert chosen(tmp_path, (3, 14), "x86_64") == "cpu"
    assert chosen(tmp_path, (3, 13), "aarch64") == "cpu"


def test_on_a_bare_machine_it_is_the_processor(tmp_path: Path) -> None:
    assert chosen(tmp_path, THREE, "x86_64") == "cpu"


@pytest.mark.parametrize("extra", sorted({each.extra for each in ACCELERATORS if each.extra}))
def test_each_extra_clashes_with_all_others_of_the_module(extra: str) -> None:
    *others, wanted = clashing(extra)
    wheels = {each.wheel for each in ACCELERATORS if each.wheel}
    assert {*others, wanted} == wheels
    assert wanted not in others
    assert wanted == next(each.wheel or "onnxruntime" for each in ACCELERATORS if each.extra == extra)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Without anything that is installed."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(SERVER)!r}); "
               "import runpy; runpy.run_module('duly.chosen_extra', run_name='__main__')", *arguments]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})


def test_it_needs_nothing_that_is_installed() -> None:
    assert run().stdout.strip() in {each.extra for each in ACCELERATORS}
    assert run("--clashing", "webgpu").stdout.split()[-1] == "onnxruntime-webgpu"
    refused = run("--clashing", "nonsense")
    assert (refused.returncode, refused.stderr.strip()) == (
        1, "ACCELERATOR=nonsense: should be one of cpu, gpu, tensorrt-rtx, openvino, webgpu",
    )  # fmt: skip


PIP = """#!/bin/sh
echo "$*" >> {calls}
case "$*" in *show*) test -e {installed};; esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_setup_installs_one_in_place_of_another_and_stays_with_what_was_asked_for(tmp_path: Path) -> None:
    """pip is a stand-in that notes what it is told to do."""
    calls, installed, pip = tmp_path / "calls", tmp_path / "installed", tmp_path / ".venv/bin/pip"
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(SERVER.parent / file, tmp_path)
    shutil.copytree(SERVER / "duly", tmp_path / "server/duly", ignore=lambda folder, names: set(names) - {
        "__init__.py", "accelerators.py", "chosen_extra.py", "hardware.py",
    })  # fmt: skip
    pip.parent.mkdir(parents=True)
    pip.write_text(PIP.format(calls=calls, installed=installed))
    pip.chmod(0o755)

    def setup(*arguments: str) -> list[str]:
        calls.write_text("")
        command = ["make", "setup", f"PYTHON={sys.executable}", *arguments]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "ACCELERATOR"))}
        subprocess.run(command, cwd=tmp_path, env=environ, check=True, stdout=subprocess.DEVNULL)
        told = calls.read_text().splitlines()
        return [words.partition("quiet ")[2].replace("--quiet ", "") for words in told if not words.startswith("show")]

    assert "--editable .[cpu," in setup("ACCELERATOR=cpu")[-1]
    installed.touch()
    _, gone, there = setup("ACCELERATOR=openvino")
    assert gone.split()[:2] == ["--yes", "onnxruntime"]
    assert gone.split()[-1] == "onnxruntime-openvino", "whose files went with the others'"
    assert there.startswith("--editable .[openvino,")
    assert setup() == [], "what was asked for stays"
    with pytest.raises(subprocess.CalledProcessError):
        setup("ACCELERATOR=nonsense")
