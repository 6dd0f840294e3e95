"""A model for Triton's Python backend that adds up what comes in each sequence: y = total' = total + x."""

import os
import sys
from typing import Any

sys.path[:0] = os.environ["PEER_PATH"].split(":")  # the backend sets PYTHONPATH itself

import triton_python_backend_utils as pb  # type: ignore[import-not-found] # noqa: E402


class TritonPythonModel:
    """The class under the name that the backend expects."""

    def initialize(self, args: dict[str, str]) -> None:
        self._totals: dict[int | str, Any] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        x = pb.get_input_tensor_by_name(request, "x").as_numpy()
        sequence, flags = request.correlation_id(), request.flags()
        before = 0 if flags & pb.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START else self._totals[sequence]
        total = self._totals[sequence] = before + x
        if flags & pb.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            del self._totals[sequence]
        return pb.InferenceResponse([pb.Tensor("y", total)])
