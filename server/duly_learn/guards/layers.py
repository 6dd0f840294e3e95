"""Which of a model's own tensors say whether a frame is like others.

Layers with weights read what the layers before have made of a frame. What is read early tells noise and shuffled pixels
from pictures, since their textures are like nothing that lenses make. What is read late tells scenes apart. So one of
each is looked at.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

_BY_CHANNEL = frozenset({"Conv", "ConvTranspose", "FusedConv"})
_BY_ROW = frozenset({"Gemm", "MatMul", "FusedMatMul"})
_SHAPELESS = frozenset({"Shape", "Size", "Constant", "ConstantOfShape"})
"""What comes out of these does not depend on the values that go in."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A tensor of the graph that a layer with weights reads."""

    tensor: str
    channels_last: bool
    """Whether a frame's channels are the last dimension, and not the one after the batch."""
    deep: bool
    """Whether another layer with weights has made it, and it is not what clients send."""


def taps_of(model: onnx.ModelProto, sent: Iterable[str], states: Iterable[str]) -> list[Tap]:
    """Returns the tensors that layers with weights read, in the order of the graph: those that depend on what clients
    send (`sent`: graph inputs) and on no state (`states`: graph inputs), each once.
    """
    of_frames, of_states, of_layers = set(sent), set(states), set[str]()
    taps: dict[str, Tap] = {}
    for node in model.graph.node:
        if node.op_type in _SHAPELESS:
            continue
        has_weights = node.op_type in _BY_CHANNEL | _BY_ROW
        name = node.input[0] if has_weights else ""
        if name in of_frames - of_states:
            taps.setdefault(name, Tap(name, node.op_type in _BY_ROW, name in of_layers))
        read = set(_read(node))
        if has_weights or read & of_layers:
            of_layers.update(node.output)
        if read & of_frames:
            of_frames.update(node.output)
        if read & of_states:
            of_states.update(node.output)
    return list(taps.values())


def _read(node: onnx.NodeProto) -> Iterable[str]:
    """The tensors that a node reads, those of its branches included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for each in inner.node:
                yield from _read(each)


def chosen(taps: Sequence[Tap], elements: dict[str, int], elements_max: int) -> list[Tap]:
    """Returns an early tap and a late one; one where there is no other. `elements`: how many elements each has for a
    frame. An early one with more than `elements_max` would cost too much, and one further on is taken.
    """
    inner = [tap for tap in taps if tap.deep] or list(taps[:1])
    if not inner:
        return []
    early = next((tap for tap in inner if elements.get(tap.tensor, 0) <= elements_max), inner[-1])
    return [early] if early is inner[-1] else [early, inner[-1]]
