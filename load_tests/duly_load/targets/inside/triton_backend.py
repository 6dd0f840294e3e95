"""A model for Triton's Python backend, copied to NAME/VERSION/model.py. Requests that Triton put into one batch run as
one.
"""

import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = os.environ["PEER_PATH"].split(":")  # the backend sets PYTHONPATH itself

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb  # type: ignore[import-not-found] # noqa: E402
from graph_session import GraphSession  # type: ignore[import-not-found]  # noqa: E402


class TritonPythonModel:
    """The class under the name that the backend expects."""

    def initialize(self, args: dict[str, str]) -> None:
        self._session = GraphSession(Path(args["model_repository"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        frames = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        if len(frames) == 1:
            return [_response(self._session.run(frames[0]))]
        outputs = self._session.run({name: np.concatenate([frame[name] for frame in frames]) for name in frames[0]})
        responses, begin = [], 0
        for frame in frames:
            end = begin + len(next(iter(frame.values())))
            responses.append(_response({name: array[begin:end] for name, array in outputs.items()}))
            begin = end
        return responses


def _response(outputs: dict[str, Any]) -> Any:
    return pb.InferenceResponse([pb.Tensor(name, np.ascontiguousarray(array)) for name, array in outputs.items()])
