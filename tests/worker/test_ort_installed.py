"""Which ONNX Runtime is installed, asked of made-up installations."""

from pathlib import Path

import pytest

from duly.worker.errors import BackendError
from duly.worker.ort_installed import check_installed


def install(site: Path, *names: str) -> None:
    for name in names:
        folder = site / f"{name.replace('-', '_')}-1.31.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    return tmp_path


@pytest.mark.parametrize(
    "name", ["onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-webgpu", "onnxruntime-migraphx"]
)
def test_one_is_right(site: Path, name: str) -> None:
    install(site, name)
    assert check_installed() == (name, "1.31.1")


def test_none_says_what_to_install(site: Path) -> None:
    with pytest.raises(
        BackendError,
        match=r"not installed: `pip install 'duly\[cpu\]'`, or another of 'duly\[gpu\]', 'duly\[openvino",
    ):
        check_installed()


def test_both_say_how_to_get_out_of_it(site: Path) -> None:
    install(site, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(BackendError, match="onnxruntime and onnxruntime-gpu are installed together and overwrite"):
        check_installed()


def test_one_of_no_use_is_named(site: Path) -> None:
    install(site, "onnxruntime-rocm")
    with pytest.raises(BackendError, match="onnxruntime-rocm is not served: `pip uninstall onnxruntime-rocm`"):
        check_installed()
