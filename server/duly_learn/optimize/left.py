"""Which layers stay as they are, where 8 bits everywhere lose too much.

The first layers hold the finest detail, and what is lost there goes through all others: on YOLOv2-tiny, rounding what
the second and the third layer read alone makes more noise in the grid (30 dB below it) than doing so to all that follow
(31 dB), and the weights of these make less still (34 dB). The last layer's numbers are the answer, and it seldom takes
much time: there, rounding what it gives takes nearly 2 % of the boxes, as many of them lie close to the threshold. So
the first ones stay, a few at a time, and the last, each with what only they lead to: a rectifier or a pool behind a
layer that has no steps needs none either.
"""

from collections.abc import Sequence

import onnx

from duly_learn.graphs.describe import CONVOLUTIONS, PRODUCTS

FIRST_MAX = 3
"""So many of the first layers stay, at most, and the last one."""


def tries(model: onnx.ModelProto) -> list[list[str]]:
    """Returns which layers to leave as they are, by the names of their nodes: first none, then more and more of them,
    but never more than half."""
    layers = _layers(model)
    found: list[list[str]] = [[]]
    for first in range(FIRST_MAX + 1):
        if 2 * (first + 1) <= len(layers):
            found += [layers[:first]] if first else []
            found.append([*layers[:first], layers[-1]])
    return found


def nodes_left(model: onnx.ModelProto, left: Sequence[str]) -> list[str]:
    """Returns the names of the nodes that stay where the layers `left` do: these, and what reads them alone, or, where
    the first layer stays, what comes before it.
    """
    layers = _layers(model)
    constant = {each.name for each in model.graph.initializer} | {""}
    plain = {value.name for value in model.graph.input} if layers[0] in left else set[str]()
    stay: list[str] = []
    for node in model.graph.node:
        if node.name in layers:
            stays = node.name in left
        else:
            read = set(node.input) - constant
            stays = bool(read) and read <= plain
        if stays:
            stay.append(node.name)
            plain.update(node.output)
    return stay


def _layers(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type in CONVOLUTIONS | PRODUCTS]
