"""Channels are followed through graphs, and taken out of them."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from duly_learn.graphs.channels import follow
from duly_learn.graphs.constants import arrays_of, set_array, with_initializers
from duly_learn.graphs.cut import cut
from duly_learn.graphs.part import Part
from duly_learn.graphs.work import work_of
from tests.learn.random_graphs import Builder, random_network


def _answers(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return Part(model, ["y"]).run({"x": x})["y"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_without_channels_that_nobody_weighs_the_answers_are_exactly_the_same(seed: int) -> None:
    model = with_initializers(random_network(seed))
    channels = follow(model)
    random = np.random.default_rng(seed + 1)
    removed: set[int] = set()
    for group in channels.groups:
        count = int(random.integers(0, len(group.classes)))
        removed.update(int(each) for each in random.choice(group.classes, count, replace=False))
    for layer in channels.layers:  # what reads them gives them no weight
        if layer.atoms_in is not None:
            weight = np.moveaxis(arrays_of(model)[layer.weight].copy(), layer.axis_in, 0)
            weight[np.isin(channels.roots[layer.atoms_in], list(removed))] = 0
            set_array(model, layer.weight, np.moveaxis(weight, 0, layer.axis_in))
    smaller = cut(model, channels, removed)
    onnx.checker.check_model(smaller, full_check=True)
    x = random.integers(-2, 3, (2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(_answers(smaller, x), _answers(model, x))
    for name, value in arrays_of(smaller).items():
        assert value.size <= arrays_of(model).get(name, value).size
    if removed:
        assert work_of(smaller, follow(smaller)) < work_of(model, channels)


def test_random_networks_have_channels_to_take_out() -> None:
    assert sum(bool(follow(with_initializers(random_network(seed))).groups) for seed in range(50)) > 40


def test_channels_that_are_added_are_one_group() -> None:
    builder = Builder(np.random.default_rng(0), exact=True)
    builder.conv(5)
    builder.residual()
    builder.head()
    channels = follow(with_initializers(builder.model()))
    first, inner, last = channels.layers[:3]
    assert {tuple(group.layers) for group in channels.groups} >= {(0, 2), (1,)}
    assert (channels.roots[first.atoms_out] == channels.roots[last.atoms_out]).all()
    assert not set(channels.roots[inner.atoms_out]) & set(channels.roots[first.atoms_out])


def _with_layer_between(nodes: list[onnx.NodeProto], *initializers: onnx.TensorProto) -> onnx.ModelProto:
    """conv `a` [4 channels] → `nodes` from "a" to "b" → conv `y`."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal((4, 3, 1, 1)).astype(np.float32), "wa"),
        numpy_helper.from_array(random.standard_normal((2, 4, 1, 1)).astype(np.float32), "wy"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "wa"], ["a"], name="first"),
            *nodes,
            helper.make_node("Conv", ["b", "wy"], ["y"], name="last"),
        ],
        "between",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 8, 8])],
        [*weights, *initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("node", "initializers"),
    [
        (helper.make_node("LRN", ["a"], ["b"], name="odd", size=3), ()),
        (helper.make_node("Softmax", ["a"], ["b"], name="odd", axis=1), ()),
        (helper.make_node("CumSum", ["a", "axis"], ["b"], name="odd"), (numpy_helper.from_array(np.array(1), "axis"),)),
        (helper.make_node("DepthToSpace", ["a"], ["b"], name="odd", blocksize=1), ()),
    ],
)
def test_what_cannot_be_followed_keeps_its_channels_by_name(
    node: onnx.NodeProto, initializers: tuple[onnx.TensorProto, ...]
) -> None:
    channels = follow(_with_layer_between([node], *initializers))
    assert not channels.groups
    assert f"{node.op_type} 'odd'" in channels.kept["Conv 'first'"]
    assert "the graph's output 'y'" in channels.kept["Conv 'last'"]


def test_a_weight_that_another_node_reads_keeps_its_channels() -> None:
    same = helper.make_node("Relu", ["a"], ["b"])
    model = _with_layer_between([same])
    model.graph.node.append(helper.make_node("ReduceSum", ["wa"], ["z"], name="penalty", keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, []))
    channels = follow(model)
    assert not channels.groups
    assert "ReduceSum 'penalty'" in channels.kept["Conv 'first'"]


def test_nothing_of_a_layer_left_is_refused() -> None:
    model = _with_layer_between([helper.make_node("Relu", ["a"], ["b"])])
    channels = follow(model)
    with pytest.raises(ValueError, match="nothing of Conv 'first' would be left"):
        cut(model, channels, {int(each) for each in channels.groups[0].classes})
