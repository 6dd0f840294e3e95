"""The built-in trainers: `python -m duly_learn.learner.train JOB` makes the files of a new version in JOB/out.

The same job makes the same bytes.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from duly.models.errors import BrokenModel
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig, Variant
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.samples import frame_of
from duly_learn.learner.head import FEATURES, find_head, train, with_head, without_head
from duly_learn.learner.job import NOT_MADE_FILE, Job, Lesson, copy_version, read_job
from duly_learn.learner.trees import as_graph, fit
from duly_learn.running.seen import GraphView


def main() -> int:
    folder = Path(sys.argv[1])
    try:
        job, lessons = read_job(folder)
        if not lessons:
            raise LearnError("there are no frames to train on")
        make(folder, job, lessons)
    except (LearnError, BrokenModel, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def make(folder: Path, job: Job, lessons: list[Lesson]) -> None:
    """Writes JOB/out. Raises LearnError where the graph of the first variant is none that the trainer can treat, and
    OSError. Of other variants it is said why they are not made.
    """
    config = job.model_config
    shutil.rmtree(folder / "out")
    copy_version(folder / "from", folder / "out")
    trees = config.learning is None or config.learning.kind == "tabular"
    not_made: dict[str, str] = {}
    for variant in config.variants:
        file = folder / "out" / variant.file
        graph = onnx.load(str(folder / "from" / variant.file))
        file.unlink()
        if variant is config.variants[0]:
            onnx.save(
                _trees(graph, job, config, lessons) if trees else _head(folder, graph, job, config, variant, lessons),
                str(file),
            )
        elif trees:
            not_made[variant.name] = "trees take the place of the whole graph, and are one"
        else:
            try:
                onnx.save(_head(folder, graph, job, config, variant, lessons), str(file))
            except (LearnError, BrokenModel) as error:  # such as of 8 bits, whose weights are computed
                not_made[variant.name] = f"{error}; duly models optimize makes it anew of the new version"
    (folder / NOT_MADE_FILE).write_text(json.dumps(not_made))


def _trees(graph: onnx.ModelProto, job: Job, config: ModelConfig, lessons: list[Lesson]) -> onnx.ModelProto:
    if config.states or config.controls or config.postprocess or config.constants:
        raise LearnError(f"{job.model} keeps state, or has postprocessing or constants, which trees do not have")
    if prepared := [each.name for each in config.inputs if each.preprocess or each.encodings]:
        raise LearnError(f"the input '{prepared[0]}' is prepared first or encoded; trees take numbers as they are sent")
    if guards := [each.output for each in config.guards if each.kind == "DISTRIBUTION"]:
        raise LearnError(
            f"the output '{guards[0]}' is the score of a guard of kind DISTRIBUTION, which looks into the graph that "
            "trees would replace; take the guard out of model.toml and the output out of the graph"
        )
    tensors = {each.tensor or each.name: each.name for each in config.inputs}
    known = {tensor.name for tensor in graph.graph.initializer}
    names = [tensors.get(each.name, each.name) for each in graph.graph.input if each.name not in known]
    rows = [np.concatenate([_numbers(lesson, name) for name in names]) for lesson in lessons]
    if len({len(row) for row in rows}) != 1:
        raise LearnError("frames have different numbers of elements; trees take as many from each")
    labels, weights = _labels(lessons)
    trees = fit(np.stack(rows).astype(np.float32), labels, weights, job.seed)
    return as_graph(trees, graph, job.classes, job.logits, _tensor_of(job, config))


def _numbers(lesson: Lesson, name: str) -> npt.NDArray[np.float64]:
    array = lesson.sample.inputs.get(name)
    if array is None or array.dtype.kind not in "biuf":
        raise LearnError(f"a frame has no numbers for the input '{name}'")
    return array.ravel().astype(np.float64)


def _head(
    folder: Path, graph: onnx.ModelProto, job: Job, config: ModelConfig, variant: Variant, lessons: list[Lesson]
) -> onnx.ModelProto:
    head = find_head(graph, _tensor_of(job, config))
    body = folder / "body"
    body.mkdir(exist_ok=True)
    onnx.save(without_head(graph, head), str(body / "model.onnx"))
    # All that is about the outputs goes with them, and so do guards; what is done to the inputs stays.
    bare = {"outputs", "guards", "postprocess", "chunk", "labels", "variants", "learning", "kserve", "checks"}
    kept = {name: getattr(config, name) for name in config.model_fields_set if name not in bare}
    version = ModelVersion(job.model, job.version, body, folder, ModelConfig().model_copy(update=kept), ())
    version = replace(version, config=version.config.model_copy(update={"variants": (Variant(name=variant.name),)}))
    frames: list[LearnFrame] = [frame_of(lesson.sample) for lesson in lessons]
    features = np.stack([sight.outputs[FEATURES].ravel() for sight in GraphView(version).of(frames)])
    labels, weights = _labels(lessons)
    return with_head(graph, head, *train(head, features.astype(np.float64), labels, weights))


def _tensor_of(job: Job, config: ModelConfig) -> str:
    """The graph's output that clients know as the scores."""
    return next((each.tensor for each in config.outputs if each.name == job.scores and each.tensor), job.scores)


def _labels(lessons: list[Lesson]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    return (
        np.array([lesson.label for lesson in lessons], np.int64),
        np.array([lesson.weight for lesson in lessons], np.float64),
    )


if __name__ == "__main__":
    sys.exit(main())
