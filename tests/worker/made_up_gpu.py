"""A worker whose processor counts as a device with memory of its own, where a library made for the tests is CUDA's
runtime. All else is a worker's: `python -m tests.worker.made_up_gpu FD PARENT_PID`, with MADE_UP_CUDART in its
environment.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
    return tuple(row._replace(memory="cpu") if row.kind == "cpu" else row for row in rows)


if __name__ == "__main__":
    accelerators.ACCELERATORS = with_memory(accelerators.ACCELERATORS)
    cuda_runtime._LIBRARIES = (os.environ["MADE_UP_CUDART"],)
    ctypes.CDLL(os.environ["MADE_UP_CUDART"])  # a worker that is confined may not open it; then it is there already
    sys.exit(main.main(sys.argv[1:]))
