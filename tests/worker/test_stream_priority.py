"""Streams with a priority, on a library made for the tests that stands in for CUDA's runtime."""

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from duly.accelerators import CPU, CUDA, TENSORRT
from duly.models.spec import Provider
from duly.worker import cuda_runtime
from duly.worker.errors import DeviceLost, RunError
from duly.worker.stream_priority import priority_stream
from tests.worker.made_up_gpu import library


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the library is, and the files that it looks at and writes."""
    made = library(tmp_path)
    monkeypatch.setenv("MADE_UP_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("MADE_UP_LOST", str(tmp_path / "lost"))
    monkeypatch.setattr(cuda_runtime, "_LIBRARIES", ("libcudart.so.none", str(made)))
    cuda_runtime.library.cache_clear()
    yield tmp_path
    cuda_runtime.library.cache_clear()


@pytest.mark.parametrize(("stream_class", "priority"), [("CRITICAL", -5), ("STANDARD", 0), ("BEST_EFFORT", 0)])
def test_the_class_decides(folder: Path, stream_class: str, priority: int) -> None:
    stream = priority_stream(0, stream_class)
    assert stream is not None
    assert stream.priority == priority
    own = Provider(name=TENSORRT, options={"user_compute_stream": "7"})
    tensorrt, given, cpu = stream.given_to((own, Provider(name=CUDA, options={"device_id": 0}), Provider(name=CPU)))
    assert given.options == {"device_id": 0, "user_compute_stream": str(1024 * (1 - priority))}
    assert tensorrt.options == {"user_compute_stream": "7"}
    assert not cpu.options


def test_it_is_waited_for(folder: Path) -> None:
    stream = priority_stream(0, "CRITICAL")
    assert stream is not None
    stream.wait()
    assert (folder / "log").read_text() == f"wait {6 * 1024}\n"
    (folder / "lost").touch()
    with pytest.raises(DeviceLost):
        stream.wait()


def test_what_cuda_refuses_is_an_error(folder: Path) -> None:
    with pytest.raises(RunError, match="CUDA failure 101"):
        priority_stream(3, "CRITICAL")
    cuda = cuda_runtime.library()
    assert cuda is not None
    assert cuda.cudaGetLastError() == 0, "ONNX Runtime would take it for an error of its own"


def test_without_cuda_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_runtime, "_LIBRARIES", ("libcudart.so.none",))
    cuda_runtime.library.cache_clear()
    assert priority_stream(0, "CRITICAL") is None
    cuda_runtime.library.cache_clear()


def test_it_is_of_the_runtime_that_is_loaded_already(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of another library would be none of ONNX Runtime's."""
    loaded = folder / "libcudart-loaded.so"
    shutil.copy(folder / "libcudart.so", loaded)
    ctypes.CDLL(str(loaded))
    monkeypatch.setattr(cuda_runtime, "_LIBRARIES", (str(folder / "libcudart.so"), str(loaded)))
    assert priority_stream(0, "CRITICAL") is not None
    found = cuda_runtime.library()
    assert found is not None
    assert found._name == str(loaded)
