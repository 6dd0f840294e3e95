"""Inputs that a graph takes from the host's memory though it runs on a device, and those that lie in the host's memory
though the graph takes them from the device's: every frame's answer is of its own inputs.

The device is the processor, whose memory is held apart from the host's as ONNX Runtime does for a GPU.
"""

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from duly import accelerators
from duly.accelerators import CPU
from duly.worker import open_session
from duly.worker.channel import OK
from duly.worker.dtypes import as_numbers
from duly.worker.providers import on_host
from tests import graphs
from tests.worker.client import Worker, version_of
from tests.worker.loading import reason_of
from tests.worker.made_up_gpu import library, part_memories, with_memory
from tests.worker.test_bfloat16 import halves

pytestmark = pytest.mark.holds_on("cpu", why="the CPU stands for the device here")

NAMES = ("x", "low", "high")
PLACES = pytest.mark.parametrize(
    "host",
    [",".join(some) for count in range(4) for some in itertools.combinations(NAMES, count)],
    ids=lambda names: names or "none",
)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library that stands for CUDA's."""
    monkeypatch.setenv("MADE_UP_CUDART", str(library(tmp_path)))


def worker(root: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> Worker:
    monkeypatch.setenv("MADE_UP_ON_HOST", host)
    return Worker(version_of(root, "m"), module="tests.worker.made_up_gpu")


def clipping() -> onnx.ModelProto:
    """Clip, whose kernel for CUDA takes the bounds from the host's memory."""
    inputs = [graphs.value("x", [4]), graphs.value("low", []), graphs.value("high", [])]
    return graphs.model([helper.make_node("Clip", list(NAMES), ["y"])], inputs, [graphs.value("y", [4])])


@PLACES
def test_inputs_follow_their_frames_in_whatever_memory_the_graph_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    graphs.save(tmp_path, "m", clipping(), "batched = false\n")
    x = np.float32([1, 2, 3, 4])
    with worker(tmp_path, monkeypatch, host) as running:
        for turn, (low, high) in enumerate([(0, 9), (2, 3), (1, 2), (3, 4), (0, 1)]):
            frame = [x + turn, np.float32(low + turn).reshape(()), np.float32(high + turn).reshape(())]
            (outcome,) = running.run([frame], slot=turn % 2)
            assert outcome.status == OK, outcome.reason
            assert outcome.outputs["y"].tolist() == (np.clip(x, low, high) + turn).tolist()


@pytest.mark.parametrize("host", ["", "low", "low,high"], ids=lambda names: names or "none")
def test_constants_are_what_model_toml_says_in_whatever_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    graphs.save(tmp_path, "m", clipping(), "batched = false\nconstants = { low = 2, high = 3 }\n")
    with worker(tmp_path, monkeypatch, host) as running:
        for turn in range(4):
            (outcome,) = running.run([[np.float32([1, 2, 3, 4 + turn])]], slot=turn % 2)
            assert outcome.outputs["y"].tolist() == [2, 2, 3, 3]


@pytest.mark.parametrize("host", ["", "total", "x", "x,total"], ids=lambda names: names or "none")
def test_states_follow_their_streams_in_whatever_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    graphs.save(tmp_path, "m", graphs.summing(), 'state = [{ output = "total_next", input = "total" }]\n')
    with worker(tmp_path, monkeypatch, host) as running:
        for turn in range(1, 5):
            outcomes = running.run([[np.float32([1, 2])], [np.float32([0, 1])]], streams=[7, 8], slot=turn % 2)
            assert [each.outputs["y"].tolist() for each in outcomes] == [[turn, 2 * turn], [0, turn]]


@pytest.mark.parametrize("dims", [("N", 4), ("N", "K")], ids=["bound", "of any size"])
def test_bf16_follows_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dims: graphs.Dims) -> None:
    graphs.save(tmp_path, "m", graphs.doubling_halves(dims))
    with worker(tmp_path, monkeypatch, "") as running:
        for turn in range(4):
            (outcome,) = running.run([[halves(1, 2, 3, turn)]], slot=turn % 2)
            assert as_numbers(outcome.outputs["y"]).tolist() == [2, 4, 6, 2 * turn]


@pytest.mark.parametrize("host", ["", "s", "x,s"], ids=lambda names: names or "none")
def test_states_of_bf16_follow_their_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    graphs.save(tmp_path, "m", graphs.sum_in_halves(), toml='state = [{ output = "s_next", input = "s" }]\n')
    with worker(tmp_path, monkeypatch, host) as running:
        for total in range(1, 5):
            outcomes = running.run([[np.float32([1, 2])], [np.float32([0, 1])]], streams=[7, 8], slot=total % 2)
            assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [[total, 2 * total], [0, total]]


def test_what_a_graph_takes_from_the_host_is_not_copied_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_UP_LOG", str(tmp_path / "log"))
    graphs.save(tmp_path, "m", clipping(), "batched = false\n")
    with worker(tmp_path, monkeypatch, "low,high") as running:
        (tmp_path / "log").write_text("")
        one = np.float32(1).reshape(())
        running.run([[np.float32([1, 2, 3, 4]), one, one]])
        assert (tmp_path / "log").read_text() == "copy 16\n"


def test_memories_of_the_host_by_name() -> None:
    named = {"x": "Cuda", "k": "Cpu", "pinned": "CudaPinned", "gpu": "WebGPU_Buf"}
    assert on_host(named) == {"k", "pinned"}


# ---- captured graphs ----


@pytest.fixture
def with_graphs(runtime: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is taken for the provider whose graphs can be captured; it captures nothing."""
    monkeypatch.setattr(accelerators, "ACCELERATORS", with_memory(accelerators.ACCELERATORS))
    monkeypatch.setattr(open_session, "CUDA", CPU)
    monkeypatch.setattr(open_session.onnxruntime, "preload_dlls", lambda: None)


def test_a_captured_graph_would_freeze_what_it_takes_from_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_graphs: None
) -> None:
    part_memories(("low", "high"), monkeypatch.setattr)
    graphs.save(tmp_path, "m", clipping(), "batched = false\ncuda_graph = true\n")
    assert reason_of(tmp_path, "m") == (
        "m/1/model.onnx: cuda_graph: the graph takes 'high', 'low' from the host's memory, and a captured graph would "
        "keep what lay there first; give it in [constants], or leave cuda_graph out"
    )
    half = graphs.save(tmp_path / "half", "m", clipping(), "batched = false\ncuda_graph = true\nconstants.low = 1\n")
    assert "the graph takes 'high' from the host's memory" in reason_of(half, "m")
