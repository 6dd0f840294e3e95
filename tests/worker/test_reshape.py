"""Tensors that have another shape in the graph than clients know."""

from pathlib import Path

import numpy as np
import pytest

from tests import graphs
from tests.worker.client import Worker, version_of
from tests.worker.loading import reason_of


def table(kind: str, name: str, shape: list[int], reshape: list[int]) -> str:
    return f'[[{kind}]]\nname = "{name}"\nshape = {shape}\nreshape = {reshape}\n'


@pytest.mark.parametrize(
    ("dims", "toml", "shape"),
    [
        (["N", 2, 3, 1], table("input", "x", [2, 3], [2, 3, 1]) + table("output", "y", [6], [2, 3, 1]), [6]),
        (["N", 6], table("input", "x", [2, 3], [6]), [6]),
        ([1, 2, 3, 1], "batched = false\n" + table("input", "x", [2, 3], [1, 2, 3, 1]), [1, 2, 3, 1]),
        ([1, 2, 3, 1], table("input", "x", [2, 3], [2, 3, 1]) + table("output", "y", [3, 2], [2, 3, 1]), [3, 2]),
        (["N", "K"], table("input", "x", [2, 3], [6]) + table("output", "y", [3, 2], [6]), [3, 2]),
    ],
)
def test_the_same_numbers_in_another_shape(tmp_path: Path, dims: graphs.Dims, toml: str, shape: list[int]) -> None:
    root = graphs.save(tmp_path, "m", graphs.copying(dims), toml)
    frames = [np.arange(6, dtype=np.float32).reshape(2, 3) + 10 * index for index in range(3)]
    with Worker(version_of(root, "m")) as worker:
        assert worker.signature.inputs[0].shape == (2, 3)
        size = worker.signature.batch_sizes[-1]
        for _ in range(2):
            for begin in range(0, 3, size):
                outcomes = worker.run([[frame] for frame in frames[begin : begin + size]])
                for frame, outcome in zip(frames[begin:], outcomes, strict=False):
                    assert outcome.outputs["y"].shape == tuple(shape)
                    assert outcome.outputs["y"].ravel().tolist() == frame.ravel().tolist()


def test_one_number_a_frame_may_have_no_dimension_in_the_graph(tmp_path: Path) -> None:
    toml = table("input", "x", [1], []) + table("output", "y", [1], [])
    with Worker(version_of(graphs.save(tmp_path, "m", graphs.copying(["N"]), toml), "m")) as worker:
        outcomes = worker.run([[np.float32([4])], [np.float32([5])]])
        assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [[4], [5]]


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        (
            table("input", "x", [4], [2, 2]),
            "input[0].reshape: [2, 2] behind the batch is not what the graph's 'x' has, ",
        ),
        (
            table("input", "x", [5], [4]),
            "input[0].reshape: [4] should have as many elements as shape, [5], all of whose",
        ),
        (
            '[[input]]\nname = "x"\nreshape = [4]\n',
            "input[0].reshape: [4] should have as many elements as shape, which is",
        ),
        (table("input", "x", [2, 2], [4]) + "batch_axis = 1\n", "input[0].reshape: does not go with batch_axis"),
        (table("output", "y", [2, 2], [5]), "output[0].reshape: [5] should have as many elements"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, toml: str, reason: str) -> None:
    assert reason_of(graphs.save(tmp_path, "m", graphs.doubling(), toml), "m").startswith(f"m/model.toml: {reason}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('datatype = "INT64"', "output[0].datatype: INT64 is stated, the graph gives FP32"),
        ("shape = [5]", "output[0].shape: [5] is stated, the graph gives [4] for a frame"),
        ("shape = [4, 1]", "output[0].shape: [4, 1] is stated, the graph gives [4] for a frame"),
    ],
)
def test_an_output_is_what_is_stated(tmp_path: Path, line: str, reason: str) -> None:
    toml = f'[[output]]\nname = "y"\n{line}\n'
    assert reason_of(graphs.save(tmp_path, "m", graphs.doubling(), toml), "m") == f"m/model.toml: {reason}"
    toml = '[[output]]\nname = "y"\nshape = [-1]\ndatatype = "FP32"\n'
    with Worker(version_of(graphs.save(tmp_path, "m", graphs.doubling(), toml), "m")) as worker:
        assert worker.signature.outputs[0].shape == (4,)
