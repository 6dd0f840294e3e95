"""Batches through a real worker process: what runs, what is taken out, and that one bad frame costs only itself."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from duly.accelerators import of_lane
from duly.worker.channel import FRAME_FAILED, INVALID, OK
from tests import graphs
from tests.lane import lane
from tests.worker.client import BatchFailed, Encoded, Worker, version_of


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """y = 2x, 4 wide, from a file without a toml."""
    root = graphs.save(tmp_path_factory.mktemp("double"), "double", graphs.doubling())
    with Worker(version_of(root, "double")) as worker:
        yield worker


def rows(count: int, width: int = 4) -> list[np.ndarray]:
    return list(np.random.default_rng(7).standard_normal((count, width), np.float32))


def test_bare_model_answers_in_both_slots_at_every_size(double: Worker) -> None:
    signature = double.signature
    assert [(s.name, s.datatype, s.shape, s.bytes_max, s.finite) for s in signature.inputs] == [
        ("x", "FP32", (4,), 16, True)
    ]
    assert [(s.name, s.datatype, s.shape, s.bytes_max) for s in signature.outputs] == [("y", "FP32", (4,), 16)]
    assert (signature.batch_sizes, signature.stateful) == ((1, 2, 4, 8), False)
    # A device with memory of its own has buffers for the sizes of the warm-up alone.
    assert signature.any_size == (not of_lane(lane()).memory)
    (variant,) = double.ready["variants"]
    assert variant["providers"] == [of_lane(lane()).provider]
    samples_ns = variant["samples_ns"]
    assert {size: len(times) for size, times in samples_ns.items()} == dict.fromkeys("1248", 3)
    assert all(time > 0 for times in samples_ns.values() for time in times)
    for slot in (0, 1, 0):
        for size in range(1, 9):
            values = rows(size)
            outcomes = double.run([[value] for value in values], slot=slot)
            assert [outcome.status for outcome in outcomes] == [OK] * size
            for value, outcome in zip(values, outcomes, strict=True):
                np.testing.assert_array_equal(outcome.outputs["y"], 2 * value)


def test_results_of_one_slot_stay_while_the_other_runs(double: Worker) -> None:
    first, second = rows(2)
    double.run([[first]], slot=0)
    double.run([[second]], slot=1)
    kept = np.frombuffer(double.region.outputs[0], np.float32, 4).copy()
    np.testing.assert_array_equal(kept, 2 * first)


def test_fixed_batch_is_padded(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling([4, 3]))
    with Worker(version_of(tmp_path, "double")) as worker:
        assert (worker.signature.batch_sizes, worker.signature.any_size) == ((4,), False)
        for count in (4, 2):
            values = rows(count, 3)
            for value, outcome in zip(values, worker.run([[value] for value in values]), strict=True):
                np.testing.assert_array_equal(outcome.outputs["y"], 2 * value)


def test_tensors_are_read_and_written_where_they_lie(tmp_path: Path) -> None:
    if of_lane(lane()).memory:
        pytest.skip("the device has memory of its own, where only the rows of frames are copied")
    graphs.save(tmp_path, "double", graphs.doubling([4, 3]))
    with Worker(version_of(tmp_path, "double")) as worker:
        # Rows that belong to no frame of the batch: their results appear all the same, so that the graph reads and
        # writes the region itself.
        stray = np.float32([1000, 2000, 3000])
        worker.region.inputs[0][24:36] = stray.tobytes()
        worker.region.outputs[0][24:36] = bytes(12)
        values = rows(2, 3)
        outcomes = worker.run([[value] for value in values])
        assert len(outcomes) == 2
        np.testing.assert_array_equal(outcomes[1].outputs["y"], 2 * values[1])
        np.testing.assert_array_equal(np.frombuffer(worker.region.outputs[0][24:36], np.float32), 2 * stray)


def test_more_frames_than_the_largest_batch_are_refused(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling(), "batch_sizes = [1, 3]\n")
    with Worker(version_of(tmp_path, "double")) as worker:
        assert worker.signature.batch_sizes == (1, 3)
        with pytest.raises(BatchFailed, match="a batch of 4 is larger than 3"):
            worker.run([[np.zeros(4, np.float32)]] * 4)
        assert worker.run([[np.zeros(4, np.float32)]] * 2)[1].status == OK


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_frames_that_are_not_finite_leave_the_batch(double: Worker, poison: float) -> None:
    values = rows(5)
    values[1][2] = values[4][0] = poison
    outcomes = double.run([[value] for value in values])
    assert [outcome.status for outcome in outcomes] == [OK, INVALID, OK, OK, INVALID]
    assert outcomes[1].reason == "input 'x': an element is NaN or infinite"
    for index in (0, 2, 3):
        np.testing.assert_array_equal(outcomes[index].outputs["y"], 2 * values[index])


def test_model_may_allow_what_is_not_finite(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling(), '[[input]]\nname = "x"\nfinite = false\n')
    with Worker(version_of(tmp_path, "double")) as worker:
        outcome = worker.run([[np.float32([1, np.nan, np.inf, 4])]])[0]
        np.testing.assert_array_equal(outcome.outputs["y"], [2, np.nan, np.inf, 8])


def test_frames_of_the_wrong_form_say_what_is_wrong(double: Worker) -> None:
    good = np.float32([1, 2, 3, 4])
    outcomes = double.run([[good[:3]], [good.reshape(2, 2)], [Encoded("JPEG", b"\xff\xd8\xff")], [good]])
    assert [outcome.reason for outcome in outcomes] == [
        "input 'x' has shape [3], wanted is [4]",
        "input 'x' has shape [2, 2], wanted is [4]",
        "input 'x' takes no JPEG, but FP32[4]",
        "",
    ]
    np.testing.assert_array_equal(outcomes[3].outputs["y"], 2 * good)


def test_rows_of_all_inputs_stay_together_when_frames_leave_the_batch(tmp_path: Path) -> None:
    # One input is read where it lies, the other from a buffer that it is normalised into.
    add = helper.make_node("Sub", ["a", "b"], ["y"])
    inputs = [graphs.value("a", ["N", 3]), graphs.value("b", ["N", 3])]
    proto = graphs.model([add], inputs, [graphs.value("y", ["N", 3])])
    toml = (
        '[[input]]\nname = "a"\n[[input]]\nname = "b"\npreprocess = [{ op = "normalise", scale = 2.0, mean = [1.0] }]\n'
    )
    graphs.save(tmp_path, "m", proto, toml)
    generator = np.random.default_rng(3)
    with Worker(version_of(tmp_path, "m")) as worker:
        for step in range(60):
            a, b = generator.integers(-9, 9, (2, generator.integers(1, 9), 3)).astype(np.float32)
            bad = generator.random(len(a)) < 0.4
            for index in np.flatnonzero(bad):
                (a, b)[generator.integers(2)][index, 1] = np.nan
            outcomes = worker.run(list(zip(a, b, strict=True)), slot=step % 2)
            assert [outcome.status for outcome in outcomes] == [INVALID if wrong else OK for wrong in bad]
            for index in np.flatnonzero(~bad):
                np.testing.assert_array_equal(outcomes[index].outputs["y"], a[index] - (2 * b[index] - 1))


def test_boxes_and_the_grid_that_they_come_from(tmp_path: Path) -> None:
    toml = (
        '[[output]]\nname = "grid"\ntensor = "y"\n'
        '[postprocess]\nop = "yolo_v2"\ntensor = "y"\nanchors = [[1.0, 1.0], [2.0, 2.0]]\ndetections_max = 3\n'
    )
    graphs.save(tmp_path, "m", graphs.doubling(["N", 14, 2, 2]), toml)
    grids = np.full((2, 14, 2, 2), -5, np.float32)
    grids[1, :7, 1, 0] = [0, 0, 0, 0, 9, 1, 9]
    with Worker(version_of(tmp_path, "m")) as worker:
        assert [(spec.name, spec.shape, spec.bytes_max) for spec in worker.signature.outputs] == [
            ("boxes", (-1, 4), 48),
            ("scores", (-1,), 12),
            ("classes", (-1,), 24),
            ("grid", (14, 2, 2), 224),
        ]
        nothing, one = worker.run([[grid] for grid in grids])
        assert nothing.outputs["boxes"].shape == (0, 4)
        np.testing.assert_allclose(one.outputs["boxes"], [[0, 0.5, 0.5, 1]], atol=1e-6)
        assert one.outputs["classes"].tolist() == [1]
        np.testing.assert_array_equal(one.outputs["grid"], 2 * grids[1])


@pytest.mark.holds_on("cpu", why="an index out of bounds is an error of the CPU's provider alone")
def test_batch_that_the_graph_refuses_fails_with_a_plain_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graphs.save(tmp_path, "pick", graphs.picking())
    with Worker(version_of(tmp_path, "pick")) as worker:
        with pytest.raises(BatchFailed) as failed:
            worker.run([[np.int64(1)], [np.int64(9)]])
        assert str(failed.value) == (
            "Gather node '': indices element out of data bounds, idx=9 must be within the inclusive range [-4,3]"
        )
        outcomes = worker.run([[np.int64(3)], [np.int64(0)]])
        assert [float(outcome.outputs["y"]) for outcome in outcomes] == [40, 10]
    assert capfd.readouterr().err == ""


def test_frames_of_several_shapes_run_in_one_batch(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling(["N", "H", "W"]))
    with Worker(version_of(tmp_path, "double")) as worker:
        assert worker.signature.inputs[0].shape == (-1, -1)
        values = [np.full(shape, seed, np.float32) for seed, shape in enumerate([(2, 3), (4, 1), (2, 3), (1, 1)])]
        values[2][1, 2] = np.nan
        outcomes = worker.run([[value] for value in values])
        assert [outcome.status for outcome in outcomes] == [OK, OK, INVALID, OK]
        for index in (0, 1, 3):
            np.testing.assert_array_equal(outcomes[index].outputs["y"], 2 * values[index])
        empty, other = worker.run([[np.zeros((0, 3), np.float32)], [values[0]]])
        assert (empty.status, empty.outputs["y"].shape) == (OK, (0, 3))
        np.testing.assert_array_equal(other.outputs["y"], 2 * values[0])


def test_fixed_batch_of_open_shapes_is_padded(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling([3, "W"]), "batched = true\n")
    with Worker(version_of(tmp_path, "double")) as worker:
        assert (worker.signature.batch_sizes, worker.signature.any_size) == ((3,), False)
        values = [np.float32([1, 2]), np.float32([3, 4])]
        for value, outcome in zip(values, worker.run([[value] for value in values]), strict=True):
            np.testing.assert_array_equal(outcome.outputs["y"], 2 * value)


@pytest.mark.holds_on("cpu", "openvino", why="providers of GPUs may leave its operators to the CPU")
def test_output_beyond_its_bound_fails_its_frame_alone(tmp_path: Path) -> None:
    toml = 'batch_sizes = [1, 2]\n[[output]]\nname = "y"\nbytes_max = 1048576\n'
    graphs.save(tmp_path, "zeros", graphs.zeros(), toml)
    with Worker(version_of(tmp_path, "zeros")) as worker:
        assert worker.signature.outputs[0].shape == (-1,)
        assert worker.run([[np.int64([262_144])]])[0].outputs["y"].shape == (262_144,)
        outcome = worker.run([[np.int64([262_145])]])[0]
        assert outcome.status == FRAME_FAILED
        assert outcome.reason == (
            "output 'y' has 1,048,580 bytes (FP32[262145]), more than the 1,048,576 that a frame may have; raise "
            "bytes_max of [[output]] in model.toml to at least 1048580"
        )
        assert [o.outputs["y"].shape for o in worker.run([[np.int64([3])], [np.int64([5])]])] == [(3,), (5,)]


@pytest.mark.holds_on("cpu", why="OpenVINO runs a batch that cannot be grouped; GPUs leave operators to the CPU")
@pytest.mark.parametrize("dims", [["N", 4], ["N", "n"]])
def test_batches_between_the_warm_sizes_are_filled_up_where_no_others_may_run(
    tmp_path: Path, dims: graphs.Dims
) -> None:
    """The second graph takes its frames in pairs, which shows at load; the first does as model.toml says."""
    pairs = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Min", ["rows", "two"], ["pair"]),
        helper.make_node("Concat", ["pair", "rest"], ["grouped"], axis=0),
        helper.make_node("Reshape", ["x", "grouped"], ["in_pairs"]),
        helper.make_node("Shape", ["x"], ["flat"]),
        helper.make_node("Add", ["in_pairs", "in_pairs"], ["doubled"]),
        helper.make_node("Reshape", ["doubled", "flat"], ["y"]),
    ]
    constants = {"two": np.int64([2]), "rest": np.int64([-1, 1])}
    grouped = graphs.model(pairs, [graphs.value("x", ["N", 1])], [graphs.value("y", ["N", 1])], constants)
    for name, proto, toml in (("said", graphs.doubling(dims), "any_size = false\n"), ("found", grouped, "")):
        graphs.save(tmp_path, name, proto, "batch_sizes = [1, 2, 4]\n" + toml)
        with Worker(version_of(tmp_path, name)) as worker:
            assert (worker.signature.batch_sizes, worker.signature.any_size) == ((1, 2, 4), False)
            notes = "".join(worker.ready["notes"])
            assert ("the graph takes no batch of 3, so that only batches of [1, 2, 4] run" in notes) == (not toml)
            width = 4 if toml else 1
            frames = [np.full(width, number, np.float32) for number in (1, 2, 3)]
            outcomes = worker.run([[frame] for frame in frames])
            assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [(2 * frame).tolist() for frame in frames]


@pytest.mark.holds_on("cpu", "cuda", "openvino", why="SwiftShader has no numbers of 16 bits")
def test_element_types_of_clients_and_graph_may_differ_without_loss(tmp_path: Path) -> None:
    graphs.save(tmp_path, "half", graphs.doubling(["N", 4], graphs.FP16), '[[input]]\nname = "x"\ndatatype = "FP32"\n')
    graphs.save(tmp_path, "flags", graphs.copying(["N", 3], graphs.BOOL))
    with Worker(version_of(tmp_path, "half")) as worker:
        assert worker.signature.inputs[0].datatype == "FP32"
        outcome = worker.run([[np.float32([1, 2, 3, 4])]])[0]
        assert outcome.outputs["y"].dtype == np.float16
        np.testing.assert_array_equal(outcome.outputs["y"], [2, 4, 6, 8])
    with Worker(version_of(tmp_path, "flags")) as worker:
        outcomes = worker.run([[np.array([True, False, True])], [np.array([0, 1, 1], np.uint8)]])
        assert outcomes[0].outputs["y"].tolist() == [True, False, True]
        assert worker.run([[np.array([0, 1, 2], np.uint8)]])[0].reason == (
            "input 'x': an element of BOOL is neither 0 nor 1"
        )


def test_interrupt_from_the_terminal_is_the_servers_affair(double: Worker) -> None:
    double.process.send_signal(signal.SIGINT)
    assert double.run([[np.zeros(4, np.float32)]])[0].status == OK
