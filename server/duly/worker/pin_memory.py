"""Pins pages of the region, so that a GPU copies from and to them directly instead of through a buffer of its driver.

Everything works without it, but slower. What is pinned is memory from then on, and stays. It has not run on a GPU yet.
"""

from collections.abc import Sequence

import numpy as np

from duly.worker import cuda_runtime


def pin(areas: Sequence[memoryview], device: int) -> bool:
    """Pins the pages of areas for CUDA device `device`. Returns False where CUDA is missing or refuses."""
    pages = [np.frombuffer(area, np.uint8) for area in areas]
    return cuda_runtime.pin([(area.ctypes.data, area.nbytes) for area in pages], device)
