"""Takes channels out of a graph, which is then really smaller."""

from collections.abc import Collection

import numpy as np
import onnx

from duly_learn.graphs.constants import arrays_of, forget_unread, set_array
from duly_learn.graphs.followed import Atoms, Channels


def cut(model: onnx.ModelProto, channels: Channels, removed: Collection[int]) -> onnx.ModelProto:
    """Returns a copy of the graph without the classes of channels in `removed`.

    Args:
        model: the graph that `channels` was made from.
        removed: classes of `channels.groups`. At least one channel of every layer has to stay.

    Raises:
        ValueError: nothing of a layer would be left.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for layer in channels.layers:
        if not staying(channels, removed, layer.atoms_out).any():
            raise ValueError(f"nothing of {layer.name} would be left")
    arrays = arrays_of(model)
    # A weight that several nodes read is named several times, and cut once.
    cuts = {(each.initializer, each.axis): each.atoms for each in channels.cuts}
    for (name, axis), atoms in cuts.items():
        arrays[name] = np.compress(staying(channels, removed, atoms), arrays[name], axis=axis)
    for name in {name for name, _ in cuts}:
        set_array(copy, name, arrays[name])
    for position, count in enumerate(channels.counts):
        number = int(staying(channels, removed, count.atoms).sum())
        node = copy.graph.node[count.node]
        if count.initializer:  # another node may read the same shape and have other channels: each gets its own
            shape = arrays_of(copy)[count.initializer].copy()
            shape[count.position] = number
            own = f"{count.initializer}.{position}"
            set_array(copy, own, shape)
            node.input[1] = own
        else:
            next(each for each in node.attribute if each.name == "group").i = number
    forget_unread(copy)
    return copy


def staying(channels: Channels, removed: Collection[int], atoms: Atoms) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of `atoms` are not of a class that is removed."""
    return ~np.isin(channels.roots[atoms], np.fromiter(removed, np.int64, len(removed)))
