"""XGBoost, LightGBM and CatBoost through onnxmltools and CatBoost's own writer."""

import tempfile
from pathlib import Path

import lightgbm
import numpy as np
import xgboost
from catboost import CatBoostClassifier, CatBoostRegressor
from keeping import Kept
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost as xgboost_converter
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

rng = np.random.default_rng(12)
X = rng.normal(size=(80, 4)).astype(np.float32)
y = (X[:, 0] + X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 1)
target = (X @ [1, 2, 3, 4]).astype(np.float32)
F = X[:6]
OPEN = [("input", FloatTensorType([None, 4]))]


def classified(model, scores="probabilities", label="label"):
    return [
        (
            {"input": row},
            {label: np.ravel(model.predict(row[None]))[0], scores: model.predict_proba(row[None])[0].astype("f4")},
        )
        for row in F
    ]


def without(name, frames):
    return [(inputs, {key: value for key, value in outputs.items() if key != name}) for inputs, outputs in frames]


kept = Kept("xgboost", "xgboost-cpu", "onnxmltools")
classifier = xgboost.XGBClassifier(n_estimators=4, max_depth=3, random_state=0).fit(X, y)
kept.keep(
    "classifier", "XGBClassifier", convert_xgboost(classifier, name="net", initial_types=OPEN), classified(classifier)
)
binary = xgboost.XGBClassifier(n_estimators=4, max_depth=3, random_state=0).fit(X, y > 0)
kept.keep(
    "binary", "XGBClassifier, two classes", convert_xgboost(binary, name="net", initial_types=OPEN), classified(binary)
)
regressor = xgboost.XGBRegressor(n_estimators=4, max_depth=3, random_state=0).fit(X, target)
kept.keep(
    "regressor",
    "XGBRegressor",
    convert_xgboost(regressor, name="net", initial_types=OPEN),
    [({"input": row}, {"variable": regressor.predict(row[None])}) for row in F],
)
update_registered_converter(
    xgboost.XGBClassifier,
    "XGBoostXGBClassifier",
    calculate_linear_classifier_output_shapes,
    xgboost_converter,
    options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
)
pipeline = make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=4, max_depth=3, random_state=0)).fit(X, y)
kept.keep(
    "pipeline_zipmap",
    "StandardScaler and XGBClassifier through skl2onnx, as it is: a ZipMap",
    to_onnx(pipeline, X[:1], target_opset={"": 15, "ai.onnx.ml": 3}),
    [({"X": inputs["input"]}, {"output_label": outputs["label"]}) for inputs, outputs in classified(pipeline)],
    '[[output]]\nname = "output_label"\n',
)

kept = Kept("lightgbm", "lightgbm", "onnxmltools")
settings = {"n_estimators": 4, "num_leaves": 5, "random_state": 0, "verbose": -1}
classifier = lightgbm.LGBMClassifier(**settings).fit(X, y)
kept.keep(
    "classifier_zipmap",
    "LGBMClassifier as it is: a ZipMap",
    convert_lightgbm(classifier, name="net", initial_types=OPEN),
    without("probabilities", classified(classifier)),
    '[[output]]\nname = "label"\n',
)
kept.keep(
    "classifier",
    "LGBMClassifier, `zipmap=False`",
    convert_lightgbm(classifier, name="net", initial_types=OPEN, zipmap=False),
    classified(classifier),
)
regressor = lightgbm.LGBMRegressor(**settings).fit(X, target)
answers = [({"input": row}, {"variable": regressor.predict(row[None]).astype("f4")}) for row in F]
kept.keep("regressor", "LGBMRegressor", convert_lightgbm(regressor, name="net", initial_types=OPEN), answers)
kept.keep(
    "regressor_split",
    "LGBMRegressor, `split=2`",
    convert_lightgbm(regressor, name="net", initial_types=OPEN, split=2),
    answers,
)

kept = Kept("catboost", "catboost")
settings = {"iterations": 4, "depth": 3, "random_seed": 0, "verbose": False, "allow_writing_files": False}
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "model.onnx"
    classifier = CatBoostClassifier(**settings).fit(X, y)
    classifier.save_model(str(file), format="onnx")
    frames = [({"features": inputs["input"]}, outputs) for inputs, outputs in classified(classifier)]
    kept.keep(
        "classifier",
        "CatBoostClassifier: a ZipMap",
        file,
        without("probabilities", frames),
        '[[output]]\nname = "label"\n',
    )
    regressor = CatBoostRegressor(**settings).fit(X, target)
    regressor.save_model(str(file), format="onnx")
    kept.keep(
        "regressor",
        "CatBoostRegressor",
        file,
        [({"features": row}, {"predictions": regressor.predict(row[None]).astype("f4")}) for row in F],
    )
