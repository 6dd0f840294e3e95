"""Streams with a priority, on a library made for the tests that stands in for CUDA's runtime."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from duly.accelerators import CPU, CUDA, TENSORRT
from duly.models.spec import Provider
from duly.worker import stream_priority
from duly.worker.errors import DeviceLost, RunError
from duly.worker.stream_priority import priority_stream

LIBRARY = """
/* Streams are their priority, from 1 on, in units of 1024. There is one device, and `waited` counts who waits. */
#include <stdint.h>
int waited, lost;
int cudaSetDevice(int device) { return device ? 101 : 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    if (flags != 1) return 1;
    *stream = (void *)(intptr_t)(1024 * (1 - priority));
    return 0;
}
int cudaStreamSynchronize(void *stream) { waited++; return lost ? 700 : stream == 0; }
"""


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler, which makes the library that stands in for CUDA's")
    source, made = tmp_path / "cudart.c", tmp_path / "libcudart.so"
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", made, source], check=True)
    monkeypatch.setattr(stream_priority, "_LIBRARIES", ("libcudart.so.none", str(made)))
    return ctypes.CDLL(str(made))


@pytest.mark.parametrize(("stream_class", "priority"), [("CRITICAL", -5), ("STANDARD", 0), ("BEST_EFFORT", 0)])
def test_the_class_decides(cuda: ctypes.CDLL, stream_class: str, priority: int) -> None:
    stream = priority_stream(0, stream_class)
    assert stream is not None
    assert stream.priority == priority
    own = Provider(name=TENSORRT, options={"user_compute_stream": "7"})
    tensorrt, given, cpu = stream.given_to((own, Provider(name=CUDA, options={"device_id": 0}), Provider(name=CPU)))
    assert given.options == {"device_id": 0, "user_compute_stream": str(1024 * (1 - priority))}
    assert tensorrt.options == {"user_compute_stream": "7"}
    assert not cpu.options


def test_it_is_waited_for(cuda: ctypes.CDLL) -> None:
    stream = priority_stream(0, "CRITICAL")
    assert stream is not None
    stream.wait()
    assert ctypes.c_int.in_dll(cuda, "waited").value == 1
    ctypes.c_int.in_dll(cuda, "lost").value = 1
    with pytest.raises(DeviceLost):
        stream.wait()


def test_what_cuda_refuses_is_an_error(cuda: ctypes.CDLL) -> None:
    with pytest.raises(RunError, match="CUDA failure 101"):
        priority_stream(3, "CRITICAL")


def test_without_cuda_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_priority, "_LIBRARIES", ("libcudart.so.none",))
    assert priority_stream(0, "CRITICAL") is None
