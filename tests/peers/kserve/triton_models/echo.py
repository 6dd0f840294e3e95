"""A model for Triton's Python backend: each input `in_NAME` comes back as `out_NAME`, whatever its type."""

import os
import sys
from typing import Any

sys.path[:0] = os.environ["PEER_PATH"].split(":")  # the backend sets PYTHONPATH itself

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb  # type: ignore[import-not-found] # noqa: E402


class TritonPythonModel:
    """The class under the name that the backend expects."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [pb.InferenceResponse([_echo(tensor) for tensor in request.inputs()]) for request in requests]


def _echo(tensor: Any) -> Any:
    name = tensor.name().replace("in_", "out_", 1)
    if name == "out_bf16":  # NumPy has no such type
        return pb.Tensor.from_dlpack(name, tensor.to_dlpack())
    return pb.Tensor(name, np.ascontiguousarray(tensor.as_numpy()))
