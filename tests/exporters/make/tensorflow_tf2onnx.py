"""TensorFlow and Keras through tf2onnx, and Keras's own writer. What it writes is NHWC."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from keeping import Kept

keras.utils.set_random_seed(12)
rng = np.random.default_rng(12)
layers = keras.layers
FOLDER = Path(tempfile.mkdtemp())
kept = Kept("tensorflow", "tensorflow-cpu", "tf2onnx")


def asked(call, frames, inputs, outputs, batched=True):
    """The tool's answers to single frames, by the names of the graph."""
    answers = []
    for frame in frames:
        given = call(*[tf.constant(value[None] if batched else value) for value in frame])
        given = given if isinstance(given, list | tuple) else [given]
        taken = [np.asarray(value)[0] if batched else np.asarray(value) for value in given]
        answers.append((dict(zip(inputs, frame, strict=True)), dict(zip(outputs, taken, strict=True))))
    return answers


def names(model):
    return [each.name for each in model.graph.input], [each.name for each in model.graph.output]


def keep(name, how, model, call, frames, toml="", batched=True):
    kept.keep(name, how, model, asked(call, frames, *names(model), batched), toml)


def converted(model, *signature):
    """What the guide of tf2onnx advises for Keras 3, whose Sequential models `from_keras` does not take."""
    return tf2onnx.convert.from_function(tf.function(lambda x: model(x)), input_signature=signature)[0]


def pictures(count, *shape):
    return [(rng.uniform(size=shape).astype("f4"),) for _ in range(count)]


def convolutional(size, classes=3):
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Conv2D(4, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(classes, activation="softmax"),
        ]
    )


network = convolutional(12)
saved = FOLDER / "saved"
network.export(saved, verbose=False)
command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(saved), "--output"]
subprocess.run([*command, str(FOLDER / "saved.onnx")], check=True, capture_output=True)
keep(
    "saved_model",
    "a SavedModel by `python -m tf2onnx.convert`",
    onnx.load(FOLDER / "saved.onnx"),
    network,
    pictures(4, 12, 12, 3),
)
nchw = [*command, str(FOLDER / "nchw.onnx"), "--inputs-as-nchw", names(onnx.load(FOLDER / "saved.onnx"))[0][0]]
subprocess.run(nchw, check=True, capture_output=True)
frames = pictures(4, 12, 12, 3)
answers = asked(network, frames, *names(onnx.load(FOLDER / "nchw.onnx")))
kept.keep(
    "saved_model_nchw",
    "the same with `--inputs-as-nchw`",
    onnx.load(FOLDER / "nchw.onnx"),
    [({key: value.transpose(2, 0, 1) for key, value in inputs.items()}, outputs) for inputs, outputs in answers],
)
fixed = converted(network, tf.TensorSpec([1, 12, 12, 3], tf.float32, name="x"))
keep("batch_of_one", "a `tf.function` with a fixed batch of 1", fixed, network, pictures(4, 12, 12, 3))


@tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.float32, name="image")])
def unbatched(image):
    return tf.reduce_mean(image, axis=[0, 1]), tf.reduce_max(image)


graph, _ = tf2onnx.convert.from_function(unbatched, input_signature=unbatched.input_signature)
keep(
    "unbatched",
    "a `tf.function` of one picture [height, width, 3], with a scalar beside",
    graph,
    unbatched,
    [*pictures(3, 9, 7, 3), *pictures(2, 5, 8, 3)],
    "batched = false\n",
    batched=False,
)


@tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="image")])
def from_bytes(image):
    return tf.reduce_mean(tf.image.resize(tf.cast(image, tf.float32) / 255, [4, 4]), axis=[1, 2])


graph, _ = tf2onnx.convert.from_function(from_bytes, input_signature=from_bytes.input_signature)
keep(
    "uint8_any_size",
    "a `tf.function` of UINT8 pictures of any size, which it resizes",
    graph,
    from_bytes,
    [(rng.integers(0, 256, (h, w, 3), np.uint8),) for h, w in ((8, 8), (9, 7), (16, 12), (9, 7))],
)

lstm = keras.Sequential([keras.Input((None, 3)), layers.LSTM(5, return_sequences=True), layers.Dense(2)])
graph = converted(lstm, tf.TensorSpec([None, None, 3], tf.float32, name="x"))
keep("lstm", "Keras: an LSTM over sequences of any length", graph, lstm, [*pictures(3, 6, 3), *pictures(2, 9, 3)])

