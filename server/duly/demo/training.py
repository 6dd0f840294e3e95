"""Trains a demo's models where it is set up, from seeds, and writes them as ONNX graphs.

scikit-learn and skl2onnx come with the extra `learn`. They are imported when a model is trained, so that the demos that
train none need neither.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SEED = 17
OPSET = 17

Floats = npt.NDArray[np.float32]


def write_classifier(path: Path, rows: Floats, truth: npt.NDArray[np.bool_ | np.integer], hidden: int) -> None:
    """Trains a network with one hidden layer on `rows` [N, F], standardised, and writes it to `path`.

    The graph takes `x f32[n, F]` and gives `label i64[n]` and `probabilities f32[n, classes]`, the classes in the order
    of their numbers.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), network(hidden, rounds=80))
    _write(path, fit(pipeline, rows, truth), rows.shape[1])


def network(hidden: int, rounds: int) -> Any:
    """Returns scikit-learn's network with one hidden layer, which goes over its rows at most `rounds` times."""
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((hidden,), alpha=1e-3, max_iter=rounds, tol=1e-5, random_state=SEED)


def fit(model: Any, rows: npt.NDArray[np.floating], truth: npt.NDArray[np.bool_ | np.integer]) -> Any:
    """Fits the model and returns it. A network that could go on learning after its last round is no fault here."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(rows, truth.astype(np.int64))


def write_forest(path: Path, rows: Floats, truth: npt.NDArray[np.bool_ | np.integer]) -> None:
    """Trains a forest of decision trees on `rows` [N, F] and writes it to `path`, as `write_classifier` does."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_estimators=60, max_depth=12, min_samples_leaf=2, random_state=SEED)
    _write(path, fit(forest, rows, truth), rows.shape[1])


def write_isolation_forest(path: Path, rows: Floats, false_alarms: float) -> None:
    """Trains an isolation forest on `rows` [N, F] of a thing at its best, and writes it to `path`.

    The graph gives `scores f32[n, 1]`, below zero where a row is out of the ordinary. The share `false_alarms` of
    `rows` is.
    """
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(n_estimators=100, contamination=false_alarms, random_state=SEED)
    _write(path, forest.fit(rows), rows.shape[1])


def _write(path: Path, fitted: object, features: int) -> None:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier
    from sklearn.pipeline import Pipeline

    last = fitted[-1] if isinstance(fitted, Pipeline) else fitted
    graph = to_onnx(
        fitted,
        initial_types=[("x", FloatTensorType([None, features]))],
        options={id(last): {"zipmap": False}} if is_classifier(last) else None,
        target_opset={"": OPSET, "ai.onnx.ml": 3},
    )
    path.write_bytes(graph.SerializeToString())
