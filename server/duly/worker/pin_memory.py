"""Pins pages of the region, so that a GPU copies from and to them directly instead of through a buffer of its driver.

Everything works without it, but slower. What is pinned is memory from then on, and stays. It has not run on a GPU yet.
"""

import ctypes
from collections.abc import Sequence

import numpy as np

_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every context of this process


def pin(areas: Sequence[memoryview], device: int) -> bool:
    """Pins the pages of areas for CUDA device `device`. Returns False where CUDA is missing or refuses."""
    for name in _LIBRARIES:
        try:
            cuda = ctypes.CDLL(name)
        except OSError:
            continue
        cuda.cudaHostRegister.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
        pages = [np.frombuffer(area, np.uint8) for area in areas]
        return bool(cuda.cudaSetDevice(device) == 0) and all(
            cuda.cudaHostRegister(area.ctypes.data, area.nbytes, _PORTABLE) == 0 for area in pages
        )
    return False
