"""A student learns its teacher's answers."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from duly_learn.graphs.constants import arrays_of
from duly_learn.graphs.part import Part
from duly_learn.optimize.interpreter import CannotTrain
from duly_learn.optimize.losses import of_logits, of_probabilities, of_yolo_v2, squared
from duly_learn.optimize.training import Bounds, Trained, TrainingFailed, train


def network(width: int, seed: int, last: str = "Identity") -> onnx.ModelProto:
    """conv → relu → conv → relu → mean → dense → y [N, 3]."""
    random = np.random.default_rng(seed)

    def array(name: str, *shape: int) -> onnx.TensorProto:
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        return numpy_helper.from_array((random.standard_normal(shape) * scale).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["ar"]),
            helper.make_node("Conv", ["ar", "w2", "b2"], ["b"], strides=[2, 2]),
            helper.make_node("Relu", ["b"], ["br"]),
            helper.make_node("ReduceMean", ["br"], ["m"], axes=[2, 3], keepdims=0),
            helper.make_node("Gemm", ["m", "w3", "b3"], ["g"], transB=1),
            helper.make_node(last, ["g"], ["y"]),
        ],
        "student",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            array("w1", width, 2, 3, 3),
            array("b1", width),
            array("w2", width, width, 3, 3),
            array("b2", width),
            array("w3", 3, width),
            array("b3", 3),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def frames_and_answers(teacher: onnx.ModelProto, count: int) -> tuple[list[dict], list[dict]]:
    random = np.random.default_rng(7)
    frames = [{"x": random.standard_normal((1, 2, 6, 6)).astype(np.float32)} for _ in range(count)]
    part = Part(teacher, ["y"])
    return frames, [part.run(feeds) for feeds in frames]


def _error(model: onnx.ModelProto, frames: list[dict], answers: list[dict]) -> float:
    part = Part(model, ["y"])
    return float(np.mean([np.mean((part.run(f)["y"] - a["y"]) ** 2) for f, a in zip(frames, answers, strict=True)]))


def test_a_smaller_student_comes_closer_to_its_teacher_on_frames_that_it_has_not_seen() -> None:
    frames, answers = frames_and_answers(network(12, 1), 96)
    student = network(4, 2)
    loss = squared({"y": float(np.var([each["y"] for each in answers]))})
    done = train(
        student, zip(frames[:64], answers[:64], strict=True), loss, Bounds(steps=200, seconds=600, rate=1e-2), seed=0
    )
    assert (done.steps, done.frames) == (200, 64)
    assert done.losses[-1] < done.losses[0] / 3
    assert _error(done.model, frames[64:], answers[64:]) < _error(student, frames[64:], answers[64:]) / 2


def test_training_is_the_same_for_a_seed() -> None:
    frames, answers = frames_and_answers(network(6, 1), 16)
    losses = [
        train(network(4, 2), zip(frames, answers, strict=True), squared({"y": 1.0}), Bounds(20, 600), seed).losses
        for seed in (3, 3, 4)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_only_what_follows_is_trained_and_the_rest_is_as_it_was() -> None:
    frames, answers = frames_and_answers(network(6, 1), 16)
    student = network(4, 2)
    done = train(student, zip(frames, answers, strict=True), squared({"y": 1.0}), Bounds(20, 600), 0, first="b")
    assert set(done.trained) == {"w2", "b2", "w3", "b3"}
    before, after = arrays_of(student), arrays_of(done.model)
    assert [name for name in before if not np.array_equal(before[name], after[name])] == ["w2", "b2", "w3", "b3"]
    # The part that stays need not be one that can be trained.
    student.graph.node[1].op_type = "Selu"
    train(student, zip(frames, answers, strict=True), squared({"y": 1.0}), Bounds(2, 600), 0, first="b")
    with pytest.raises(CannotTrain, match="Selu"):
        train(student, zip(frames, answers, strict=True), squared({"y": 1.0}), Bounds(2, 600), 0)


def test_what_is_no_number_stops_training_with_the_cause() -> None:
    frames, answers = frames_and_answers(network(6, 1), 16)
    answers[3]["y"][0, 1] = np.nan
    with pytest.raises(TrainingFailed, match=r"the loss is nan at step 10 of 100: the frames or the teacher's answers"):
        train(network(4, 2), zip(frames, answers, strict=True), squared({"y": 1.0}), Bounds(100, 600, batch=16), 0)
    answers[7]["y"][0, 1] = np.inf  # one of those that are not trained on
    with pytest.raises(TrainingFailed, match=r"the loss is inf before the first step"):
        train(network(4, 2), zip(frames, answers, strict=True), squared({"y": 1.0}), Bounds(100, 600, batch=16), 0)


def test_a_student_that_only_gets_worse_stays_as_it_was() -> None:
    frames, answers = frames_and_answers(network(6, 1), 32)
    bounds = Bounds(steps=40, seconds=600, rate=10.0)
    done = train(network(6, 1), zip(frames, answers, strict=True), squared({"y": 1.0}), bounds, 0)
    assert done.unseen[1] == done.unseen[0] < done.losses[-1]
    for name, value in arrays_of(network(6, 1)).items():
        np.testing.assert_array_equal(arrays_of(done.model)[name], value)


def trained_by(clock: Iterator[float], steps: int, seconds: float) -> Trained:
    frames, answers = frames_and_answers(network(6, 1), 16)
    bounds = Bounds(steps, seconds)
    examples = zip(frames, answers, strict=True)
    return train(network(4, 2), examples, squared({"y": 1.0}), bounds, 0, clock=lambda: float(next(clock)))


def test_steps_end_training_and_the_time_only_where_it_is_not_enough() -> None:
    def ticks(first: float, each: float) -> Iterator[float]:
        """At the beginning, and after every ten steps; the first ones take longer."""
        yield 0.0
        yield from (first + each * nth for nth in range(1000))

    assert trained_by(ticks(50, 1), 100, 60).steps == 100
    quick, slow = trained_by(ticks(0.1, 1), 100, 1000), trained_by(ticks(50, 3), 100, 1000)
    assert quick.losses == slow.losses, "the clock changes nothing where it is not needed"
    assert trained_by(ticks(2, 1), 100, 6.5).steps == 30 + int(0.9 * 2.5 * 10)
    late = iter([0.0, 1.0, 2.0, 3.0, *range(100, 200)])  # the machine gets other work
    assert trained_by(late, 100, 20).steps == 40


def test_without_frames_or_weights_nothing_is_trained() -> None:
    with pytest.raises(TrainingFailed, match="no frames"):
        train(network(4, 2), [], squared({"y": 1.0}), Bounds(1, 1), 0)
    frames, answers = frames_and_answers(network(6, 1), 2)
    with pytest.raises(TrainingFailed, match="no weight"):
        train(network(4, 2), zip(frames, answers, strict=True), squared({"y": 1.0}), Bounds(1, 1), 0, first="y")


def test_losses_are_nothing_for_the_teachers_own_answers_and_more_for_others() -> None:
    random = np.random.default_rng(0)
    logits, others = (random.standard_normal((1, 5)).astype(np.float32) for _ in range(2))
    grid, other_grid = (random.standard_normal((1, 14, 3, 3)).astype(np.float32) for _ in range(2))
    powers = np.exp(logits) / np.exp(logits).sum()
    other_powers = np.exp(others) / np.exp(others).sum()
    for loss, wanted, got in (
        (squared({"y": 2.0}), logits, others),
        (of_logits("y"), logits, others),
        (of_probabilities("y"), powers, other_powers),
        (of_yolo_v2("y", anchors=2), grid, other_grid),
    ):
        assert float(loss({"y": wanted}, {"y": wanted})) == pytest.approx(0, abs=1e-5)
        assert float(loss({"y": got}, {"y": wanted})) > 0.01
