"""Structured pruning: channels are taken out, and the layers behind are made anew (optimize/compensate)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from duly_learn.graphs.channels import follow
from duly_learn.graphs.constants import Array, arrays_of, called, with_biases, with_initializers
from duly_learn.graphs.cut import cut, staying
from duly_learn.graphs.followed import Channels, Group, Layer
from duly_learn.graphs.part import Feeds, Part
from duly_learn.graphs.work import work_of, work_of_pairs
from duly_learn.optimize.activations import Moments, moments_of
from duly_learn.optimize.choice import FIXED, Curve, Dense, Reader, curve_by_magnitude, curve_by_sensitivity, share_out
from duly_learn.optimize.compensate import Fit, fold_into_kept, reconstruct
from duly_learn.optimize.distance import Probe

Method = Literal["sensitivity", "magnitude"]

PRUNING_FRAMES_MAX = 96
"""The layers are made anew over so many frames at most."""


class CannotPrune(ValueError):
    """The graph cannot be pruned; the message names the nodes."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A smaller graph, and how it came about."""

    model: onnx.ModelProto
    channels: Mapping[str, tuple[int, int]]
    """Of each layer that lost channels: how many it had, how many it has."""
    kept: Mapping[str, str]
    """Layers of which nothing could go, and why."""
    work: tuple[int, int]
    """The multiplications of one frame before and now."""
    fits: Sequence[Fit]
    fewer_samples_than_unknowns: Sequence[str]
    """Layers for which the frames did not suffice: their weights were settled by the ridge."""
    too_large: Sequence[str]
    """Layers whose weights are too many for least squares."""
    first_changed: str
    """What the first layer gives that is not as it was."""


