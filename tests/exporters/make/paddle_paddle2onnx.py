"""PaddlePaddle through paddle2onnx."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import paddle
import paddle2onnx
from keeping import Kept
from paddle import nn
from paddle.static import InputSpec

paddle.seed(12)
rng = np.random.default_rng(12)
FOLDER = Path(tempfile.mkdtemp())
kept = Kept("paddle", "paddlepaddle", "paddle2onnx")


def keep(name, how, layer, spec, frames, toml="", batched=True):
    layer.eval()
    paddle.jit.save(layer, str(FOLDER / name), input_spec=spec)
    file = FOLDER / f"{name}.onnx"
    (program,) = [path for path in (FOLDER / f"{name}.json", FOLDER / f"{name}.pdmodel") if path.exists()]
    paddle2onnx.export(str(program), str(FOLDER / f"{name}.pdiparams"), str(file))
    graph = onnx.load(file).graph
    takes, gives = [each.name for each in graph.input], [each.name for each in graph.output]
    answers = []
    for frame in frames:
        given = layer(*[paddle.to_tensor(value[None] if batched else value) for value in frame])
        given = given if isinstance(given, list | tuple) else [given]
        taken = [value.numpy()[0] if batched else value.numpy() for value in given]
        answers.append((dict(zip(takes, frame, strict=True)), dict(zip(gives, taken, strict=True))))
    kept.keep(name, how, file, answers, toml)


def drawn(count, *shape):
    return [(rng.normal(size=shape).astype("f4"),) for _ in range(count)]


network = nn.Sequential(
    nn.Conv2D(3, 4, 3, stride=2),
    nn.BatchNorm2D(4),
    nn.ReLU(),
    nn.AdaptiveAvgPool2D(1),
    nn.Flatten(),
    nn.Dropout(),
    nn.Linear(4, 3),
)
keep(
    "open_batch",
    "`InputSpec([None, 3, 12, 12])`",
    network,
    [InputSpec([None, 3, 12, 12], "float32", "x")],
    drawn(4, 3, 12, 12),
)
keep(
    "batch_of_one",
    "`InputSpec([1, 3, 12, 12])`",
    network,
    [InputSpec([1, 3, 12, 12], "float32", "x")],
    drawn(4, 3, 12, 12),
)
keep(
    "open_size",
    "`InputSpec([None, 3, None, None])`",
    nn.Sequential(nn.Conv2D(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2D(4, 2, 1)),
    [InputSpec([None, 3, None, None], "float32", "image")],
    [*drawn(2, 3, 8, 12), *drawn(2, 3, 16, 8)],
)


class Text(nn.Layer):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(30, 4), nn.Linear(4, 3)

    def forward(self, input_ids, token_type_ids):
        return self.head((self.words(input_ids) + self.words(token_type_ids)).mean(axis=1))


keep(
    "text",
    "two INT64 [batch, sequence], both open",
    Text(),
    [InputSpec([None, None], "int64", "input_ids"), InputSpec([None, None], "int64", "token_type_ids")],
    [(rng.integers(0, 30, n), np.zeros(n, np.int64)) for n in (5, 8, 5, 3)],
)


class Detector(nn.Layer):
    """PP-YOLO's inputs: the picture, and by what it was scaled."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, stride=2)

    def forward(self, image, scale_factor):
        boxes = self.conv(image).flatten(2).transpose([0, 2, 1])
        return boxes / paddle.concat([scale_factor, scale_factor], axis=1).unsqueeze(1)


keep(
    "image_and_scale",
    "PaddleDetection's inputs: the picture and its scale",
    Detector(),
    [InputSpec([None, 3, 9, 9], "float32", "image"), InputSpec([None, 2], "float32", "scale_factor")],
    [(rng.normal(size=(3, 9, 9)).astype("f4"), rng.uniform(0.5, 2, 2).astype("f4")) for _ in range(4)],
)


class Recurrent(nn.Layer):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4)

    def forward(self, x):
        return self.lstm(x)[0]


try:
    keep(
        "lstm",
        "an LSTM, sequences of any length",
        Recurrent(),
        [InputSpec([None, None, 3], "float32", "x")],
        [*drawn(3, 6, 3), *drawn(2, 4, 3)],
    )
except Exception as error:
    print("lstm:", error)
