"""scikit-learn's trees as tensor operations, through Hummingbird and PyTorch's exporter.

Hummingbird's own ONNX backend fails with this PyTorch, whose `torch.onnx.export` has another default since.
"""

import tempfile
import warnings
from pathlib import Path

import hummingbird.ml
import numpy as np
import torch
from keeping import Kept
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

warnings.filterwarnings("ignore")
rng = np.random.default_rng(12)
X = rng.normal(size=(60, 4)).astype(np.float32)
F = X[:6]
FOLDER = Path(tempfile.mkdtemp())
kept = Kept("hummingbird", "hummingbird-ml", "torch")


def keep(name, how, model, outputs, answer):
    file = FOLDER / f"{name}.onnx"
    axes = {each: {0: "batch"} for each in ("input", *outputs)}
    module = hummingbird.ml.convert(model, "torch", X).model
    torch.onnx.export(
        module, torch.from_numpy(X), file, input_names=["input"], output_names=outputs, dynamic_axes=axes, dynamo=False
    )
    kept.keep(name, how, file, [({"input": row}, dict(zip(outputs, answer(row[None]), strict=True))) for row in F])


forest = RandomForestClassifier(n_estimators=5, max_depth=3, random_state=0).fit(
    X, (X[:, 0] + X[:, 1] > 0).astype(np.int64)
)
keep(
    "forest",
    "RandomForestClassifier by way of PyTorch",
    forest,
    ["label", "probabilities"],
    lambda row: (forest.predict(row)[0], forest.predict_proba(row)[0].astype("f4")),
)
trees = RandomForestRegressor(n_estimators=5, max_depth=3, random_state=0).fit(X, X @ [1, 2, 3, 4])
keep(
    "regressor",
    "RandomForestRegressor by way of PyTorch",
    trees,
    ["variable"],
    lambda row: (trees.predict(row).astype("f4"),),
)
