"""One worker hosts every variant of its version: each runs when it is asked for, and all take and give the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from duly.accelerators import CPU, CUDA, TENSORRT, of_lane
from duly.worker.providers import WARM_AFTER_NS, warm_after_ns
from tests import graphs
from tests.lane import lane
from tests.worker.client import LoadFailed, Worker, version_of

TWO = """
[[variant]]
name = "exact"

[[variant]]
name = "quick"
file = "quick.onnx"
"""


def save(root: Path, quick: onnx.ModelProto, toml: str = TWO) -> Path:
    """`exact` doubles."""
    graphs.save(root, "m", graphs.doubling(), toml)
    return graphs.save(root, "m", quick, toml, file="quick.onnx")


def tripling() -> onnx.ModelProto:
    """y = 3x."""
    nodes = [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("Add", ["twice", "x"], ["y"])]
    return graphs.model(nodes, [graphs.value("x", ["N", 4])], [graphs.value("y", ["N", 4])])


def test_each_batch_runs_on_the_variant_that_it_names(tmp_path: Path) -> None:
    save(tmp_path, tripling())
    frames = [[np.float32([1, 2, 3, nth])] for nth in range(3)]
    with Worker(version_of(tmp_path, "m")) as worker:
        for slot, variant, factor in ((0, 0, 2), (1, 1, 3), (0, 1, 3), (1, 0, 2)):
            outcomes = worker.run(frames, slot=slot, variant=variant)
            assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [
                [factor, 2 * factor, 3 * factor, nth * factor] for nth in range(3)
            ]


def test_every_variant_is_warmed_and_profiled_at_every_size(tmp_path: Path) -> None:
    save(tmp_path, tripling())
    with Worker(version_of(tmp_path, "m")) as worker:
        for variant in worker.ready["variants"]:
            assert {size: len(times) for size, times in variant["samples_ns"].items()} == dict.fromkeys("1248", 3)
            provider = of_lane(lane()).provider
            assert (variant["any_size"], variant["providers"]) == (True, [provider])
            assert variant["warm_after_ns"] == warm_after_ns([provider])


@pytest.mark.holds_on("cpu", why="other providers leave some of its operators to the CPU")
@pytest.mark.parametrize(
    ("quick", "toml", "reason"),
    [
        (
            graphs.doubling(("N", 5)),
            TWO,
            "m/1/quick.onnx: input 'x' is FP32[5] of at most 20 bytes, that of m/1/model.onnx FP32[4] of at most 16 "
            "bytes; variants must take and give the same",
        ),
        (
            graphs.model(
                [helper.make_node("Cast", ["x"], ["y"], to=graphs.FP16)],
                [graphs.value("x", ["N", 4])],
                [graphs.value("y", ["N", 4], graphs.FP16)],
            ),
            TWO,
            "m/1/quick.onnx: output 'y' is FP16[4] of at most 8 bytes, that of m/1/model.onnx FP32[4] of at most 16 "
            "bytes; variants must take and give the same",
        ),
        (
            graphs.model(
                [helper.make_node("Add", ["x", "x"], ["z"])],
                [graphs.value("x", ["N", 4])],
                [graphs.value("z", ["N", 4])],
            ),
            TWO,
            "m/1/quick.onnx: its outputs are z, those of m/1/model.onnx are y; variants must have the same",
        ),
        (
            graphs.doubling((2, 4)),
            TWO,
            "m/1/quick.onnx: takes batches of [2], m/1/model.onnx of [1, 2, 4, 8]; export both with the batch open, "
            "or set batch_sizes to what both take",
        ),
    ],
)
def test_variants_that_differ(tmp_path: Path, quick: onnx.ModelProto, toml: str, reason: str) -> None:
    save(tmp_path, quick, toml)
    with pytest.raises(LoadFailed) as failed:
        Worker(version_of(tmp_path, "m"))
    assert str(failed.value) == reason


def test_a_variant_that_does_not_fit_the_configuration_is_named(tmp_path: Path) -> None:
    proto = graphs.model(
        [helper.make_node("Add", ["w", "w"], ["y"])], [graphs.value("w", ["N", 4])], [graphs.value("y", ["N", 4])]
    )
    save(tmp_path, proto, '[[input]]\nname = "x"\n' + TWO)
    with pytest.raises(LoadFailed) as failed:
        Worker(version_of(tmp_path, "m"))
    assert str(failed.value).startswith("m/model.toml for quick.onnx: input[0]")


def test_a_warming_run_goes_through_the_variant_and_leaves_no_trace(tmp_path: Path) -> None:
    save(tmp_path, tripling())
    with Worker(version_of(tmp_path, "m")) as worker:
        first = worker.run([[np.float32([1, 2, 3, 4])]], slot=0)
        worker.warm(slot=1, variant=1)
        assert first[0].outputs["y"].tolist() == [2, 4, 6, 8]
        assert worker.run([[np.float32([1, 2, 3, 4])]], slot=1)[0].outputs["y"].tolist() == [2, 4, 6, 8]


def test_a_warming_run_touches_no_streams_state(tmp_path: Path) -> None:
    graphs.save(tmp_path, "sum", graphs.summing(), graphs.SUMMING)
    with Worker(version_of(tmp_path, "sum")) as worker:
        assert worker.run([[np.float32([1, 2])]], [7])[0].outputs["y"].tolist() == [1, 2]
        worker.warm()
        assert worker.run([[np.float32([1, 2])]], [7])[0].outputs["y"].tolist() == [2, 4]


@pytest.mark.parametrize(
    ("used", "expected"), [((CPU,), 0), ((CUDA, CPU), WARM_AFTER_NS), ((TENSORRT, CUDA), WARM_AFTER_NS)]
)
def test_lanes_of_gpus_are_warmed_again(used: tuple[str, ...], expected: int) -> None:
    assert warm_after_ns(used) == expected
