"""Pins the region's pages, so that a GPU copies from and to them directly instead of through a buffer of its driver.

Everything works without it, but slower. It has not run on a GPU yet.
"""

import ctypes

import numpy as np

from duly.worker.channel import Region

_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every context of this process


def pin(region: Region, device: int) -> bool:
    """Pins the pages of `region` for CUDA device `device`. Returns False where CUDA is missing or refuses."""
    for name in _LIBRARIES:
        try:
            cuda = ctypes.CDLL(name)
        except OSError:
            continue
        cuda.cudaHostRegister.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
        areas = [np.frombuffer(area, np.uint8) for area in region.inputs + region.outputs]
        return bool(cuda.cudaSetDevice(device) == 0) and all(
            cuda.cudaHostRegister(area.ctypes.data, area.nbytes, _PORTABLE) == 0 for area in areas
        )
    return False
