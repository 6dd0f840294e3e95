"""A decoupled model for Triton's Python backend: x answers to a request for x, numbered from 0."""

import os
import sys
from typing import Any

sys.path[:0] = os.environ["PEER_PATH"].split(":")  # the backend sets PYTHONPATH itself

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb  # type: ignore[import-not-found] # noqa: E402


class TritonPythonModel:
    """The class under the name that the backend expects."""

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            for place in range(int(pb.get_input_tensor_by_name(request, "x").as_numpy().flat[0])):
                sender.send(pb.InferenceResponse([pb.Tensor("y", np.int32([place]))]))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
