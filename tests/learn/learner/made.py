"""A repository with a model of a made-up stream, and the store that a server would have written of it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from duly.models.folders import VERSION
from duly.sampling.files import write
from duly.sampling.sample import Form, Labelled, Sample
from duly.sampling.store import FRAMES, LABELLED, segment_name, segment_numbers
from duly_learn.learner.limits import Limits
from duly_learn.learner.main import Learner
from duly_learn.learner.telling import Teller
from duly_learn.learner.trees import as_graph, fit
from tests.learn.concepts import Concepts

SEGMENT = 50
FOR_EVER = Limits(age_s_max=1e10)
"""The times of made-up frames are those of 1970, a millisecond a frame."""

TOML = """
warmup_runs = 3
[learning]
frames_min = 300
every = 200
[learning.validation]
held_out_min = 40
[learning.drift]
reference_frames = 100
"""


def put_model(root: Path, concepts: Concepts, toml: str = TOML, seed: int = 1, rows: int = 1500) -> Path:
    """Puts version 1 into the repository: trees trained on concept 0, as an author would have made them."""
    folder = root / concepts.name / "1"
    folder.mkdir(parents=True)
    like = helper.make_model(
        helper.make_graph(
            [],
            "like",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", len(concepts.features)])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", concepts.classes])],
        )
    )
    numbers, labels = concepts.draw(np.random.default_rng(seed), rows, 0)
    trees = fit(numbers, labels, np.ones(len(labels)), seed)
    onnx.save(as_graph(trees, like, concepts.classes, False, "scores"), str(folder / "model.onnx"))
    (folder.parent / "model.toml").write_text(toml)
    return folder.parent


def versions_of(model_folder: Path) -> list[int]:
    return sorted(int(path.name) for path in model_folder.iterdir() if VERSION.fullmatch(path.name))


class Stream:
    """Frames of a stream, answered by the newest version, and their labels, in the store of a server."""

    def __init__(self, store: Path, model_folder: Path, concepts: Concepts, seed: int = 2, sources: int = 4) -> None:
        self.folder = store / concepts.name
        self.model_folder = model_folder
        self.concepts = concepts
        self.random = np.random.default_rng(seed)
        self.sources = sources
        self.frames = 0
        self.right: list[bool] = []
        for kind in (FRAMES, LABELLED):
            (self.folder / kind).mkdir(parents=True, exist_ok=True)

    def send(self, count: int, concept: int, lie: "Lie | None" = None) -> float:
        """Writes so many frames, in segments, and their labels. `lie` changes labels. Returns the share of answers that
        are truly right.
        """
        right = []
        for _ in range(count // SEGMENT):
            numbers, labels = self.concepts.draw(self.random, SEGMENT, concept)
            answers, version = self._answers(numbers)
            right += (answers.argmax(axis=1) == labels).tolist()
            frames = [self._sample(numbers[at], answers[at], version) for at in range(SEGMENT)]
            self._write(FRAMES, frames)
            sources = [f"bank-{at % self.sources}" for at in range(SEGMENT)]
            said = labels if lie is None else lie(self.random, numbers, labels, sources)
            self._write(LABELLED, [self._labelled(f, int(s), w) for f, s, w in zip(frames, said, sources, strict=True)])
        self.right += right
        return float(np.mean(right))

    def _answers(self, numbers: np.ndarray) -> tuple[np.ndarray, str]:
        version = str(versions_of(self.model_folder)[-1])
        file = str(self.model_folder / version / "model.onnx")
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"x": numbers})[0]), version

    def _sample(self, numbers: np.ndarray, answer: np.ndarray, version: str) -> Sample:
        self.frames += 1
        form = Form(
            self.concepts.name, version, {"input.x": "FP32", "output.scores": "FP32"}, {"scores": (len(answer),)}
        )
        arrays = {"input.x": numbers, "output.scores": answer}
        when_ns = self.frames * 1_000_000
        return Sample(form, "default", "s-1", self.frames, when_ns, 0, "ON_TIME", "client", arrays)

    def _labelled(self, sample: Sample, label: int, source: str) -> Sample:
        when = Labelled(sample.received_unix_ns + 500, source)
        return sample.with_labels({"label": np.array([label], np.int64)}, {"label": "INT64"}, when)

    def _write(self, kind: str, samples: list[Sample]) -> None:
        numbers = segment_numbers(self.folder / kind)
        write(self.folder / kind / segment_name((numbers or [0])[-1] + 1), samples, segment=True)


class Lie:
    """Labels as a client might send them who is wrong, or lies."""

    def __call__(
        self, random: np.random.Generator, numbers: np.ndarray, labels: np.ndarray, sources: Sequence[str]
    ) -> np.ndarray:
        raise NotImplementedError


class Told:
    """What a learner has told, line by line."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._text = ""
        self.lines: list[dict[str, object]] = []

    def read(self) -> list[dict[str, object]]:
        while True:
            try:
                data = os.read(self._reading, 65_536)
            except BlockingIOError:
                break
            self._text += data.decode()
        *lines, self._text = self._text.split("\n")
        fresh = [json.loads(line) for line in lines]
        self.lines += fresh
        return fresh

    def of(self, event: str) -> list[dict[str, object]]:
        self.read()
        return [line for line in self.lines if line["event"] == event]

    def close(self) -> None:
        os.close(self._reading)
        os.close(self.writing)


class Driven:
    """A learner in this process, that goes on when the test says so."""

    def __init__(self, models: Path, store: Path, commands: bool = False, limits: Limits = FOR_EVER) -> None:
        self.told = Told()
        self.learner = Learner(models, store, commands, False, Teller(self.told.writing), limits)
        self._now_s = 1.0

    def go_on(self) -> list[dict[str, object]]:
        """Lets it do all that there is to do. Returns what it has told meanwhile."""
        before = len(self.told.lines)
        for _ in range(20):
            self._now_s += 10.0
            behind = self.learner.turn(self._now_s)
            self.learner.join()
            self.told.read()
            steps = [line for line in self.told.lines[before:] if line["event"] in ("step", "attempt")]
            if not behind and (not steps or steps[-1]["event"] == "attempt"):
                break
        return self.told.lines[before:]
