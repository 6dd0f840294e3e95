"""A student for models that make numbers of a vector: forests of trees, large dense networks, whatever their operators.

A few kinds of students of scikit-learn are fitted to the original's answers on calibration frames; the kind whose
answers agree best on those of them that it has not seen is written as a graph by skl2onnx. The student predicts the
numbers that the original gives, such as the probability of each class; a class itself is then the one whose number is
largest, as the original has it.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from duly.agreement.measures import Measure
from duly.worker.dtypes import Array
from duly_learn.optimize.step import OptimizeSource, Refused

WIDTH_MAX = 4096
"""A vector with more numbers is no vector of features."""
ROWS_MAX = 20_000
"""So many frames a student is fitted to; they are a few seconds' work."""
UNSEEN_SHARE = 0.2
"""The share of the calibration frames by which the kinds of students are compared."""
_HIDDEN = (32,)
_ITERATIONS_MAX = 300
_LEAVES_MAX = 256
_OPSETS = {"": 17, "ai.onnx.ml": 3}
_MATCHING_MIN = 0.999
"""A class goes with the largest number where it does so in this share of the frames; ties fall either way."""

Row = Mapping[str, Array]
"""Graph outputs of one frame, with their batch dimension of 1."""


class NoVector(Refused):
    """The graph does not make numbers of one vector."""


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a student has to give."""

    numbers: Sequence[str]
    """Outputs of floating point that it predicts, by name."""
    targets: Array
    """float64[frames, numbers of all of them]; without any, one column for each class."""
    bounds: Mapping[str, tuple[int, int]]
    """Which columns of `targets` are which output's."""
    classes: Mapping[str, tuple[str, Array]]
    """Of outputs that are a class: the output whose largest number it goes with, and the class of each of its columns.
    The output is the class's own name where the columns are made of the classes."""


