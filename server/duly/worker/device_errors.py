"""What an error of a run says about the device: that it is lost, or that its memory is used up.

Providers raise one kind of exception for everything, so that only their words tell. After some errors everything that
follows fails, too: CUDA says so of errors that destroy its context ("sticky" ones, cudaError of its Runtime API), and
WebGPU of a lost device. Then nothing helps but a new process. The words are those of ONNX Runtime 1.24 to 1.32.
"""

import re

from duly.worker.errors import DeviceFull, DeviceLost, RunError

_CUDA_STICKY = (
    4,  # cudaErrorCudartUnloading
    46,  # cudaErrorDevicesUnavailable
    101,  # cudaErrorInvalidDevice
    214,  # cudaErrorECCUncorrectable
    220,  # cudaErrorNvlinkUncorrectable
    226,  # cudaErrorContained
    700,  # cudaErrorIllegalAddress
    702,  # cudaErrorLaunchTimeout
    709,  # cudaErrorContextIsDestroyed
    710,  # cudaErrorAssert
    *range(714, 720),  # hardware stack error, illegal instruction, misaligned address, ..., cudaErrorLaunchFailure
    721,  # cudaErrorTensorMemoryLeak
    806,  # cudaErrorMpsRpcFailure
    810,  # cudaErrorMpsClientTerminated
    999,  # cudaErrorUnknown
)
_LOST = re.compile(
    rf"CUDA failure ({'|'.join(map(str, _CUDA_STICKY))})\b"
    r"|(illegal memory access|unspecified launch failure|uncorrectable (ECC|NVLink) error)"
    r"|\[?\bdevice\]?( is| was)? lost|DEVICE_LOST|DEVICE_REMOVED|GPU is lost"
    r"|HIP failure (700|719|999)\b|CL_DEVICE_NOT_AVAILABLE|ZE_RESULT_ERROR_DEVICE_LOST",
    re.IGNORECASE,
)
_FULL = re.compile(
    r"CUDA failure 2\b|HIP failure 2\b|out of (device )?memory|OUT_OF_(DEVICE_|HOST_)?MEMORY|OutOfMemory"
    r"|(CUBLAS|CUDNN|CUFFT|CUSPARSE|CUSOLVER)_\w*ALLOC(ATION)?_FAILED|CL_MEM_OBJECT_ALLOCATION_FAILURE"
    r"|[Ff]ailed to allocate memory for requested buffer|bad_alloc"
    r"|Available memory of \d+ is smaller than requested bytes of",  # an arena that has a limit (gpu_mem_limit)
    re.IGNORECASE,
)
_NODE = re.compile(r"\bName:'[^']*'")
"""How a node is named, which its author may have called anything."""


def is_full(text: str) -> bool:
    """Whether ONNX Runtime says that memory is used up, on the device or on the host."""
    return _FULL.search(_NODE.sub("", text)) is not None


def run_error(text: str, reason: str) -> RunError:
    """Returns the error to raise. `text`: what ONNX Runtime said; `reason`: the same for people."""
    if _LOST.search(_NODE.sub("", text)):
        return DeviceLost(reason)
    if is_full(text):
        return DeviceFull(reason)
    return RunError(reason)
