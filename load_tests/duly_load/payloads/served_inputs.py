"""What the models of a scenario take, for targets that do not say: the floor, and no target at all."""

from duly_client.convert import DTYPES
from duly_client.types import TensorSpec
from duly_load.scenario.scenario import Scenario


def inputs_of(scenario: Scenario, model: str) -> tuple[TensorSpec, ...]:
    """The input of one of the scenario's models that is a graph of ours; empty where it is none."""
    served = next((each for each in scenario.serve.model if each.name == model), None)
    if served is None or served.folder is not None:
        return ()
    if served.dense is not None:
        shape: tuple[int, ...] = (served.dense.width,)
    else:
        from duly_load.models.graphs import MODELS  # late: it takes onnx, which seldom is needed here

        shape = next(each.input_shape for each in MODELS if each.name == served.graph)
    return (TensorSpec("x", "FP32", DTYPES["FP32"], shape),)
