"""The few calls of CUDA's runtime that a worker makes itself: memory of the host is pinned and copied to a GPU, and
streams have a priority (`stream_priority`).

Names and numbers are those of driver_types.h. It has run on a library made for the tests, not on a GPU yet.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Sequence

from duly.worker.device_errors import run_error

_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_HOST_TO_DEVICE = 1  # cudaMemcpyHostToDevice
_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every context of this process
NON_BLOCKING = 1  # cudaStreamNonBlocking: it neither waits for the default stream nor keeps it waiting
_SIGNATURES: dict[str, Sequence[object]] = {
    "cudaSetDevice": (ctypes.c_int,),
    "cudaHostRegister": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint),
    "cudaStreamCreateWithFlags": (ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint),
    "cudaDeviceGetStreamPriorityRange": (ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)),
    "cudaStreamCreateWithPriority": (ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint, ctypes.c_int),
    "cudaMemcpyAsync": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p),
    "cudaStreamSynchronize": (ctypes.c_void_p,),
    "cudaGetLastError": (),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the runtime that ONNX Runtime has loaded, else one that there is; None: there is none."""
    for mode in (os.RTLD_NOLOAD, 0):
        for name in _LIBRARIES:
            with contextlib.suppress(OSError, AttributeError):
                found = ctypes.CDLL(name, mode | os.RTLD_NOW)
                for function, arguments in _SIGNATURES.items():
                    getattr(found, function).argtypes = arguments
                found.cudaGetErrorName.argtypes, found.cudaGetErrorName.restype = (ctypes.c_int,), ctypes.c_char_p
                return found
    return None


def forget_error(cuda: ctypes.CDLL) -> None:
    """Has CUDA forget the error of a call that has failed in this thread. It keeps the last one until it is asked for,
    and ONNX Runtime, which asks after launches of kernels, would take it for one of its own.
    """
    cuda.cudaGetLastError()


def pin(places: Sequence[tuple[int, int]], device: int) -> bool:
    """Pins memory of this process, given as (address, bytes), for a GPU. Returns False where CUDA is missing or
    refuses.
    """
    cuda = library()
    if cuda is None:
        return False
    pinned = cuda.cudaSetDevice(device) == 0 and all(
        cuda.cudaHostRegister(address, size_bytes, _PORTABLE) == 0 for address, size_bytes in places
    )
    if not pinned:
        forget_error(cuda)
    return pinned


class CopyStream:
    """Copies from the host's memory to a GPU, one after another, beside whatever the GPU computes. Any thread may use
    it.
    """

    def __init__(self, device: int, cuda: ctypes.CDLL) -> None:
        """Raises RunError where CUDA refuses."""
        self._cuda = cuda
        self._device = device
        self._stream = ctypes.c_void_p()
        self.use()
        self._check(cuda.cudaStreamCreateWithFlags(ctypes.byref(self._stream), NON_BLOCKING))

    def use(self) -> None:
        """Makes the GPU that of the calling thread. Raises RunError."""
        self._check(self._cuda.cudaSetDevice(self._device))

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Begins a copy from an address of the host to one of the GPU, which is done when `wait` has returned. The
        source must not change until then. Raises RunError.
        """
        self._check(self._cuda.cudaMemcpyAsync(target, source, size_bytes, _HOST_TO_DEVICE, self._stream))

    def wait(self) -> None:
        """Waits until all copies are done. Raises RunError."""
        self._check(self._cuda.cudaStreamSynchronize(self._stream))

    def _check(self, result: int) -> None:
        if result:
            forget_error(self._cuda)
            name = self._cuda.cudaGetErrorName(result) or b"unknown"
            text = f"CUDA failure {result}: {name.decode(errors='replace')}"
            raise run_error(text, text)


def copy_stream(device: int) -> CopyStream | None:
    """Returns a stream of that GPU; None: there is no runtime of CUDA. Raises RunError."""
    cuda = library()
    return None if cuda is None else CopyStream(device, cuda)
