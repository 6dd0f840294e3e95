"""A worker whose processor counts as a device with memory of its own, where a library made for the tests is CUDA's
runtime. All else is a worker's: `python -m tests.worker.made_up_gpu FD PARENT_PID`, with MADE_UP_CUDART in its
environment. MADE_UP_ON_HOST has the inputs that graphs take from the host's memory, as "k,limit"; all others they take
from the device's.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from duly import accelerators
from duly.worker import cuda_runtime, main

SOURCE = Path(__file__).with_name("made_up_cudart.c")


def library(folder: Path) -> Path:
    """Compiles the library into the folder, or skips the test where nothing compiles."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler, which makes the library that stands in for CUDA's")
    made = folder / "libcudart.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-pthread", "-Wall", "-Werror", "-o", made, SOURCE], check=True)
    return made


def with_memory(rows: tuple[accelerators.Accelerator, ...]) -> tuple[accelerators.Accelerator, ...]:
    """The table of accelerators, with the processor as a device that has memory of its own."""
    return tuple(row._replace(memory="cpu", reads_host=False) if row.kind == "cpu" else row for row in rows)


def part_memories(on_host: Collection[str], patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Has ONNX Runtime hold the host's memory and the device's apart, as it does where a GPU has its own: an input that
    is bound to the one and that the graph takes from the other is copied when it is bound, and not when it is run.
    `on_host`: the inputs that graphs take from the host's memory.
    """
    allocate = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    on_device: set[int] = set()

    def allocated(*args: Any) -> Any:
        value = allocate(*args)
        on_device.add(value.data_ptr())
        return value

    class Binding(onnxruntime.IOBinding):  # type: ignore[misc]
        def bind_input(self, name: str, kind: str, number: int, dtype: Any, shape: list[int], address: int) -> None:
            if name not in on_host:
                return super().bind_input(name, kind, number, dtype, shape, address)
            size_bytes = np.dtype(dtype).itemsize * int(np.prod(shape))
            copy = np.frombuffer(ctypes.string_at(address, size_bytes), dtype).reshape(shape).copy()
            return super().bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(copy))

        def bind_ortvalue_input(self, name: str, value: Any) -> None:
            elsewhere = (value.data_ptr() in on_device) == (name in on_host)
            super().bind_ortvalue_input(name, _copy_of(value) if elsewhere else value)

    def memories(session: Any) -> list[Any]:
        return [SimpleNamespace(name="Cpu" if each.name in on_host else "Cuda") for each in session.get_inputs()]

    patch(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", staticmethod(allocated))
    patch(onnxruntime.InferenceSession, "io_binding", lambda session: Binding(session))
    patch(onnxruntime.InferenceSession, "get_input_memory_infos", memories)


def _copy_of(value: Any) -> Any:
    data = np.frombuffer(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()), np.uint8).copy()
    elements = data.view(f"u{data.nbytes // int(np.prod(value.shape()))}").reshape(value.shape())
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(elements, value.element_type())


if __name__ == "__main__":
    accelerators.ACCELERATORS = with_memory(accelerators.ACCELERATORS)
    cuda_runtime._LIBRARIES = (os.environ["MADE_UP_CUDART"],)
    part_memories(os.environ.get("MADE_UP_ON_HOST", "").split(","))
    ctypes.CDLL(os.environ["MADE_UP_CUDART"])  # a worker that is confined may not open it; then it is there already
    sys.exit(main.main(sys.argv[1:]))