text = keras.Sequential(
    [keras.Input((7,), dtype="int32"), layers.Embedding(20, 4), layers.GlobalAveragePooling1D(), layers.Dense(2)]
)
graph = converted(text, tf.TensorSpec([None, 7], tf.int32, name="tokens"))
keep(
    "embedding",
    "Keras: an Embedding of INT32 tokens",
    graph,
    text,
    [(rng.integers(0, 20, 7, np.int32),) for _ in range(5)],
)

one, two = keras.Input((4,), name="radar"), keras.Input((4,), name="lidar")
both = layers.Concatenate()([one, two])
heads = keras.Model(
    [one, two], [layers.Dense(2, name="steer")(both), layers.Dense(1, activation="sigmoid", name="brake")(both)]
)
graph, _ = tf2onnx.convert.from_keras(heads)
keep(
    "two_inputs_two_heads",
    "Keras: two inputs, two heads",
    graph,
    lambda *given: heads(list(given)),
    [(rng.normal(size=4).astype("f4"), rng.normal(size=4).astype("f4")) for _ in range(5)],
)

unet = keras.Sequential(
    [
        keras.Input((None, None, 1)),
        layers.Conv2D(4, 3, strides=2, padding="same"),
        layers.UpSampling2D(),
        layers.Conv2D(2, 1),
    ]
)
graph = converted(unet, tf.TensorSpec([None, None, None, 1], tf.float32, name="x"))
keep(
    "segmentation",
    "Keras: pictures and masks of any size",
    graph,
    unet,
    [*pictures(2, 8, 12, 1), *pictures(2, 16, 8, 1)],
)

network.export(FOLDER / "keras.onnx", format="onnx", verbose=False)
keep(
    "keras_export",
    '`model.export("model.onnx", format="onnx")`',
    onnx.load(FOLDER / "keras.onnx"),
    network,
    pictures(4, 12, 12, 3),
)

converter = tf.lite.TFLiteConverter.from_keras_model(network)
(FOLDER / "model.tflite").write_bytes(converter.convert())
subprocess.run(
    [
        sys.executable,
        "-m",
        "tf2onnx.convert",
        "--tflite",
        str(FOLDER / "model.tflite"),
        "--output",
        str(FOLDER / "lite.onnx"),
    ],
    check=True,
    capture_output=True,
)
keep("tflite", "a TFLite file", onnx.load(FOLDER / "lite.onnx"), network, pictures(4, 12, 12, 3))


@tf.function(
    input_signature=[
        tf.TensorSpec([None, 6, 4], tf.float32, name="boxes"),
        tf.TensorSpec([None, 6, 2], tf.float32, name="scores"),
    ]
)
def suppressed(boxes, scores):
    found = tf.image.combined_non_max_suppression(boxes[:, :, None], scores, 3, 5, score_threshold=0.2)
    return found.nmsed_boxes, found.nmsed_scores, found.valid_detections


def box():
    corner = rng.uniform(0, 0.5, (6, 2))
    return np.concatenate([corner, corner + rng.uniform(0.2, 0.5, (6, 2))], axis=1).astype("f4")


try:
    graph, _ = tf2onnx.convert.from_function(suppressed, input_signature=suppressed.input_signature)
    keep(
        "combined_nms",
        "`combined_non_max_suppression`",
        graph,
        suppressed,
        [(box(), rng.uniform(size=(6, 2)).astype("f4")) for _ in range(4)],
    )
except Exception as error:
    print("combined_nms:", error)


@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="serving_default_x:0")])
def counted(x):
    return tf.nn.softmax(x), tf.constant([0.1, 0.2, 0.7])


graph, _ = tf2onnx.convert.from_function(counted, input_signature=counted.input_signature)
frames = asked(lambda x: counted(x)[0], pictures(5, 4), names(graph)[0], names(graph)[1][:1])
kept.keep(
    "constant_output",
    "a `tf.function` that gives the same thresholds every time",
    graph,
    frames,
    f'[[output]]\nname = "{names(graph)[1][0]}"\n',
)


@tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
def spelled(text):
    return tf.strings.length(text)


try:
    graph, _ = tf2onnx.convert.from_function(spelled, input_signature=spelled.input_signature)
    kept.keep("string_input", "strings in", graph, [])
except Exception as error:
    print("string_input:", error)
