"""Computes ONNX graphs in jax, so that they can be trained: the operators of convolutional and dense networks.

`Interpreter(model)` refuses at once, with the node's name, what it has no operator for. What comes out is
differentiable in every float initializer. Shapes are computed from what comes in, so that `jax.vmap` makes batches even
of a graph whose own batch is fixed.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import onnx

from duly_learn.graphs.constants import Array, arrays_of, called, integer, integers, real, with_initializers, word
from duly_learn.graphs.pads import pads_of

Values = Mapping[str, jax.Array]
Operator = Callable[[onnx.NodeProto, list[jax.Array]], jax.Array]


class CannotTrain(ValueError):
    """The graph has something that is not computed here; the message names the node."""


class Interpreter:
    """A graph, or its nodes from some tensors on, as a function of arrays."""

    def __init__(self, model: onnx.ModelProto, nodes: Sequence[int] | None = None) -> None:
        """`nodes`: the places of the nodes that are computed, in order; None: all.

        Raises CannotTrain where a node has no operator here.
        """
        model = with_initializers(model)
        graph = model.graph
        self._nodes = [graph.node[place] for place in (range(len(graph.node)) if nodes is None else nodes)]
        self._opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
        self.outputs = [each.name for each in graph.output]
        for node in self._nodes:
            self._refuse_unknown(node)
        read = {name for node in self._nodes for name in node.input}
        arrays = {name: value for name, value in arrays_of(model).items() if name in read}
        self.weights: dict[str, Array] = {name: value for name, value in arrays.items() if value.dtype == np.float32}
        """What can be trained, by name."""
        self._fixed = {name: value for name, value in arrays.items() if name not in self.weights}

    def _refuse_unknown(self, node: onnx.NodeProto) -> None:
        if node.domain not in ("", "ai.onnx") or node.op_type not in _OPERATORS:
            domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
            raise CannotTrain(
                f"{domain}{called(node)} is not among the operators that can be trained: "
                f"{', '.join(sorted(_OPERATORS))}"
            )
        if node.op_type in ("MaxPool", "Dropout") and len([name for name in node.output if name]) > 1:
            raise CannotTrain(f"{called(node)} gives a second output, which can't be trained through")
        if node.op_type in ("MaxPool", "AveragePool") and integer(node, "ceil_mode"):
            raise CannotTrain(f"{called(node)} has ceil_mode, which is not computed here")
        if node.op_type == "Softmax" and self._opset < 13:
            raise CannotTrain(f"{called(node)} is of opset {self._opset}; from 13 on it can be trained")

    def __call__(self, weights: Values, feeds: Values) -> dict[str, jax.Array]:
        """Returns the graph's outputs, and what else `_nodes` give, by name."""
        values: dict[str, jax.Array] = {**self._fixed, **weights, **feeds}  # type: ignore[dict-item]
        for node in self._nodes:
            given = [values[name] for name in node.input if name]
            values[node.output[0]] = _OPERATORS[node.op_type](node, given)
        return {name: values[name] for name in self.outputs}


# ---- operators ----