def vector_student(source: OptimizeSource, examples: Sequence[tuple[Row, Row]]) -> tuple[onnx.ModelProto, str]:
    """Returns the student's graph, with the inputs and outputs of the original's, and what it is in words.

    Raises:
        NoVector: the graph is none for this.
        Refused: there are too few frames, or they hold what is no number.
    """
    model = source.load()
    name, x = _vectors(examples)
    answers = _answers([given for _, given in examples])
    if len(x) < 10:
        raise Refused(f"{len(x)} frames are too few to fit a student to and to compare kinds of students by; give 10")
    if not np.isfinite(x).all() or not np.isfinite(answers.targets).all():
        raise Refused("the frames or the original's answers hold what is no number, and nothing can be fitted to it")
    cut = len(x) - max(1, int(UNSEEN_SHARE * len(x)))
    best: tuple[float, str, Any] | None = None
    for called, student in _students(source.seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it might go on to converge; the figure below says how good it is
            student.fit(x[:cut], answers.targets[:cut])
        predicted = np.asarray(student.predict(x[cut:]), np.float64).reshape(len(x) - cut, -1)
        score = _agreement(source, answers, predicted, [given for _, given in examples[cut:]])
        if best is None or score > best[0]:
            best = (score, called, student)
    assert best is not None
    score, called, student = best
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        student.fit(x, answers.targets)
    said = f"{called}, fitted to the original's answers on {len(x)} frames"
    return _graph(model, name, x.shape[1], student, answers), said


def _vectors(examples: Sequence[tuple[Row, Row]]) -> tuple[str, Array]:
    """Returns the name of the input and its rows [frames, width]."""
    if not examples:
        raise Refused("there are no frames to fit a student to")
    names = list(examples[0][0])
    shape = examples[0][0][names[0]].shape
    if len(names) != 1 or len(shape) != 2 or shape[0] != 1 or shape[1] > WIDTH_MAX:
        shapes = ", ".join(f"'{name}' {list(value.shape)}" for name, value in examples[0][0].items())
        raise NoVector(f"a student of another kind takes one vector of at most {WIDTH_MAX} numbers, not {shapes}")
    if examples[0][0][names[0]].dtype.kind not in "fiu":
        raise NoVector(f"input '{names[0]}' is no vector of numbers")
    if any(value.ndim > 2 or value.dtype.kind not in "fiu" for value in examples[0][1].values()):
        raise NoVector("a student of another kind gives numbers and classes alone, in one dimension")
    return names[0], np.concatenate([given[names[0]] for given, _ in examples[:ROWS_MAX]]).astype(np.float32)


def _answers(rows: Sequence[Row]) -> _Answers:
    rows = rows[:ROWS_MAX]
    numbers = [name for name, value in rows[0].items() if value.dtype.kind == "f"]
    columns = {name: np.concatenate([row[name].reshape(1, -1) for row in rows]).astype(np.float64) for name in numbers}
    bounds, place = {}, 0
    for name in numbers:
        bounds[name] = (place, place + columns[name].shape[1])
        place = bounds[name][1]
    parts = [columns[name] for name in numbers]
    classes = {}
    for name, value in rows[0].items():
        if name in columns:
            continue
        if value.size != 1:
            raise NoVector(f"output '{name}' is neither numbers nor one class")
        found = np.array([row[name].ravel()[0] for row in rows])
        classes[name] = _class_of(name, found, columns)
        if classes[name][0] == name:
            own = (found[:, None] == classes[name][1][None, :]).astype(np.float64)
            bounds[name] = (place, place + own.shape[1])
            place = bounds[name][1]
            parts.append(own)
    return _Answers(numbers, np.concatenate(parts, axis=1), bounds, classes)


def _class_of(name: str, found: Array, columns: Mapping[str, Array]) -> tuple[str, Array]:
    """Which output's largest number a class goes with, and the class of each of its columns."""
    for other, values in columns.items():
        if values.shape[1] < 2:
            continue
        best = values.argmax(axis=1)
        of_column = np.zeros(values.shape[1], found.dtype)
        for column in range(values.shape[1]):
            there, counts = np.unique(found[best == column], return_counts=True)
            of_column[column] = there[counts.argmax()] if len(there) else found[0]
        if np.mean(of_column[best] == found) >= _MATCHING_MIN:
            return other, of_column
    return name, np.unique(found)


def _students(seed: int) -> list[tuple[str, Any]]:
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.linear_model import Ridge
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeRegressor

    network = MLPRegressor(hidden_layer_sizes=_HIDDEN, max_iter=_ITERATIONS_MAX, early_stopping=True, random_state=seed)
    return [
        (f"a network with {_HIDDEN[0]} hidden units", make_pipeline(StandardScaler(), network)),
        ("a linear map", make_pipeline(StandardScaler(), Ridge())),
        (
            f"a tree of at most {_LEAVES_MAX} leaves",
            DecisionTreeRegressor(max_leaf_nodes=_LEAVES_MAX, random_state=seed),
        ),
        (
            f"8 trees of at most {_LEAVES_MAX} leaves",
            ExtraTreesRegressor(n_estimators=8, max_leaf_nodes=_LEAVES_MAX, random_state=seed),
        ),
    ]


def _agreement(source: OptimizeSource, answers: _Answers, predicted: Array, rows: Sequence[Row]) -> float:
    called = {each.tensor or each.name: each.name for each in source.version.config.outputs}
    scores = []
    for numbers, row in zip(predicted, rows, strict=True):
        got = {name: numbers[slice(*answers.bounds[name])].astype(row[name].dtype) for name in answers.numbers}
        for name, (of, classes) in answers.classes.items():
            got[name] = classes[numbers[slice(*answers.bounds[of])].argmax()].reshape(1)
        scores.append(_score(source.measure, called, row, got))
    return float(np.mean(scores))


def _score(measure: Measure, called: Mapping[str, str], row: Row, got: Mapping[str, Array]) -> float:
    return measure.of(
        {called.get(name, name): value.ravel() for name, value in row.items()},
        {called.get(name, name): value.ravel() for name, value in got.items()},
    )


def _graph(model: onnx.ModelProto, name: str, width: int, student: Any, answers: _Answers) -> onnx.ModelProto:
    """The student as a graph with the inputs and outputs of `model`."""
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    made = skl2onnx.convert_sklearn(
        student, initial_types=[("x", FloatTensorType([None, width]))], target_opset=_OPSETS
    )
    # Its names might be those of the original's inputs and outputs.
    made = onnx.compose.add_prefix(made, "student.inner.")
    graph = made.graph
    numbers = graph.output[0].name
    own = next(each for each in model.graph.input if each.name == name)
    nodes = [helper.make_node("Cast", [name], [graph.input[0].name], to=TensorProto.FLOAT), *graph.node]
    constants = list(graph.initializer)

    def constant(value: Array) -> str:
        called = f"student.c{len(constants)}"
        constants.append(numpy_helper.from_array(value, called))
        return called

    for output in model.graph.output:
        kind = output.type.tensor_type
        source = answers.classes[output.name][0] if output.name in answers.classes else output.name
        low, high = answers.bounds[source]
        part = f"student.{output.name}"
        ends = [constant(np.array([each])) for each in (low, high, 1)]
        nodes.append(helper.make_node("Slice", [numbers, *ends], [part]))
        if output.name in answers.classes:
            nodes.append(helper.make_node("ArgMax", [part], [f"{part}.best"], axis=1, keepdims=0))
            of_column = constant(answers.classes[output.name][1])
            nodes.append(helper.make_node("Gather", [of_column, f"{part}.best"], [f"{part}.class"]))
            part = f"{part}.class"
        shape = [-1, *(each.dim_value for each in list(kind.shape.dim)[1:])]
        nodes.append(helper.make_node("Reshape", [part, constant(np.array(shape))], [f"{part}.shaped"]))
        nodes.append(helper.make_node("Cast", [f"{part}.shaped"], [output.name], to=kind.elem_type))
    whole = helper.make_graph(nodes, "student", [own], list(model.graph.output), constants)
    result = helper.make_model(whole, opset_imports=list(made.opset_import), ir_version=8)
    onnx.checker.check_model(result)
    return result
