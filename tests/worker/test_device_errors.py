"""What errors of runs say about the device: that it is lost, that its memory is used up, or neither."""

from pathlib import Path

import pytest

from duly.worker.device_errors import is_full, run_error
from duly.worker.errors import DeviceFull, DeviceLost, RunError
from duly.worker.ort_errors import load_reason, run_reason

AT = "bool onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, const char*, int) "
BFC = "void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "


@pytest.mark.parametrize(
    "text",
    [
        f"{AT}CUDA failure 2: out of memory ; GPU=0 ; hostname=a  ; expr=cudaMalloc((void**)&p, size);",
        f"{AT}CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=a ; expr=cublasCreate(&cublas_handle_);",
        f"{AT}CUDNN failure 4002: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0",
        f"{BFC}Failed to allocate memory for requested buffer of size 419430400",
        f"{BFC}Available memory of 536870912 is smaller than requested bytes of 1073741824",
        "Non-zero status code returned while running ConstantOfShape node. Name:'' Status Message: std::bad_alloc",
        "VK_ERROR_OUT_OF_DEVICE_MEMORY",
        "[GPU] clEnqueueNDRangeKernel, error code: -4 CL_MEM_OBJECT_ALLOCATION_FAILURE",
        "ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY",
        "HIP failure 2: out of memory ; GPU=0",
    ],
)
def test_memory_that_is_used_up(text: str) -> None:
    assert type(run_error(text, "why")) is DeviceFull
    assert is_full(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{AT}CUDA failure 700: an illegal memory access was encountered ; GPU=0",
        f"{AT}CUDA failure 214: uncorrectable ECC error encountered ; GPU=0",
        f"{AT}CUDA failure 806: MPS client failed to communicate with the MPS server ; GPU=0",
        f"{AT}CUDA failure 810: MPS client terminated ; GPU=0",
        "Device is lost.",
        "GPU is lost",
    ],
)
def test_a_lost_device_is_no_want_of_memory(text: str) -> None:
    assert type(run_error(text, "why")) is DeviceLost
    assert not is_full(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{AT}CUDA failure 20: something ; GPU=0",
        f"{AT}CUDA failure 81: something ; GPU=0",
        "indices element out of data bounds, idx=9 must be within the inclusive range [-5,4]",
        "Got invalid dimensions for input: x",
        f"{AT}CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0",
    ],
)
def test_other_errors_say_nothing_of_the_device(text: str) -> None:
    error = run_error(text, "why")
    assert (type(error), str(error)) == (RunError, "why")


@pytest.mark.parametrize("name", ["device lost", "out of memory", "CUDA failure 700"])
def test_a_node_may_be_called_anything(name: str) -> None:
    text = f"Non-zero status code returned while running Gather node. Name:'{name}' Status Message: out of bounds"
    assert type(run_error(text, text)) is RunError
    lost = type(run_error(f"{text}; CUDA failure 700: an illegal memory access was encountered", text))
    assert lost is DeviceLost


CALL_CC = "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc"
CALL = (
    "std::conditional_t<THRW, void, common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, "
    "const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError]"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {CALL_CC}:129 {CALL} {CALL_CC}:121 {CALL} CUDA failure 700: "
            "an illegal memory access was encountered ; GPU=0 ; hostname=robot-17 ; "
            "file=/onnxruntime_src/onnxruntime/core/providers/cuda/gpu_data_transfer.cc ; line=76 ; "
            "expr=cudaStreamSynchronize(static_cast<cudaStream_t>(stream.GetHandle())); \n",
            "CUDA failure 700: an illegal memory access was encountered",
        ),
        (
            "Non-zero status code returned while running Conv node. Name:'c' Status Message: CUDNN_FE failure 11: "
            "CUDNN_BACKEND_API_FAILED ; GPU=-1 ; hostname=robot-17 ; file=conv.cc ; line=1 ; expr=a(b); x",
            "Conv node 'c': CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED",
        ),
        ("HIP failure 2: out of memory ; GPU=0 ; hostname=robot-17  ; expr=hipMalloc;", "HIP failure 2: out of memory"),
        ("x ; hostname=robot-17", "x"),
    ],
)
def test_clients_are_not_told_the_machines_name(text: str, reason: str) -> None:
    assert run_reason(text) == reason
    assert load_reason(text, Path("model.onnx"), "lane cuda:0: ") == f"lane cuda:0: {reason}"
