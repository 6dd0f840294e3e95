"""Tells what the graph of a model takes and gives, without warming it up or keeping it.

    python -m duly.worker.describe

is a process of its own, as a worker is: it reads the body of a LOAD message from standard input as JSON, and writes to
standard output, as JSON too, what `describe` returns.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from duly.models.spec import ModelConfig
from duly.worker.errors import BackendError, LoadError
from duly.worker.graph import GraphTensor


def describe(body: dict[str, Any]) -> dict[str, Any]:
    """Opens the most accurate variant on the CPU, whatever model.toml says of providers.

    Returns `graph`, the tensors with their batch dimension, or None where the file cannot be opened; `frame`, what
    clients send and get for one frame, or None where that cannot be settled; and `problem`, the reason where one is
    None, else None.
    """
    config = ModelConfig.model_validate(body["config"])
    config = config.model_copy(update={"providers": (), "cuda_graph": False})
    file, model = config.variants[0].file, str(body["model"])
    name, toml = f"{model}/{file}", f"{model.split('/')[0]}/model.toml"
    graph = frame = problem = None
    try:
        # These imports are not at the top so that a missing library is a problem like others.
        from duly.worker.confine import confine_for
        from duly.worker.open_graph import plan_graph
        from duly.worker.open_session import MachineShare
        from duly.worker.ort_session import OrtSession
        from duly.worker.version_files import VersionFiles

        confine_for(body)
        opened = VersionFiles(model, Path(body["folder"]), lambda digests: None).graph(file)
        share = MachineShare(int(body["threads"]))
        session = OrtSession(opened, name, config, "cpu:0", Path(body["model_folder"]), share)
        graph = {
            "inputs": _listed(session.graph.inputs.values()),
            "outputs": _listed(session.graph.outputs.values()),
        }
        signature = plan_graph(session, config, toml).plan.signature()
        unsettled = {"labels", "bytes_max"}  # the former is of the repository, the latter of a server's settings
        frame = signature.model_dump(
            mode="json", exclude={"inputs": {"__all__": unsettled}, "outputs": {"__all__": unsettled}}
        )
    except (LoadError, BackendError) as error:
        problem = str(error)
    return {"graph": graph, "frame": frame, "problem": problem}


def _listed(tensors: Iterable[GraphTensor]) -> list[dict[str, Any]]:
    return [{"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in tensors]


if __name__ == "__main__":
    print(json.dumps(describe(json.load(sys.stdin))))
