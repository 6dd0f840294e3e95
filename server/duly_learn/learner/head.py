"""The head of a classifier: the last Gemm or MatMul of its graph, which turns features into scores, trained further.

It begins with the weights that are there, and is held to them by a penalty (L2 towards the old weights), so that few
labels change little. Nothing else of the graph changes: what its inputs and outputs are, and how features come about.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from scipy.optimize import minimize

from duly_learn.errors import LearnError

Numbers = npt.NDArray[np.float64]

STEPS_MAX = 200
"""The training of a head takes so many steps at most, and goes with what it has then."""
PENALTY = 1e-3
"""Of the squared distance from the old weights, beside the mean loss of a label."""
FEATURES = "duly:features"
"""The output of the graph without its head."""
_AFTER = ("Softmax", "LogSoftmax", "Sigmoid", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast")
"""What may come between the head's scores and the output: it leaves the order of the classes as it is."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the head is in a graph, and its weights as [features, scores] and [scores]."""

    features: str
    """The tensor that goes into it."""
    weight_name: str
    bias_name: str
    """Empty: it has none, and none is trained."""
    transposed: bool
    """Whether the graph has the weights as [scores, features]."""
    weight: Numbers
    bias: Numbers
    sigmoid: bool
    """Whether each score stands for itself, as after Sigmoid, rather than against the others."""
    readers: tuple[str, str]
    """The first outputs of the nodes that read the weights and the bias."""


def find_head(graph: onnx.ModelProto, output: str) -> Head:
    """Finds the head whose scores become the graph's `output`. Raises LearnError, which names what is in the way."""
    makers = {name: node for node in graph.graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    tensor, sigmoid = output, False
    added: str | None = None
    adds = ""
    for _ in range(len(graph.graph.node) + 1):
        node = makers.get(tensor)
        if node is None:
            raise LearnError(f"the output '{output}' comes from no Gemm or MatMul")
        if node.op_type == "Gemm":
            return _of_gemm(node, weights, sigmoid, output)
        if node.op_type == "MatMul":
            if node.input[1] not in weights:
                raise LearnError(f"the last MatMul before '{output}' has weights that are computed, not stored")
            weight = numpy_helper.to_array(weights[node.input[1]]).astype(np.float64)
            if weight.ndim != 2:
                raise LearnError(
                    f"the last MatMul before '{output}' has weights of shape {list(weight.shape)}, not 2-D"
                )
            bias = (
                numpy_helper.to_array(weights[added]).astype(np.float64).ravel() if added else np.zeros(weight.shape[1])
            )
            if len(bias) != weight.shape[1]:
                raise LearnError(f"what is added after the last MatMul before '{output}' is no bias of its scores")
            return Head(node.input[0], node.input[1], added or "", False, weight, bias, sigmoid, (node.output[0], adds))
        if node.op_type == "Add" and added is None and any(name in weights for name in node.input):
            added, adds = next(name for name in node.input if name in weights), node.output[0]
            tensor = next(name for name in node.input if name != added)
        elif node.op_type in _AFTER and added is None:
            sigmoid = sigmoid or node.op_type == "Sigmoid"
            tensor = node.input[0]
        else:
            raise LearnError(
                f"'{node.op_type}' stands between the output '{output}' and the last Gemm or MatMul, so that its "
                "weights cannot be trained by themselves"
            )
    raise LearnError(f"the output '{output}' comes from no Gemm or MatMul")


def without_head(graph: onnx.ModelProto, head: Head) -> onnx.ModelProto:
    """Returns the graph that gives the features alone, as the output FEATURES of shape [N, features]."""
    body = onnx.ModelProto()
    body.CopyFrom(graph)
    del body.graph.output[:]
    body.graph.node.append(helper.make_node("Identity", [head.features], [FEATURES]))
    body.graph.output.append(
        helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, [None, head.weight.shape[0]])
    )
    return body


