"""Graph inputs that the server fills: where a frame stands in its stream."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from duly.worker.load_model import load
from tests import graphs
from tests.worker.client import Worker, version_of
from tests.worker.loading import body_of, reason_of

pytestmark = pytest.mark.holds_on("cpu", why="a graph of Cast, Reshape and Concat stays on the CPU")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    root = graphs.save(tmp_path_factory.mktemp("controls"), "standing", graphs.standing(), graphs.STANDING)
    with Worker(version_of(root, "standing")) as worker:
        yield worker


def said(
    worker: Worker, *frames: tuple[int, float], resets: tuple[bool, ...] = (), last: tuple[int, ...] = ()
) -> list[list[float]]:
    """What the graph was told of these frames, each of a stream."""
    values = [[np.float32([x])] for _, x in frames]
    outcomes = worker.run(values, [stream for stream, _ in frames], resets, last=last)
    return [outcome.outputs["y"].tolist() for outcome in outcomes]


def test_frames_know_where_they_stand(worker: Worker) -> None:
    assert worker.signature.stateful
    assert [spec.name for spec in worker.signature.inputs] == ["x"]
    assert said(worker, (10, 5)) == [[5, 1, 1, 0, 10]]
    assert said(worker, (10, 6), (11, 7)) == [[6, 0, 1, 0, 10], [7, 1, 1, 0, 11]]
    assert said(worker, (11, 8), (10, 9), last=(1,)) == [[8, 0, 1, 0, 11], [9, 0, 1, 1, 10]]


def test_a_stream_that_is_reset_or_forgotten_begins_again(worker: Worker) -> None:
    assert said(worker, (20, 1)) == [[1, 1, 1, 0, 20]]
    assert said(worker, (20, 2), resets=(True,)) == [[2, 1, 1, 0, 20]]
    assert said(worker, (20, 3)) == [[3, 0, 1, 0, 20]]
    worker.forget(20)
    assert said(worker, (20, 4)) == [[4, 1, 1, 0, 20]]


def test_the_number_of_a_stream_is_cut_to_the_bits_of_the_input(worker: Worker) -> None:
    number = (1 << 40) + (1 << 31) + 3
    assert said(worker, (number, 1)) == [[1, 1, 1, 0, float(np.float32(-(1 << 31) + 3))]]


def test_a_frame_of_another_size_knows_it_too(tmp_path: Path) -> None:
    """Where sizes are open, nothing is bound."""
    nodes = [helper.make_node("Add", ["x", "start"], ["y"])]
    proto = graphs.model(
        nodes, [graphs.value("x", ["N", "K"]), graphs.value("start", ["N", 1])], [graphs.value("y", ["N", "K"])]
    )
    toml = '[[control]]\ninput = "start"\nkind = "START"\nfalse_true = [10, 20]\n'
    with Worker(version_of(graphs.save(tmp_path, "m", proto, toml), "m")) as worker:
        for expected in (20, 10):
            outcomes = worker.run([[np.float32([1, 2])], [np.float32([1])]], [1, 2])
            assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [
                [expected + 1, expected + 2],
                [expected + 1],
            ]


def test_rows_without_a_frame_are_not_ready(tmp_path: Path) -> None:
    """y: how many rows are ready, told to each."""
    nodes = [
        helper.make_node("ReduceSum", ["ready", "zero"], ["count"], keepdims=1),
        helper.make_node("Add", ["x", "count"], ["y"]),
    ]
    proto = graphs.model(
        nodes,
        [graphs.value("x", [4, 1]), graphs.value("ready", [4, 1])],
        [graphs.value("y", [4, 1])],
        {"zero": np.int64([0])},
    )
    toml = 'dependent_rows = "BATCH"\n[[control]]\ninput = "ready"\nkind = "READY"\n'
    with Worker(version_of(graphs.save(tmp_path, "m", proto, toml), "m")) as worker:
        for streams in ([1, 2, 3, 4], [1], [2, 3]):
            outcomes = worker.run([[np.float32([0])]] * len(streams), streams)
            assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [[len(streams)]] * len(streams)


def test_a_graph_without_a_batch_has_controls_too(tmp_path: Path) -> None:
    proto = graphs.model(
        [helper.make_node("Add", ["x", "start"], ["y"])],
        [graphs.value("x", [3]), graphs.value("start", [1])],
        [graphs.value("y", [3])],
    )
    toml = 'batched = false\n[[control]]\ninput = "start"\nkind = "START"\n'
    with Worker(version_of(graphs.save(tmp_path, "m", proto, toml), "m")) as worker:
        for expected in (1, 0):
            (outcome,) = worker.run([[np.zeros(3, np.float32)]], [7])
            assert outcome.outputs["y"].tolist() == [expected] * 3


def test_check_samples_are_the_first_of_a_stream(tmp_path: Path) -> None:
    root = graphs.save(tmp_path, "m", graphs.standing(), graphs.STANDING)
    (root / "m" / "checks").mkdir()
    arrays = {"input.x": np.float32([4]), "output.y": np.float32([4, 1, 1, 0, 0])}
    np.savez(root / "m" / "checks" / "one.npz", **arrays)
    assert load(body_of(root, "m", checks=True)).models
    np.savez(root / "m" / "checks" / "one.npz", **(arrays | {"output.y": np.float32([4, 0, 1, 0, 0])}))
    assert "one.npz" in reason_of(root, "m", checks=True)


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        (
            'input = "strat"\nkind = "START"',
            "control[0].input: the graph has no input 'strat'; it has: x, start, ready",
        ),
        ('input = "start"\nkind = "STREAM"', "control[0].input: 'start' is FP32; a stream's number is a whole one"),
        (
            'input = "id"\nkind = "START"\nfalse_true = [0, 0.5]',
            "control[0].false_true: 0.5 is no INT32, which 'id' is",
        ),
        ('input = "x"\nkind = "START"', "input: clients have nothing to send"),
        (
            'input = "start"\nkind = "START"\nbatch_axis = 2',
            "control[0].batch_axis: 2 is no axis of 'start', shape [-1, 1]",
        ),
    ],
)
def test_controls_that_do_not_fit_are_named(tmp_path: Path, control: str, reason: str) -> None:
    others = [table for table in graphs.STANDING.split("[[control]]\n")[1:] if control.split('"')[1] not in table]
    toml = "".join(f"[[control]]\n{table}\n" for table in [control, *others])
    said = reason_of(graphs.save(tmp_path, "m", graphs.standing(), toml), "m")
    assert said.startswith(f"m/model.toml: {reason}")


def test_a_control_has_one_number_a_frame(tmp_path: Path) -> None:
    toml = '[[control]]\ninput = "x"\nkind = "READY"\n'
    reason = reason_of(graphs.save(tmp_path, "m", graphs.doubling(), toml), "m")
    assert reason == "m/model.toml: control[0].input: 'x' is FP32['N', 4]; a control has one number for each frame"
