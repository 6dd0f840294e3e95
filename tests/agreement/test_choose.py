"""Which measure a model gets, by what [task] says or by its outputs."""

import pytest

from duly.agreement.choose import NoMeasure, measure_of
from duly.models.spec import Signature, TensorSpec
from duly.models.task import Task


def signature(*outputs: tuple[str, str, tuple[int, ...]], labels: tuple[str, ...] = ()) -> Signature:
    specs = tuple(
        TensorSpec.model_validate({"name": name, "datatype": datatype, "shape": shape, "labels": labels})
        for name, datatype, shape in outputs
    )
    inputs = (TensorSpec(name="x", datatype="FP32", shape=(4,)),)
    return Signature(inputs=inputs, outputs=specs, batch_sizes=(1,), any_size=True, stateful=False)


DETECTOR = signature(("boxes", "FP32", (-1, 4)), ("scores", "FP32", (-1,)), ("classes", "INT64", (-1,)))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (DETECTOR, "boxes"),
        (signature(("y", "FP32", (10,)), labels=("a", "b")), "top1"),
        (signature(("probabilities", "FP32", (3,)), ("label", "INT64", (1,))), "top1"),
        (signature(("label", "STRING", (1,))), "top1"),
        (signature(("y", "FP32", (100,))), "correlation"),
        (signature(("y", "FP32", (-1,))), "correlation"),
        (signature(("y", "FP32", (2,))), "closeness"),
        (signature(("y", "INT64", (100,))), "closeness"),
    ],
)
def test_it_follows_from_the_outputs(given: Signature, wanted: str) -> None:
    assert measure_of(None, given).name == wanted
    assert measure_of(Task(), given).name == wanted


def test_a_class_is_more_telling_than_its_probabilities() -> None:
    given = signature(("probabilities", "FP32", (3,)), ("label", "INT64", ()))
    assert getattr(measure_of(None, given), "output", "") == "label"


def test_the_task_says_otherwise() -> None:
    given = signature(("y", "FP32", (100,)), ("z", "FP32", (1,)))
    measure = measure_of(Task(measure="binary", output="z", threshold=0.7), given)
    assert measure.name == "binary"
    assert (getattr(measure, "output", ""), getattr(measure, "threshold", 0)) == ("z", 0.7)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Task(output="w"), "task.output: there is no output 'w'; the model gives y, z"),
        (Task(measure="boxes"), r"task.measure: boxes are compared in an output 'boxes' of shape \[n, 4\]"),
        (Task(measure="binary", output="z"), "task.measure: 'z' is text, which has no binary"),
    ],
)
def test_what_it_asks_for_and_is_not_there_is_named(task: Task, said: str) -> None:
    with pytest.raises(NoMeasure, match=said):
        measure_of(task, signature(("y", "FP32", (100,)), ("z", "STRING", (1,))))