def train(
    head: Head, features: Numbers, labels: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
) -> tuple[Numbers, Numbers]:
    """Returns weight and bias after training on [n, features], [n] classes and the [n] weights of labels.

    Raises LearnError for a class that the head has no score for.
    """
    count, scores = head.weight.shape
    single = scores == 1
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= (2 if single else scores):
        raise LearnError(
            f"labels are from 0 to {1 if single else scores - 1}, one is {labels.max() if len(labels) else 'none'}"
        )
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = (features - centre) / spread
    # In scaled features the same head has other numbers: w' = w spread, b' = b + centre w.
    begin = np.concatenate([(head.weight * spread[:, None]).ravel(), head.bias + centre @ head.weight])
    free_bias = bool(head.bias_name)
    share = weights / weights.sum()
    wanted = np.zeros((len(labels), 2 if single else scores))
    wanted[np.arange(len(labels)), labels] = 1.0

    def loss(flat: Numbers) -> tuple[float, Numbers]:
        weight, bias = flat[: count * scores].reshape(count, scores), flat[count * scores :]
        given = scaled @ weight + bias
        if single or head.sigmoid:
            target = wanted[:, 1:] if single else wanted
            value = np.logaddexp(0, given) - target * given
            slope = 1 / (1 + np.exp(-np.clip(given, -500, 500))) - target
        else:
            logs = given - given.max(axis=1, keepdims=True)
            logs = logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
            value, slope = -(wanted * logs), np.exp(logs) - wanted
        away = flat - begin
        by_weight, by_bias = scaled.T @ (share[:, None] * slope), (share[:, None] * slope).sum(axis=0)
        gradient = np.concatenate([by_weight.ravel(), by_bias if free_bias else np.zeros(scores)]) + 2 * PENALTY * away
        return float((share[:, None] * value).sum() + PENALTY * away @ away), gradient

    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": STEPS_MAX}).x
    weight = found[: count * scores].reshape(count, scores) / spread[:, None]
    bias = found[count * scores :] - centre @ weight
    return weight, bias if free_bias else head.bias


def with_head(graph: onnx.ModelProto, head: Head, weight: Numbers, bias: Numbers) -> onnx.ModelProto:
    """Returns the graph with other weights in its head. Weights that others read too stay as they are for those: the
    head gets tensors of its own.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    for name, numbers, reader in (
        (head.weight_name, weight.T if head.transposed else weight, head.readers[0]),
        (head.bias_name, bias, head.readers[1]),
    ):
        if not name:
            continue
        tensor = next(each for each in changed.graph.initializer if each.name == name)
        old = numpy_helper.to_array(tensor)
        array = np.ascontiguousarray(numbers.reshape(old.shape), dtype=old.dtype)
        if _times_read(changed.graph, name) == 1:
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            continue
        own = f"{name}:of:{reader}"
        changed.graph.initializer.append(numpy_helper.from_array(array, own))
        node = next(each for each in changed.graph.node if each.output[0] == reader)
        node.input[list(node.input).index(name)] = own
    return changed


def _times_read(graph: onnx.GraphProto, name: str) -> int:
    """How often a tensor is read: by nodes, also those of graphs within nodes, and as an output."""
    times = sum(output.name == name for output in graph.output)
    for node in graph.node:
        times += list(node.input).count(name)
        for attribute in node.attribute:
            times += sum(_times_read(inner, name) for inner in (attribute.g, *attribute.graphs))
    return times


def _of_gemm(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], sigmoid: bool, output: str) -> Head:
    stated = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if (
        node.input[1] not in weights
        or stated.get("transA")
        or any(stated.get(k, 1.0) != 1.0 for k in ("alpha", "beta"))
    ):
        raise LearnError(f"the Gemm before '{output}' has weights that are computed, or scales them")
    weight = numpy_helper.to_array(weights[node.input[1]]).astype(np.float64)
    transposed = bool(stated.get("transB"))
    weight = weight.T if transposed else weight
    bias_name = node.input[2] if len(node.input) > 2 and node.input[2] in weights else ""
    bias = (
        numpy_helper.to_array(weights[bias_name]).astype(np.float64).ravel() if bias_name else np.zeros(weight.shape[1])
    )
    if len(bias) != weight.shape[1]:
        raise LearnError(f"the bias of the Gemm before '{output}' has {len(bias)} numbers for {weight.shape[1]} scores")
    readers = node.output[0], node.output[0]
    return Head(node.input[0], node.input[1], bias_name, transposed, weight, bias, sigmoid, readers)
