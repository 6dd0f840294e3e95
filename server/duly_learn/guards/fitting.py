"""Fits a detector to clean frames and puts it into a model's graph, which gives its score as one more output."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from duly.models.spec import ModelConfig
from duly_learn.errors import LearnError
from duly_learn.guards.branches import without_constant_branches
from duly_learn.guards.detector import FALSE_ALARMS, MARGIN, Detector, Floats, fit
from duly_learn.guards.graph import features_of, with_detector, with_features, without_detector
from duly_learn.guards.layers import Tap, chosen, taps_of
from duly_learn.guards.spoilt import PATCHES_KIND

SCORE = "duly_guard_score"
"""The graph output that has the score."""
ELEMENTS_MAX = 1 << 19
"""An early layer with more elements for a frame is passed over, as a look at each of them costs time."""
FEATURES_MAX = 8192
"""Nor is a layer looked at that gives more features."""
COLUMNS_MAX = 256
"""An input of one dimension with more elements is no table, but sound or another series, whose elements say little each
by itself."""
FURTHER_TOLD = 1.1
"""It is told where a threshold is moved more times further off."""
UNLIKE_TOLD = 1.5
"""It is told where it should be moved more times further off as parts of recordings differ."""
GRAPH_BYTES_MAX = 1_900_000_000
"""No detector is put into a larger graph: ONNX keeps a graph with its weights in one message of less than 2 GiB."""

Tensors = Mapping[str, npt.NDArray[Any]]


class NoFeatures(LearnError):
    """The graph has no layer that could be looked at. The message says why."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A graph with a detector."""

    model: onnx.ModelProto
    detector: Detector
    layers: Sequence[str]
    """The tensors that it looks at."""
    tables: Sequence[str]
    """Those of them that are what clients send, column by column."""
    settings: Mapping[str, object]
    """The table of `[[guard]]` in model.toml that goes with it."""

    @property
    def said(self) -> str:
        """What was done, in one sentence."""
        return (
            f"a detector of frames unlike others, fitted to {self.detector.frames} clean ones on {self._where}: "
            f"{FALSE_ALARMS:.1%} of clean frames that it had not seen were as far off as its threshold before a margin "
            f"of {MARGIN:g}{self._further}"
        )

    @property
    def _further(self) -> str:
        detector, words = self.detector, ""
        if detector.further > FURTHER_TOLD:
            words = f"; it lies {detector.further:.1f} times as far off as that, where noise is found still"
        if detector.unlike > UNLIKE_TOLD:
            words += (
                "; parts of the recordings differ much from one another, and frames of more scenes make the detector "
                "narrower"
            )
        return words

    @property
    def _where(self) -> str:
        inner = [name for name in self.layers if name not in self.tables]
        places = [f"the columns of {name}" for name in self.tables]
        if inner:
            places.append(f"{len(inner)} of the model's layers ({', '.join(inner)})")
        return " and ".join(places)


def fit_detector(
    model: onnx.ModelProto,
    config: ModelConfig,
    inputs: Iterable[Tensors],
    streams: Sequence[str],
    seed: int,
    layers: Sequence[str] = (),
    spoilt: Mapping[str, Iterable[Tensors]] = MappingProxyType({}),
) -> Fitted:
    """Fits to what the graph is given for clean frames, one frame at a time (`running.seen`). `streams`: which stream
    each frame is of. `layers`: tensors of the graph to look at; none: they are chosen. `spoilt`: the same of
    spoilt frames by their kinds (`spoilt.Spoiler`), which say how far off the threshold may lie.

    A detector that the graph has already gives way to the new one. Raises NoFeatures and TooFew.
    """
    model = without_detector(model, SCORE)
    if model.ByteSize() > GRAPH_BYTES_MAX:
        raise NoFeatures(
            f"the graph has {model.ByteSize():,} bytes; at most {GRAPH_BYTES_MAX:,} can be run in one piece"
        )
    flat = without_constant_branches(model, config.constants)
    states = [state.input for state in config.states]
    fixed = {*states, *config.constants, *(control.input for control in config.controls)}
    initial = {each.name for each in flat.graph.initializer}
    sent = [each.name for each in flat.graph.input if each.name not in fixed | initial]
    taps = taps_of(flat, sent, states)
    if layers:
        taps = [_named(flat, taps, name) for name in layers]
    ranks: dict[str, int] = {}
    tables: list[str] = []
    session: onnxruntime.InferenceSession | None = None
    rows: dict[str, list[Floats]] = {}
    for tensors in inputs:
        if session is None:
            tables = [name for name in sent if _is_table(tensors.get(name))]
            if not taps and not tables:
                raise NoFeatures(
                    "the graph has no layer with weights (Conv, Gemm, MatMul) that reads what clients send, and takes "
                    "no table of columns, so that there is nothing to look at; guards of inputs (RANGE, BLANK, "
                    "SATURATED, FROZEN) need none"
                )
            shapes = _shapes(flat, taps, tensors)
            if layers:
                taps = _fitting(taps, shapes)
                tables = [tap.tensor for tap in taps if tap.tensor in tables]
            else:
                inner = chosen(_fitting(taps, shapes), _elements(shapes), ELEMENTS_MAX)
                taps = [tap for tap in inner if tap.tensor not in tables]
                taps += [Tap(name, channels_last=True, deep=False) for name in tables]
                shapes |= {name: tensors[name].shape for name in tables}
            if not taps:
                raise NoFeatures("none of the graph's layers has the frames of a batch first, and channels for each")
            ranks = {tap.tensor: len(shapes[tap.tensor]) for tap in taps}
            session = _session(with_features(flat, taps, ranks))
        _look(session, taps, tensors, rows)
    features = {name: np.stack(each) for name, each in rows.items()}
    detector = fit(features, streams, seed, [name for name, rank in ranks.items() if rank > 2], tables)
    if session is not None:
        parts = {kind: _features(session, taps, each) for kind, each in spoilt.items()}
        patches = [part for kind, part in parts.items() if kind == PATCHES_KIND]
        detector = detector.moved([part for kind, part in parts.items() if kind != PATCHES_KIND], patches)
    written = with_detector(flat, taps, ranks, detector, SCORE)
    guard = {"kind": "DISTRIBUTION", "output": SCORE, "max": 1.0}
    return Fitted(written, detector, [tap.tensor for tap in taps], tables, guard)


