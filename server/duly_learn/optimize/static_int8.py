"""Whole numbers of 8 bits whose ranges are found beforehand, on frames (static quantisation, QDQ, per channel).

Ranges that the graph finds anew in each run (dynamic quantisation) are for matrix products alone: a convolution's input
has outliers in single channels of single frames, and depthwise models lose all that they know.

Whether the widest ranges or those of the least error are best differs from graph to graph: those with less noise in the
graph's outputs are taken. Where answers then agree less than the tolerance asks for, a few layers are left as they are
(optimize/left). All of it is judged by frames that are not held out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np
import onnx

from duly.models.spec import Variant
from duly_learn.graphs.describe import CONVOLUTIONS, PRODUCTS, QUANTISED, operators
from duly_learn.optimize.left import nodes_left, tries
from duly_learn.optimize.quantising import adds_products_of_8_bits, check_not_quantised, prepared, quiet
from duly_learn.optimize.ranges import (
    Array,
    Range,
    histograms,
    noise_db,
    open_graph,
    slopes,
    with_steps_of_rectifiers,
)
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused
from duly_learn.running.model import NotRunning, Refusal, running

FRAMES_MAX = 256
"""Ranges are found on so many frames; more hardly widen them."""
NOISE_FRAMES_MAX = 16
"""The noise is measured on so many of them."""
TRIED_FRAMES_MAX = 100
"""The agreement with so many of them is looked at, where layers may be left as they are."""
OPERATORS_NAMED_MAX = 6
"""A refusal names so many operators of the graph."""


class StaticInt8:
    name = "int8-static"

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        """Raises Refused where there is nothing to quantise, or the graph cannot be quantised."""
        found = check_not_quantised(source.load())
        if not (CONVOLUTIONS | PRODUCTS) & found.keys():
            raise Refused(
                "there is nothing to quantise: the graph has neither convolutions nor matrix products but "
                + ", ".join(f"{count} {operator}" for operator, count in sorted(found.items())[:OPERATORS_NAMED_MAX])
            )
        if not source.calibration:
            raise Refused("there is no frame to find ranges on")
        graph = prepared(source, folder)
        narrow = not adds_products_of_8_bits()
        try:
            said, notes = _make(source, graph, folder / "model.onnx", narrow)
        except (Refused, OSError):
            raise  # of these a full disk is no fault of the graph's
        except Exception as error:  # it fails in as many ways as there are graphs
            raise Refused(f"ONNX Runtime cannot quantise this graph: {type(error).__name__}: {error}") from error
        finally:
            graph.unlink(missing_ok=True)
        notes += ["Weights have 7 bits, as this machine's processor overflows with 8."] if narrow else []
        frames = min(FRAMES_MAX, len(source.calibration))
        return Candidate("model.onnx", f"8 bits, per channel (QDQ), {said}, found on {frames} frames", notes)


def _make(source: OptimizeSource, graph: Path, target: Path, narrow: bool) -> tuple[str, list[str]]:
    """Quantises the graph. Returns what was done, as the middle of a sentence, and notes."""
    model = onnx.load(str(graph))
    seen = histograms(model, _feeds(source, FRAMES_MAX), source.threads)
    leaky = slopes(model)
    ways = {
        "ranges of the least error": {name: each.best_range(leaky.get(name, 1.0)) for name, each in seen.items()},
        "the widest ranges": {name: (each.low, each.high) for name, each in seen.items()},
    }
    ways = {way: with_steps_of_rectifiers(model, ranges) for way, ranges in ways.items()}
    feeds = list(_feeds(source, NOISE_FRAMES_MAX))
    expected = _outputs(model, feeds, source.threads)
    noises: dict[str, float] = {}
    for name, ranges in ways.items():
        _quantise(graph, target, ranges, [], narrow)
        if not QUANTISED & operators(onnx.load(str(target))).keys():
            raise Refused("no layer could be quantised: they lie in branches or loops of the graph")
        noises[name] = noise_db(expected, _outputs(onnx.load(str(target)), feeds, source.threads))
    best = max(ways, key=lambda name: noises[name])
    notes = [f"The noise in the graph's outputs lies {noises[best]:.1f} dB below them."]
    layers = [node.name for node in model.graph.node if node.op_type in CONVOLUTIONS | PRODUCTS]
    left, agreement = _left_as_they_are(source, graph, target, ways[best], model, narrow)
    if left:
        notes.append(
            f"{len(left)} of {len(layers)} layers are left as they were ({', '.join(left)}): with the others alone, "
            f"answers to frames that are not held out agree by {agreement:.4f}."
        )
    return best, notes


def _left_as_they_are(
    source: OptimizeSource,
    graph: Path,
    target: Path,
    ranges: Mapping[str, Range],
    model: onnx.ModelProto,
    narrow: bool,
) -> tuple[list[str], float]:
    """Leaves the graph with the fewest layers as they were that is within the tolerance, or else the one that agrees
    most, in `target`. Returns these layers, and the agreement.
    """
    best: list[str] = []
    most = -1.0
    for left in tries(model):
        _quantise(graph, target, ranges, nodes_left(model, left), narrow)
        agreement = _agreement(source, target)
        if agreement > most:
            best, most = left, agreement
        if agreement >= 1 - source.tolerance:
            break
    _quantise(graph, target, ranges, nodes_left(model, best), narrow)
    return best, most


def _agreement(source: OptimizeSource, graph: Path) -> float:
    """The mean agreement of answers to frames that are not held out; 0 where the graph does not run."""
    version = source.version
    config = version.config.model_copy(update={"variants": (Variant(name="tried", file=graph.name),)})
    frames, answers = source.calibration[:TRIED_FRAMES_MAX], source.answers[:TRIED_FRAMES_MAX]
    try:
        with running(replace(version, folder=graph.parent.resolve(), config=config), threads=source.threads) as model:
            outcomes = model.outcomes(frames)
    except NotRunning:
        return 0.0
    scores = [
        0.0 if isinstance(outcome, Refusal) else source.measure.of(answer, outcome)
        for frame, answer, outcome in zip(frames, answers, outcomes, strict=True)
        if not frame.warms_up
    ]
    return fmean(scores) if scores else 0.0


def _feeds(source: OptimizeSource, limit: int) -> Iterator[Mapping[str, Array]]:
    return (sight.inputs for sight in islice(source.sights(limit), limit))


def _outputs(model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]], threads: int) -> list[list[Array]]:
    """What the graph gives for each feed, of floating point."""
    session = open_graph(model, threads)
    inputs = {value.name for value in model.graph.input}
    floats = [value.name for value in model.graph.output if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    given = ({name: array for name, array in feed.items() if name in inputs} for feed in feeds)
    return [session.run(floats, feed) for feed in given]


def _quantise(graph: Path, target: Path, ranges: Mapping[str, Range], left: list[str], narrow: bool) -> None:
    from onnxruntime import quantization

    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    kept = graph.with_suffix(".ranges.json")
    try:
        with quiet():
            quantization.save_tensors_data(quantization.TensorsData(quantization.CalibrationMethod.MinMax, data), kept)
            quantization.quantize_static(
                str(graph),
                str(target),
                None,
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=narrow,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=left,
                calibration_cache_path=kept,
            )
    finally:
        kept.unlink(missing_ok=True)
