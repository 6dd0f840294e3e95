"""scikit-learn through skl2onnx. What it writes is [N, features], with labels and probabilities for classifiers."""

import numpy as np
import pandas
from keeping import Kept
from skl2onnx import to_onnx
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

rng = np.random.default_rng(12)
X = rng.normal(size=(60, 4)).astype(np.float32)
y = (X[:, 0] + X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 1)
names = np.array(["cat", "dog", "owl"])[y]
F = X[:6]
kept = Kept("scikit-learn", "skl2onnx", "scikit-learn", "onnx")


def classified(model, names_of_outputs=("label", "probabilities")):
    label, scores = names_of_outputs
    return [
        ({"X": row}, {label: model.predict(row[None])[0], scores: model.predict_proba(row[None])[0].astype("f4")})
        for row in F
    ]


def without(name, frames):
    return [(inputs, {key: value for key, value in outputs.items() if key != name}) for inputs, outputs in frames]


logistic = LogisticRegression(random_state=0).fit(X, y)
frames = without("output_probability", classified(logistic, ("output_label", "output_probability")))
kept.keep(
    "logistic_zipmap",
    "LogisticRegression, `to_onnx` as it is: a ZipMap makes dictionaries of the probabilities",
    to_onnx(logistic, X[:1]),
    frames,
    '[[output]]\nname = "output_label"\n',
)
kept.keep(
    "logistic",
    "LogisticRegression, `zipmap: False`",
    to_onnx(logistic, X[:1], options={"zipmap": False}),
    classified(logistic),
)
forest = RandomForestClassifier(n_estimators=5, max_depth=3, random_state=0).fit(X, y)
kept.keep(
    "forest_columns",
    'RandomForestClassifier, `zipmap: "columns"`: an output a class',
    to_onnx(forest, X[:1], options={"zipmap": "columns"}),
    [
        (
            {"X": row},
            {"output_label": forest.predict(row[None])[0]}
            | {f"i{index}": p for index, p in enumerate(forest.predict_proba(row[None])[0].astype("f4"))},
        )
        for row in F
    ],
)
regression = make_pipeline(StandardScaler(), LinearRegression()).fit(X, X @ [1, 2, 3, 4])
kept.keep(
    "pipeline_regressor",
    "StandardScaler and LinearRegression in a pipeline",
    to_onnx(regression, X[:1]),
    [({"X": row}, {"variable": regression.predict(row[None])}) for row in F],
)
kept.keep(
    "regressor_unnamed_rows",
    "LinearRegression, `FloatTensorType([1, 4])`: the example's batch of one is kept",
    to_onnx(regression, initial_types=[("float_input", FloatTensorType([1, 4]))]),
    [({"float_input": row}, {"variable": regression.predict(row[None])}) for row in F],
)
animals = make_pipeline(StandardScaler(), LogisticRegression(random_state=0)).fit(X, names)
kept.keep(
    "string_labels",
    "a classifier of names, `zipmap: False`: the label is a string",
    to_onnx(animals, X[:1], options={"zipmap": False}),
    classified(animals),
)
gaussian = GaussianProcessRegressor(random_state=0).fit(X.astype("f8"), X @ [1, 2, 3, 4])
kept.keep(
    "gaussian_double",
    "GaussianProcessRegressor in double precision",
    to_onnx(gaussian, initial_types=[("X", DoubleTensorType([None, 4]))]),
    [({"X": row.astype("f8")}, {"GPmean": gaussian.predict(row[None].astype("f8"))}) for row in F],
)
table = pandas.DataFrame({"age": X[:, 0], "height": X[:, 1], "visits": (X[:, 2] * 5).astype(np.int64)})
columns = make_pipeline(
    ColumnTransformer([("scale", StandardScaler(), ["age", "height", "visits"])]), LinearRegression()
)
columns.fit(table, y)
kept.keep(
    "columns",
    "a ColumnTransformer: an input [N, 1] a column, of two types",
    to_onnx(
        columns,
        initial_types=[
            ("age", FloatTensorType([None, 1])),
            ("height", FloatTensorType([None, 1])),
            ("visits", Int64TensorType([None, 1])),
        ],
    ),
    [
        (
            {"age": [np.float32(r.age)], "height": [np.float32(r.height)], "visits": [np.int64(r.visits)]},
            {"variable": columns.predict(table.iloc[index : index + 1]).astype("f4")},
        )
        for index, r in enumerate(table.iloc[:6].itertuples())
    ],
)
kinds = pandas.DataFrame({"kind": names, "age": X[:, 0]})
mixed = make_pipeline(
    ColumnTransformer([("kind", OneHotEncoder(), ["kind"]), ("age", "passthrough", ["age"])]), LinearRegression()
).fit(kinds, y)
kept.keep(
    "string_column",
    "a OneHotEncoder on a column of strings",
    to_onnx(mixed, initial_types=[("kind", StringTensorType([None, 1])), ("age", FloatTensorType([None, 1]))]),
    [
        (
            {"kind": [str(row.kind)], "age": [np.float32(row.age)]},
            {"variable": mixed.predict(kinds.iloc[index : index + 1]).astype("f4")},
        )
        for index, row in enumerate(kinds.iloc[:6].itertuples())
    ],
    '[[input]]\nname = "kind"\nexample = "cat"\n[[input]]\nname = "age"\n',
)
words = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression()).fit(
    ["a red cat", "a dog", "red owl", "dog dog"], [0, 1, 0, 1]
)
kept.keep(
    "tfidf",
    "TfidfVectorizer: strings in",
    to_onnx(words, initial_types=[("text", StringTensorType([None]))], options={"zipmap": False}),
    [
        (
            {"text": text},
            {"label": words.predict([text])[0], "probabilities": words.predict_proba([text])[0].astype("f4")},
        )
        for text in ("a red cat", "dog", "an owl", "red red dog", "")
    ],
)
means = KMeans(3, random_state=0, n_init=2).fit(X)
kept.keep(
    "kmeans",
    "KMeans",
    to_onnx(means, X[:1]),
    [
        (
            {"X": row},
            {"label": np.int64(means.predict(row[None])[0]), "scores": means.transform(row[None])[0].astype("f4")},
        )
        for row in F
    ],
)
neighbours = KNeighborsClassifier(3).fit(X, y)
kept.keep(
    "neighbours",
    "KNeighborsClassifier, `zipmap: False`",
    to_onnx(neighbours, X[:1], options={"zipmap": False}),
    classified(neighbours),
)
pca = make_pipeline(StandardScaler(), PCA(2, random_state=0)).fit(X)
kept.keep(
    "pca",
    "StandardScaler and PCA",
    to_onnx(pca, X[:1]),
    [({"X": row}, {"variable": pca.transform(row[None])[0]}) for row in F],
)
strange = IsolationForest(n_estimators=5, random_state=0).fit(X)
kept.keep(
    "isolation_forest",
    "IsolationForest: label and score",
    to_onnx(strange, X[:1], target_opset={"": 18, "ai.onnx.ml": 3}),
    [
        ({"X": row}, {"label": strange.predict(row[None]), "scores": strange.decision_function(row[None]).astype("f4")})
        for row in F
    ],
)
network = MLPClassifier((8,), random_state=0, max_iter=50).fit(X, y)
kept.keep(
    "mlp", "MLPClassifier, `zipmap: False`", to_onnx(network, X[:1], options={"zipmap": False}), classified(network)
)
machine = SVC(probability=True, random_state=0).fit(X, y)
kept.keep(
    "svc",
    "SVC with probabilities, `zipmap: False`",
    to_onnx(machine, X[:1], options={"zipmap": False}),
    classified(machine),
)
several = MultiOutputRegressor(LinearRegression()).fit(X, X @ rng.normal(size=(4, 3)))
kept.keep(
    "several_targets",
    "MultiOutputRegressor",
    to_onnx(several, X[:1]),
    [({"X": row}, {"variable": several.predict(row[None])[0]}) for row in F],
)