def _look(
    session: onnxruntime.InferenceSession, taps: Sequence[Tap], tensors: Tensors, rows: dict[str, list[Floats]]
) -> None:
    """Adds the features of a frame to the rows of each layer."""
    values = session.run([features_of(tap) for tap in taps], _feeds(session, tensors))
    for tap, value in zip(taps, values, strict=True):
        rows.setdefault(tap.tensor, []).append(np.asarray(value[0], np.float64))


def _features(
    session: onnxruntime.InferenceSession, taps: Sequence[Tap], inputs: Iterable[Tensors]
) -> dict[str, Floats]:
    """Returns the features [N, D] of frames by layer."""
    rows: dict[str, list[Floats]] = {}
    for tensors in inputs:
        _look(session, taps, tensors, rows)
    return {name: np.stack(each) for name, each in rows.items()}


def _is_table(array: npt.NDArray[Any] | None) -> bool:
    """Whether a graph input holds one row of columns for a frame."""
    return array is not None and array.dtype.kind in "fiu" and array.ndim == 2 and 2 <= array.shape[1] <= COLUMNS_MAX


def _named(model: onnx.ModelProto, taps: Sequence[Tap], name: str) -> Tap:
    for tap in taps:
        if tap.tensor == name:
            return tap
    if any(name in node.output for node in model.graph.node):
        return Tap(name, channels_last=False, deep=True)
    there = ", ".join(tap.tensor for tap in taps[:20])
    raise NoFeatures(f"the graph has no tensor '{name}'; layers with weights read: {there}")


def _shapes(model: onnx.ModelProto, taps: Sequence[Tap], tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """Returns the shapes that these tensors have for one frame; those that are no floating point are missing."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {each.name for each in copy.graph.input}
    inner = [tap.tensor for tap in taps if tap.tensor not in given]
    there = {each.name for each in copy.graph.output}
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inner if name not in there)
    session = _session(copy)
    found = dict(zip(inner, session.run(inner, _feeds(session, tensors)) if inner else (), strict=True))
    found |= {tap.tensor: tensors[tap.tensor] for tap in taps if tap.tensor in given and tap.tensor in tensors}
    return {name: array.shape for name, array in found.items() if array.dtype.kind == "f"}


def _fitting(taps: Sequence[Tap], shapes: Mapping[str, tuple[int, ...]]) -> list[Tap]:
    """The taps whose first dimension is the batch, of one frame here, and that give not too many features."""
    fitting = []
    for tap in taps:
        shape = shapes.get(tap.tensor, ())
        if 2 <= len(shape) <= 5 and shape[0] == 1:
            width = shape[-1] if tap.channels_last else shape[1]
            if width * (1 if len(shape) == 2 else 2) <= FEATURES_MAX:
                fitting.append(tap)
    return fitting


def _elements(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    return {name: int(np.prod(shape)) for name, shape in shapes.items()}


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _feeds(session: onnxruntime.InferenceSession, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
    return {each.name: tensors[each.name] for each in session.get_inputs() if each.name in tensors}