def _conv(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    kernel = x[1].shape[2:]
    dims = len(kernel)
    strides = integers(node, "strides", (1,) * dims)
    dilations = integers(node, "dilations", (1,) * dims)
    pads = pads_of(node, x[0].shape[2:], kernel, strides, dilations)
    letters = "HWD"[:dims]
    result: jax.Array = jax.lax.conv_general_dilated(
        x[0],
        x[1],
        strides,
        list(zip(pads[:dims], pads[dims:], strict=True)),
        rhs_dilation=dilations,
        dimension_numbers=(f"NC{letters}", f"OI{letters}", f"NC{letters}"),
        feature_group_count=integer(node, "group", 1),
    )
    return result + x[2].reshape(1, -1, *[1] * dims) if len(x) > 2 else result


def _batch_norm(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    value, scale, bias, mean, variance = x
    shape = (1, -1, *[1] * (value.ndim - 2))
    factor = scale / jnp.sqrt(variance + real(node, "epsilon", 1e-5))
    return value * factor.reshape(shape) + (bias - mean * factor).reshape(shape)


def _window(node: onnx.NodeProto, value: jax.Array) -> tuple[tuple[int, ...], ...]:
    kernel = integers(node, "kernel_shape")
    strides = integers(node, "strides", (1,) * len(kernel))
    dilations = integers(node, "dilations", (1,) * len(kernel))
    return kernel, strides, dilations, pads_of(node, value.shape[2:], kernel, strides, dilations)


def _max_pool(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    kernel, strides, dilations, pads = _window(node, x[0])
    dims = len(kernel)
    size = x[0].shape[2:]
    plain = not any(pads) and set(dilations) == {1} and kernel == strides
    if plain and not any(extent % k for extent, k in zip(size, kernel, strict=True)):
        # Windows that lie side by side: faster to train through on a CPU than windows in general.
        split = [each for extent, k in zip(size, kernel, strict=True) for each in (extent // k, k)]
        return jnp.max(x[0].reshape(*x[0].shape[:2], *split), axis=tuple(range(3, 3 + 2 * dims, 2)))
    padding = [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)]
    result: jax.Array = jax.lax.reduce_window(
        x[0], -jnp.inf, jax.lax.max, (1, 1, *kernel), (1, 1, *strides), padding, window_dilation=(1, 1, *dilations)
    )
    return result


def _average_pool(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    kernel, strides, dilations, pads = _window(node, x[0])
    dims = len(kernel)
    padding = [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)]

    def sums(value: jax.Array) -> jax.Array:
        summed: jax.Array = jax.lax.reduce_window(
            value, 0.0, jax.lax.add, (1, 1, *kernel), (1, 1, *strides), padding, window_dilation=(1, 1, *dilations)
        )
        return summed

    if integer(node, "count_include_pad"):
        return sums(x[0]) / float(np.prod(kernel))
    return sums(x[0]) / sums(jnp.ones((1, 1, *x[0].shape[2:]), x[0].dtype))


def _gemm(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    a = x[0].T if integer(node, "transA") else x[0]
    b = x[1].T if integer(node, "transB") else x[1]
    result = real(node, "alpha", 1.0) * (a @ b)
    return result + real(node, "beta", 1.0) * x[2] if len(x) > 2 else result


def _axes(node: onnx.NodeProto, x: list[jax.Array]) -> tuple[int, ...]:
    """Axes that are an attribute in old graphs and an input in new ones."""
    return integers(node, "axes") or (tuple(int(each) for each in np.asarray(x[1]).ravel()) if len(x) > 1 else ())


def _reduce(fold: Callable[..., jax.Array]) -> Operator:
    def operator(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
        axes = _axes(node, x) or (() if integer(node, "noop_with_empty_axes") else tuple(range(x[0].ndim)))
        return fold(x[0], axis=axes, keepdims=bool(integer(node, "keepdims", 1)))

    return operator


def _squeeze(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    return jnp.squeeze(x[0], _axes(node, x) or None)


def _unsqueeze(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    axes = _axes(node, x)
    return jnp.expand_dims(x[0], axes)


def _reshape(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    target = [int(each) for each in np.asarray(x[1])]
    if not integer(node, "allowzero"):
        target = [x[0].shape[at] if extent == 0 else extent for at, extent in enumerate(target)]
    return jnp.reshape(x[0], target)


def _flatten(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    axis = integer(node, "axis", 1) % (x[0].ndim + 1)
    return jnp.reshape(x[0], (int(np.prod(x[0].shape[:axis])), -1))


def _transpose(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    return jnp.transpose(x[0], integers(node, "perm") or None)


def _clip(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    if len(node.input) == 1:  # as old graphs have it
        return jnp.clip(x[0], real(node, "min", -np.inf), real(node, "max", np.inf))
    bounds = iter(x[1:])  # an empty name leaves a bound out
    low = next(bounds) if node.input[1] else None
    high = next(bounds) if len(node.input) > 2 and node.input[2] else None
    return jnp.clip(x[0], low, high)


def _pad(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    mode = word(node, "mode", "constant")
    stated = integers(node, "pads") or tuple(int(each) for each in np.asarray(x[1]))
    pairs = list(zip(stated[: x[0].ndim], stated[x[0].ndim :], strict=True))
    if mode != "constant":
        return jnp.pad(x[0], pairs, mode=mode)
    value = float(np.asarray(x[2]).ravel()[0]) if len(x) > 2 else real(node, "value", 0.0)
    return jnp.pad(x[0], pairs, constant_values=value)


def _leaky(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    return jnp.where(x[0] >= 0, x[0], real(node, "alpha", 0.01) * x[0])


def _elu(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    return jnp.where(x[0] >= 0, x[0], real(node, "alpha", 1.0) * jnp.expm1(jnp.minimum(x[0], 0)))


def _hard_sigmoid(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
    return jnp.clip(real(node, "alpha", 0.2) * x[0] + real(node, "beta", 0.5), 0, 1)


def _folded(pair: Callable[[jax.Array, jax.Array], jax.Array]) -> Operator:
    def operator(node: onnx.NodeProto, x: list[jax.Array]) -> jax.Array:
        result = x[0]
        for each in x[1:]:
            result = pair(result, each)
        return result

    return operator


def _of(function: Callable[[jax.Array], jax.Array]) -> Operator:
    return lambda node, x: function(x[0])


_OPERATORS: dict[str, Operator] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda node, x: jnp.mean(x[0], axis=tuple(range(2, x[0].ndim)), keepdims=True),
    "GlobalMaxPool": lambda node, x: jnp.max(x[0], axis=tuple(range(2, x[0].ndim)), keepdims=True),
    "Gemm": _gemm,
    "MatMul": lambda node, x: jnp.matmul(x[0], x[1]),
    "Relu": _of(jax.nn.relu),
    "LeakyRelu": _leaky,
    "PRelu": lambda node, x: jnp.where(x[0] >= 0, x[0], x[1] * x[0]),
    "Elu": _elu,
    "Sigmoid": _of(jax.nn.sigmoid),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _of(lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1)),
    "Tanh": _of(jnp.tanh),
    "Softplus": _of(jax.nn.softplus),
    "Erf": _of(jax.lax.erf),
    "Exp": _of(jnp.exp),
    "Sqrt": _of(jnp.sqrt),
    "Clip": _clip,
    "Softmax": lambda node, x: jax.nn.softmax(x[0], axis=integer(node, "axis", -1)),
    "Add": _folded(jnp.add),
    "Sum": _folded(jnp.add),
    "Sub": _folded(jnp.subtract),
    "Mul": _folded(jnp.multiply),
    "Div": _folded(jnp.divide),
    "Max": _folded(jnp.maximum),
    "Min": _folded(jnp.minimum),
    "Concat": lambda node, x: jnp.concatenate(x, axis=integer(node, "axis")),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "ReduceMean": _reduce(jnp.mean),
    "ReduceSum": _reduce(jnp.sum),
    "ReduceMax": _reduce(jnp.max),
    "Pad": _pad,
    "Identity": _of(lambda x: x),
    "Dropout": _of(lambda x: x),
}
"""By the name that ONNX has for them."""
