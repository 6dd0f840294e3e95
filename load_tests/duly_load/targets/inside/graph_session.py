"""A graph in ONNX Runtime on one thread, as `graph.json` beside the model describes it.

    {"file": "/models/m/1/model.onnx", "threads": 1, "inputs": {"x": "x"}, "outputs": {"y": "y"}}

Inputs and outputs: the graph's own name by that which clients use.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported
import onnxruntime


class GraphSession:
    """A model, ready to run."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds graph.json."""
        said = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
        self._inputs: dict[str, str] = said["inputs"]
        self._outputs: dict[str, str] = said["outputs"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = said["threads"]
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(said["file"], options, providers=["CPUExecutionProvider"])

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Arrays with the batch first, by the names that clients use."""
        feed = {self._inputs[name]: array for name, array in inputs.items()}
        return dict(zip(self._outputs, self._session.run([*self._outputs.values()], feed), strict=True))
