"""Boosted trees as an ONNX graph that takes what another graph takes and gives what it gives.

scikit-learn's HistGradientBoostingClassifier is written down as one TreeEnsembleRegressor with a score for each class,
from the tables of its trees. The same trees make the same bytes: nothing in the graph depends on when it was made.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import HistGradientBoostingClassifier

from duly_learn.errors import LearnError

ABSENT = -30.0
"""The score of a class that no label has: next to no chance beside the others."""
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_WHOLE = (TensorProto.INT64, TensorProto.INT32)


def fit(
    numbers: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], seed: int
) -> HistGradientBoostingClassifier:
    """Trains on [n, k] numbers, [n] classes and [n] weights. Raises LearnError where there is one class alone."""
    if len(np.unique(labels)) < 2:
        raise LearnError(f"all {len(labels)} labels are of one class, {labels[0] if len(labels) else 'none'}")
    model = HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=8, l2_regularization=1.0,
        early_stopping=False, random_state=seed,
    )  # fmt: skip
    return model.fit(numbers, labels, sample_weight=weights)


def as_graph(
    trees: HistGradientBoostingClassifier, like: onnx.ModelProto, classes: int, logits: bool, scores: str
) -> onnx.ModelProto:
    """Returns a graph with the inputs and outputs of `like`. `classes`: how many there are. `logits`: whether the
    output `scores` has scores before softmax, rather than shares. Any other output must be the class as a whole number.

    Raises LearnError, which names the input or output that trees cannot take or give.
    """
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, npt.NDArray[np.generic]] = {}
    parts = []
    known = {tensor.name for tensor in like.graph.initializer}
    inputs = [each for each in like.graph.input if each.name not in known]
    for at, each in enumerate(inputs):
        kind = each.type.tensor_type.elem_type
        if kind == TensorProto.STRING:
            raise LearnError(f"the input '{each.name}' is text, which trees do not take")
        nodes.append(helper.make_node("Flatten", [each.name], [f":flat{at}"], axis=1))
        nodes.append(helper.make_node("Cast", [f":flat{at}"], [f":part{at}"], to=TensorProto.FLOAT))
        parts.append(f":part{at}")
    nodes.append(helper.make_node("Concat", parts, [":numbers"], axis=1))
    nodes.append(_ensemble(trees, classes))
    # The operator passes over the base value of a class that has no leaf.
    constants[":base"] = _base(trees, classes)
    nodes.append(helper.make_node("Add", [":sums", ":base"], [":scores"]))
    nodes.append(helper.make_node("Softmax", [":scores"], [":shares"], axis=1))
    for output in like.graph.output:
        nodes += _output(output, classes, logits, scores, constants)
    tensors = [numpy_helper.from_array(array, name) for name, array in sorted(constants.items())]
    graph = helper.make_graph(nodes, "trees", inputs, list(like.graph.output), tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="duly")


def elements(value: onnx.ValueInfoProto) -> int | None:
    """The number of elements of one frame, the first dimension being the batch; None: it is open."""
    extents = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
    return int(np.prod(extents)) if all(extent > 0 for extent in extents) else None


def _output(
    output: onnx.ValueInfoProto,
    classes: int,
    logits: bool,
    scores: str,
    constants: dict[str, npt.NDArray[np.generic]],
) -> list[onnx.NodeProto]:
    name, kind, size = output.name, output.type.tensor_type.elem_type, elements(output)
    extents = [dim.dim_value for dim in output.type.tensor_type.shape.dim][1:]
    nodes: list[onnx.NodeProto] = []
    if kind in _WHOLE and size == 1:
        nodes.append(helper.make_node("ArgMax", [":scores"], [f"{name}:chosen"], axis=1, keepdims=1))
    elif name != scores:  # an age, an amount or a guard's score: labels say nothing about it
        raise LearnError(
            f"the output '{name}' is neither '{scores}', which has the scores, nor the class as a whole number, and "
            "trees cannot give it; take it out of the graph"
        )
    elif kind in _FLOATS and size == classes:
        nodes.append(helper.make_node("Identity", [":scores" if logits else ":shares"], [f"{name}:chosen"]))
    elif kind in _FLOATS and size == 1 and classes == 2:
        column = np.array([[-1.0], [1.0]] if logits else [[0.0], [1.0]], np.float32)
        constants[f"{name}:column"] = column
        nodes.append(
            helper.make_node("MatMul", [":scores" if logits else ":shares", f"{name}:column"], [f"{name}:chosen"])
        )
    else:
        raise LearnError(
            f"the output '{name}' has {size if size is not None else 'an open number of'} elements a frame; trees give "
            f"the class as a whole number, or {classes} scores{' or the one of class 1' if classes == 2 else ''}"
        )
    constants[f"{name}:shape"] = np.array([-1, *extents], np.int64)
    nodes.append(helper.make_node("Reshape", [f"{name}:chosen", f"{name}:shape"], [f"{name}:shaped"]))
    nodes.append(helper.make_node("Cast", [f"{name}:shaped"], [name], to=kind))
    return nodes


def _ensemble(trees: HistGradientBoostingClassifier, classes: int) -> onnx.NodeProto:
    """One node that gives the `:sums` [N, classes] of the trees for `:numbers` [N, k]."""
    targets = _targets(trees)
    rows: dict[str, list[float | int | str]] = {
        key: []
        for key in (
            "treeids",
            "nodeids",
            "featureids",
            "modes",
            "values",
            "truenodeids",
            "falsenodeids",
            "missing_value_tracks_true",
        )
    }
    leaves: dict[str, list[float | int]] = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}
    tree = 0
    for iteration in trees._predictors:
        for target, predictor in zip(targets, iteration, strict=True):
            for at, node in enumerate(predictor.nodes):
                leaf = bool(node["is_leaf"])
                _row(rows, tree, at, node, leaf)
                if leaf:
                    _append(leaves, treeids=tree, nodeids=at, ids=target, weights=float(node["value"]))
            tree += 1
    attributes: dict[str, Any] = {f"nodes_{key}": values for key, values in rows.items()}
    attributes |= {f"target_{key}": values for key, values in leaves.items()}
    return helper.make_node(
        "TreeEnsembleRegressor", [":numbers"], [":sums"], domain="ai.onnx.ml",
        n_targets=classes, post_transform="NONE", aggregate_function="SUM",
        **attributes,
    )  # fmt: skip


def _targets(trees: HistGradientBoostingClassifier) -> list[int]:
    """The classes that have trees, in their order: of two, one has them all."""
    present = [int(each) for each in trees.classes_]
    return present[1:] if len(present) == 2 else present


def _base(trees: HistGradientBoostingClassifier, classes: int) -> npt.NDArray[np.float32]:
    base = np.full((1, classes), ABSENT, np.float32)
    base[0, trees.classes_.astype(np.int64)] = 0.0
    base[0, _targets(trees)] = np.asarray(trees._baseline_prediction, np.float64).ravel()
    return base


def _row(rows: dict[str, list[float | int | str]], tree: int, at: int, node: np.void, leaf: bool) -> None:
    _append(
        rows,
        treeids=tree,
        nodeids=at,
        featureids=0 if leaf else int(node["feature_idx"]),
        modes="LEAF" if leaf else "BRANCH_LEQ",
        values=0.0 if leaf else _below(float(node["num_threshold"])),
        truenodeids=0 if leaf else int(node["left"]),
        falsenodeids=0 if leaf else int(node["right"]),
        missing_value_tracks_true=0 if leaf else int(node["missing_go_to_left"]),
    )


def _append(
    lists: "dict[str, list[float | int | str]] | dict[str, list[float | int]]", **values: float | int | str
) -> None:
    for key, value in values.items():
        lists[key].append(value)  # type: ignore[arg-type]


def _below(threshold: float) -> float:
    """The largest FP32 number that is not above it, so that FP32 numbers go the way they went in training."""
    with np.errstate(over="ignore"):
        near = np.float32(threshold)
    if np.isfinite(near) and float(near) > threshold:
        near = np.nextafter(near, np.float32(-np.inf))
    return float(near)