def prune(
    model: onnx.ModelProto,
    frames: Sequence[Feeds],
    share: float,
    method: Method = "sensitivity",
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Pruned:
    """Takes channels out until at most `share` of the multiplications are left.

    Args:
        model: any graph; what its nodes do with channels is followed as far as `graphs.channels` knows them.
        frames: what runs of the graph take, one frame each.
        share: 0..1.
        check: called now and then; what it raises ends the work.

    Raises:
        CannotPrune: no layer's channels can be taken out, or there are no frames.
    """
    if not frames:
        raise CannotPrune("there are no frames to make the layers anew with")
    model = with_biases(with_initializers(model))
    channels = follow(model)
    if not channels.groups:
        raise CannotPrune(_nothing(model, channels))
    readers = _readers(channels)
    frames = frames[:PRUNING_FRAMES_MAX]
    moments = moments_of(model, channels, [layer for layers in readers for layer in layers], frames, seed)
    curves = {
        place: _curve(model, channels, group, readers[place], moments, method)
        for place, group in enumerate(channels.groups)
    }
    check()
    weights = _weights(model, channels, curves, moments, frames, check)
    kept = share_out(curves, weights, _dense(model, channels), share)
    removed = _removed(channels, curves, kept)
    if not removed:
        raise CannotPrune(f"no channel would go for {share:.0%} of the work")
    smaller = _smaller(model, channels, removed, moments)
    fits, too_large = _reconstruct_all(model, smaller, channels, removed, frames, seed, check)
    return Pruned(
        smaller,
        {
            layer.name: (len(layer.atoms_out), int(left.sum()))
            for layer in channels.layers
            if not (left := staying(channels, removed, layer.atoms_out)).all()
        },
        channels.kept,
        (work_of(model, channels), work_of(smaller, follow(smaller))),
        fits,
        [fit.layer for fit in fits if fit.samples < fit.features],
        too_large,
        next(layer.output for layer in channels.layers if not staying(channels, removed, layer.atoms_out).all()),
    )


def _nothing(model: onnx.ModelProto, channels: Channels) -> str:
    if not channels.layers:
        inside = [called(node) for node in model.graph.node if any(each.HasField("g") for each in node.attribute)]
        return "the graph has no convolution and no dense layer whose weights are constants" + (
            f", but for what may be inside of {', '.join(inside[:5])}, which is not followed" if inside else ""
        )
    reasons = "; ".join(f"{name}: {why}" for name, why in list(channels.kept.items())[:5])
    return f"the channels of none of its {len(channels.layers)} layers can be taken out: {reasons}"


def _readers(channels: Channels) -> list[list[Layer]]:
    """Of each group, the layers that read its channels."""
    return [
        [
            layer
            for layer in channels.layers
            if layer.atoms_in is not None and np.isin(channels.roots[layer.atoms_in], group.classes).any()
        ]
        for group in channels.groups
    ]


def _curve(
    model: onnx.ModelProto,
    channels: Channels,
    group: Group,
    readers: Sequence[Layer],
    moments: Mapping[str, Moments],
    method: Method,
) -> Curve:
    arrays = arrays_of(model)
    if method == "sensitivity":
        found = [
            _reader(arrays[layer.weight], layer, moments[layer.name], group)
            for layer in readers
            if layer.name in moments
        ]
        usable = [each for each in found if each is not None]
        if usable:
            return curve_by_sensitivity(usable)
    norms = np.zeros(len(group.classes))
    for place in group.layers:
        layer = channels.layers[place]
        weight = np.moveaxis(arrays[layer.weight], layer.axis_out, 0).reshape(len(layer.atoms_out), -1)
        for root, norm in zip(channels.roots[layer.atoms_out].tolist(), (weight**2).sum(axis=1), strict=True):
            norms[group.classes == root] += norm
    return curve_by_magnitude(np.sqrt(norms))


def _reader(weight: Array, layer: Layer, moments: Moments, group: Group) -> Reader | None:
    """What a layer makes of a group's channels; None: it reads only some of them."""
    where = {int(root): place for place, root in enumerate(moments.classes)}
    if any(int(root) not in where for root in group.classes):
        return None
    places = np.array([where[int(root)] for root in group.classes])
    moved = np.moveaxis(weight, layer.axis_in, 0).astype(np.float64).reshape(len(moments.classes), -1)[places]
    return Reader(moments.covariance[np.ix_(places, places)], moved @ moved.T)


def _dense(model: onnx.ModelProto, channels: Channels) -> list[Dense]:
    group_of = {int(root): place for place, group in enumerate(channels.groups) for root in group.classes}
    arrays = arrays_of(model)

    def counted(roots: Sequence[int]) -> dict[int, int]:
        counts: dict[int, int] = {}
        for root in roots:
            group = group_of.get(int(root), FIXED)
            counts[group] = counts.get(group, 0) + 1
        return counts

    found = []
    for pair, layer in zip(work_of_pairs(model, channels), channels.layers, strict=True):
        width = arrays[layer.weight].shape[layer.axis_in]
        reads = {FIXED: width} if layer.atoms_in is None else counted(channels.roots[layer.atoms_in].tolist())
        found.append(Dense(pair, reads, counted(channels.roots[layer.atoms_out].tolist())))
    return found


def _weights(
    model: onnx.ModelProto,
    channels: Channels,
    curves: Mapping[int, Curve],
    moments: Mapping[str, Moments],
    frames: Sequence[Feeds],
    check: Callable[[], None],
) -> dict[int, float]:
    """How much the graph's outputs suffer for each loss of a group: half of its channels are taken out, it alone."""
    probe = Probe(model, frames)
    found = {}
    for place, curve in curves.items():
        check()
        half = len(curve.order) // 2
        if half == 0:
            found[place] = 1.0
            continue
        removed = _removed(channels, {place: curve}, {place: half})
        found[place] = probe.suffers(_smaller(model, channels, removed, moments), float(curve.losses[half]))
    return found


def _removed(channels: Channels, curves: Mapping[int, Curve], kept: Mapping[int, int]) -> set[int]:
    return {
        int(root)
        for place, curve in curves.items()
        for root in channels.groups[place].classes[curve.order[kept[place] :]]
    }


def _smaller(
    model: onnx.ModelProto, channels: Channels, removed: set[int], moments: Mapping[str, Moments]
) -> onnx.ModelProto:
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    for layer in channels.layers:
        if layer.name in moments:
            kept = ~np.isin(moments[layer.name].classes, np.fromiter(removed, np.int64))
            if not kept.all() and kept.any():
                fold_into_kept(folded, layer, moments[layer.name], kept)
    return cut(folded, channels, removed)


def _reconstruct_all(
    original: onnx.ModelProto,
    smaller: onnx.ModelProto,
    channels: Channels,
    removed: set[int],
    frames: Sequence[Feeds],
    seed: int,
    check: Callable[[], None],
) -> tuple[list[Fit], list[str]]:
    """Makes every layer anew from the first on that reads fewer channels, in the graph's order. Returns how well, and
    the layers that are too large for it."""
    fits, too_large = [], []
    changed = False
    for layer in channels.layers:
        if layer.atoms_in is None:
            continue
        changed = changed or not staying(channels, removed, layer.atoms_in).all()
        if not changed:
            continue
        check()
        outputs = staying(channels, removed, layer.atoms_out)
        fit = reconstruct(Part(original, [layer.output]), smaller, layer, outputs, frames, seed, check)
        if fit is None:
            too_large.append(layer.name)
        else:
            fits.append(fit)
    return fits, too_large
