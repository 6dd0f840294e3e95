"""Models with the shapes of real ones, whose answers a test can work out."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests import graphs

DETECTOR_TOML = """
default_budget_ms = 2000
labels = "labels.txt"
[[input]]
name = "image"
tensor = "images"
encodings = ["JPEG", "PNG"]
preprocess = [
    { op = "resize", width = 32, height = 32, mode = "stretch" },
    { op = "normalise", scale = 0.00392156862745098 },
    { op = "layout", axes = "CHW" },
]
"""


def detector(box: tuple[float, float, float, float] = (0.25, 0.25, 0.75, 0.75)) -> onnx.ModelProto:
    """One detection in each picture: this box, class 1, and how bright the picture is as the score."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["bright"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["bright"], ["scores"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["scores", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "last"], ["nothings"]),
        helper.make_node("Add", ["nothings", "box"], ["boxes"]),
        helper.make_node("Add", ["nothing", "one"], ["ones"]),
        helper.make_node("Cast", ["ones"], ["classes"], to=TensorProto.INT64),
    ]
    constants = {
        "zero": np.float32(0),
        "one": np.float32(1),
        "last": np.int64([2]),
        "box": np.float32(box).reshape(1, 1, 4),
    }
    inputs = [graphs.value("images", ["N", 3, 32, 32])]
    outputs = [
        graphs.value("boxes", ["N", 1, 4]),
        graphs.value("scores", ["N", 1]),
        graphs.value("classes", ["N", 1], graphs.INT64),
    ]
    return graphs.model(nodes, inputs, outputs, constants)


def repository(root: Path) -> Path:
    """`detector` in two versions of which the second has the box elsewhere; `doubling`, y[4] = 2 x[4]; `voice`, the
    loudness of 512 samples at 16 kHz."""
    graphs.save(root, "detector", detector(), DETECTOR_TOML)
    graphs.save(root, "detector", detector((0.0, 0.0, 0.2, 0.2)), version=2)
    (root / "detector" / "labels.txt").write_text("person\ncar\n")
    graphs.save(root, "doubling", graphs.doubling(), "default_budget_ms = 2000\n")
    loud = [
        helper.make_node("Abs", ["samples"], ["size"]),
        helper.make_node("ReduceMean", ["size"], ["loudness"], axes=[1], keepdims=1),
    ]
    voice = graphs.model(loud, [graphs.value("samples", ["N", 512])], [graphs.value("loudness", ["N", 1])])
    sound = 'default_budget_ms = 2000\n[[input]]\nname = "samples"\ntensor = "samples"\nencodings = ["PCM_S16LE"]\n'
    graphs.save(root, "voice", voice, sound + "sample_rate_hz = 16000\n")
    return root
