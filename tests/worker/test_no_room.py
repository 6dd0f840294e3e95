"""A real worker whose memory does not do for a batch: it finds out which size still runs, and whose fault it was.

The memory is bounded by RLIMIT_DATA. Frames are so large that no allocator keeps what a batch took (malloc gives
back what has 32 MiB or more).
"""

import resource
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper

from duly.worker import channel
from duly.worker.channel import OK, Done
from duly.worker.errors import DeviceFull, DeviceLost, RunError
from duly.worker.no_room import size_that_runs
from tests import graphs
from tests.worker.client import Encoded, Worker, version_of

FRAME_BYTES = 17 << 20
LONG_BYTES = 40 << 20
SIDE = 3500


def wide() -> graphs.onnx.ModelProto:
    """y = max(x) + sum(more), where `more` may have any length, so that batches are put together in fresh memory."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Cast", ["most"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["more", "last"], ["s"], keepdims=1),
        helper.make_node("Add", ["m", "s"], ["y"]),
    ]
    inputs = [graphs.value("x", ["N", FRAME_BYTES], graphs.UINT8), graphs.value("more", ["N", "K"])]
    return graphs.model(nodes, inputs, [graphs.value("y", ["N", 1])], {"last": np.int64([1])}, opset=13)


TOML = f"""
batch_sizes = [1, 2, 4]
[[input]]
name = "x"
[[input]]
name = "more"
bytes_max = {LONG_BYTES}
"""


def frame(extent: int = 2) -> list[np.ndarray]:
    return [np.full(FRAME_BYTES, 7, np.uint8), np.ones(extent, np.float32)]


def failure(worker: Worker, frames: list[list[np.ndarray]]) -> dict[str, object]:
    """Runs a batch that fails. Returns what the worker says."""
    worker.send_run(frames)
    message = worker.socket.recv(channel.MESSAGE_BYTES_MAX)
    assert channel.kind_of(message) == channel.FAILED
    return channel.decode_text(message)[1]


def leave(worker: Worker, more_bytes: int) -> None:
    """Leaves the worker only so much memory beyond what it has."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
    data_bytes = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
    _, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_DATA)
    resource.prlimit(worker.process.pid, resource.RLIMIT_DATA, (data_bytes + more_bytes, hard))


@pytest.mark.holds_on("cpu", why="how much of a worker's memory a batch takes is measured for the CPU's provider")
def test_the_size_that_still_runs_is_found(tmp_path: Path) -> None:
    with Worker(version_of(graphs.save(tmp_path, "wide", wide(), TOML), "wide")) as worker:
        leave(worker, 2 * FRAME_BYTES + (2 << 20))  # of four, at most one more finds room in what was freed before
        said = failure(worker, [frame()] * 4)
        assert said == {"reason": "the worker may not have the memory that this batch takes", "size_max": 2}
        for size in (2, 1):
            assert [outcome.outputs["y"] for outcome in worker.run([frame()] * size)] == [9] * size


def test_a_frame_that_takes_too_much_says_nothing_of_others(tmp_path: Path) -> None:
    """Made-up frames run at its batch's size, so that nobody else has to do with smaller batches."""
    with Worker(version_of(graphs.save(tmp_path, "wide", wide(), TOML), "wide")) as worker:
        leave(worker, LONG_BYTES + 2 * FRAME_BYTES)
        long = frame(LONG_BYTES // 4)
        assert "size_max" not in failure(worker, [long, long])
        assert [outcome.outputs["y"] for outcome in worker.run([frame()] * 2)] == [9, 9]


def brightest() -> graphs.onnx.ModelProto:
    """y = the largest element of x, a picture."""
    nodes = [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)]
    return graphs.model(
        nodes,
        [graphs.value("x", ["N", SIDE, SIDE, 3], graphs.UINT8)],
        [graphs.value("y", ["N"], graphs.UINT8)],
        opset=13,
    )


@pytest.mark.holds_on("cpu", why="how much of a worker's memory a batch takes is measured for the CPU's provider")
@pytest.mark.parametrize(
    ("side", "steps"),
    [(SIDE, ""), (8, f"preprocess = [{{ op = 'resize', width = {SIDE}, height = {SIDE}, mode = 'letterbox' }}]")],
)
def test_a_picture_for_which_there_is_no_memory_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, steps: str
) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(1 << 20))  # nothing of a picture is kept for the next one
    toml = f'batch_sizes = [1]\n[[input]]\nname = "x"\nencodings = ["PNG"]\n{steps}'
    png = Encoded("PNG", cv2.imencode(".png", np.full((side, side, 3), 9, np.uint8))[1].tobytes())
    with Worker(version_of(graphs.save(tmp_path, "brightest", brightest(), toml), "brightest")) as worker:
        leave(worker, SIDE * SIDE)
        said = failure(worker, [[png]])
        assert said == {"reason": "the worker may not have the memory that this batch takes", "size_max": 0}
        leave(worker, 4 * SIDE * SIDE * 3)
        assert [outcome.outputs["y"] for outcome in worker.run([[png]])] == [9]


class Scripted:
    """A model that has memory for batches up to a size, and what it was asked to run."""

    batch_sizes = (1, 2, 4, 8)

    def __init__(self, size_max: int, error: RunError | MemoryError | None = None) -> None:
        self._size_max = size_max
        self._error = error or DeviceFull("out of memory")
        self.ran: list[int] = []

    def size_of(self, count: int) -> int:
        return next(size for size in self.batch_sizes if size >= count)

    def run(self, model: object, slot: int, count: int) -> Done:
        self.ran.append(count)
        if count > self._size_max:
            raise self._error
        return Done(0, slot, 0, 0, [(OK, [])] * count, {})


@pytest.mark.parametrize(
    ("memory_for", "failed", "found", "ran"),
    [
        (8, 8, None, [8]),
        (7, 8, 4, [8, 4]),
        (1, 8, 1, [8, 4, 2, 1]),
        (0, 8, 0, [8, 4, 2, 1]),
        (2, 3, 2, [3, 2]),  # 3 frames run as 4 rows
        (0, 1, 0, [1]),
    ],
)
def test_sizes_are_tried_from_the_largest_on(memory_for: int, failed: int, found: int | None, ran: list[int]) -> None:
    scripted = Scripted(memory_for)
    assert size_that_runs(scripted, scripted, 0, failed) == found  # type: ignore[arg-type]
    assert scripted.ran == ran


def test_other_errors_are_no_want_of_memory_and_a_lost_device_is_told() -> None:
    scripted = Scripted(1, RunError("it is not finite"))
    assert size_that_runs(scripted, scripted, 0, 8) is None  # type: ignore[arg-type]
    lost = Scripted(1, DeviceLost("the device is lost"))
    with pytest.raises(DeviceLost):
        size_that_runs(lost, lost, 0, 8)  # type: ignore[arg-type]
