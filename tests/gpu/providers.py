"""Whether what a stage is to run on is there."""

import ctypes

import onnxruntime

from duly.accelerators import TENSORRT
from tests.gpu.installing import TENSORRT_LIBRARIES
from tests.gpu.stages import Asked, LeftOut


def check_provider(asked: Asked) -> None:
    """Raises LeftOut where a stage of TensorRT has none."""
    if asked.provider != TENSORRT:
        return
    if asked.rehearsal:
        raise LeftOut("a rehearsal has no TensorRT")
    onnxruntime.preload_dlls()
    for library in TENSORRT_LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError:
            raise LeftOut(
                f"TensorRT is not installed: {library}, of tensorrt-cu13-libs below 11, cannot be loaded; "
                "make gpu GPU_ARGS=--tensorrt fetches it"
            ) from None
