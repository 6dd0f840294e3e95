"""Which layers stay as they are beside others of 8 bits."""

import numpy as np
import onnx

from duly_learn.optimize.left import FIRST_MAX, nodes_left, tries
from tests import graphs


def chain(layers: int, scaled: bool = False) -> onnx.ModelProto:
    """Convolutions c0, c1, ... with a rectifier r and a pool p behind each but the last, and a softmax at the end."""
    make = onnx.helper.make_node
    nodes, tensor = [], "x"
    if scaled:
        nodes.append(make("Mul", ["x", "k"], ["s"], name="s"))
        tensor = "s"
    for nth in range(layers):
        nodes.append(make("Conv", [tensor, "w"], [f"c{nth}"], name=f"c{nth}", pads=[1, 1, 1, 1]))
        tensor = f"c{nth}"
        if nth < layers - 1:
            nodes.append(make("Relu", [tensor], [f"r{nth}"], name=f"r{nth}"))
            nodes.append(make("MaxPool", [f"r{nth}"], [f"p{nth}"], name=f"p{nth}", kernel_shape=[1, 1]))
            tensor = f"p{nth}"
    nodes.append(make("Softmax", [tensor], ["y"], name="y"))
    arrays = {"w": np.full((2, 2, 3, 3), 0.1, np.float32), "k": np.full(1, 0.5, np.float32)}
    extents = ["N", 2, 4, 4]
    return graphs.model(nodes, [graphs.value("x", extents)], [graphs.value("y", extents)], arrays)


def test_more_and_more_layers_are_left_but_never_more_than_half() -> None:
    assert tries(chain(9)) == [
        [],
        ["c8"],
        ["c0"],
        ["c0", "c8"],
        ["c0", "c1"],
        ["c0", "c1", "c8"],
        ["c0", "c1", "c2"],
        ["c0", "c1", "c2", "c8"],
    ]
    assert max(len(each) for each in tries(chain(40))) == FIRST_MAX + 1
    assert tries(chain(4)) == [[], ["c3"], ["c0"], ["c0", "c3"]]
    assert tries(chain(1)) == [[]]


def test_what_only_layers_that_stay_lead_to_stays() -> None:
    model = chain(4, scaled=True)
    assert nodes_left(model, []) == []
    assert nodes_left(model, ["c3"]) == ["c3", "y"]
    assert nodes_left(model, ["c0"]) == ["s", "c0", "r0", "p0"]
    assert nodes_left(model, ["c0", "c1", "c3"]) == ["s", "c0", "r0", "p0", "c1", "r1", "p1", "c3", "y"]


def test_a_node_that_reads_a_layer_of_8_bits_too_does_not_stay() -> None:
    model = chain(4)
    model.graph.node.append(onnx.helper.make_node("Add", ["r0", "r1"], ["z"], name="z"))
    assert "z" not in nodes_left(model, ["c0"])
    assert "z" in nodes_left(model, ["c0", "c1"])
