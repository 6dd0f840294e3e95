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
        from duly_load.graphs import GRAPHS  # imported late: it needs onnx, which other runs can do without

        assert served.graph is not None
        shape = GRAPHS[served.graph].input_shape
    return (TensorSpec("x", "FP32", DTYPES["FP32"], shape),)
