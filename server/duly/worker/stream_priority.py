"""A stream of CUDA with a priority, on which ONNX Runtime runs in place of one of its own (`user_compute_stream`).

Priorities order what waits in streams of one context. Workers are processes, so that they matter only between workers
on one GPU under MPS, which maps those of all its clients to one order. There the class that streams of a model have
where they state none decides: CRITICAL takes the highest priority, STANDARD the usual one, BEST_EFFORT the lowest.

At the end of a run ONNX Runtime waits for a stream that it was given as for its own (`OnRunEnd`). As this has not been
seen on a GPU, the worker waits, too, before it reads any result: that costs next to nothing where all is done.

Names and numbers are those of CUDA's runtime (cuda_runtime_api.h, driver_types.h). It has run on a library made for
the tests, not on a GPU yet.
"""

import ctypes
from collections.abc import Sequence

from duly.accelerators import CUDA, TENSORRT
from duly.models.spec import Provider
from duly.worker.cuda_runtime import NON_BLOCKING, forget_error, library
from duly.worker.device_errors import run_error

_GIVEN = "user_compute_stream"


class PriorityStream:
    """A stream of one GPU, which lives as long as the process."""

    def __init__(self, cuda: ctypes.CDLL, device: int, stream_class: str) -> None:
        """Raises RunError where CUDA refuses."""
        self._cuda = cuda
        stream, least, greatest = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
        self._check(cuda.cudaSetDevice(device))
        self._check(cuda.cudaDeviceGetStreamPriorityRange(ctypes.byref(least), ctypes.byref(greatest)))
        # Lower numbers are higher priorities, and 0 is the usual one.
        self.priority = {"CRITICAL": greatest.value, "BEST_EFFORT": least.value}.get(stream_class, 0)
        self._check(cuda.cudaStreamCreateWithPriority(ctypes.byref(stream), NON_BLOCKING, self.priority))
        self._stream = stream

    def given_to(self, asked: Sequence[Provider]) -> tuple[Provider, ...]:
        """Returns the providers with the stream, which all of CUDA must share. What model.toml states wins."""
        given = {_GIVEN: str(self._stream.value)}
        return tuple(
            each.model_copy(update={"options": given | each.options}) if each.name in (CUDA, TENSORRT) else each
            for each in asked
        )

    def wait(self) -> None:
        """Waits until all that was begun on the stream is done. Raises RunError."""
        self._check(self._cuda.cudaStreamSynchronize(self._stream))

    def _check(self, result: int) -> None:
        if result:
            forget_error(self._cuda)
            text = f"CUDA failure {result}: a stream with a priority"
            raise run_error(text, text)


def priority_stream(device: int, stream_class: str) -> PriorityStream | None:
    """Returns a stream of that GPU; None: there is no runtime of CUDA. Raises RunError where CUDA refuses."""
    cuda = library()
    return None if cuda is None else PriorityStream(cuda, device, stream_class)
