"""Inputs that are copied to a device beside the run before: right rows whatever was told of when, and each only once
where it can be. The device is the processor, and CUDA's runtime a library that is compiled here.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from duly.worker import channel, cuda_runtime
from duly.worker.batch_axes import Placed
from duly.worker.binding import Binding, Device
from duly.worker.channel import INVALID, OK
from duly.worker.cuda_runtime import CopyStream, copy_stream
from duly.worker.errors import DeviceLost
from duly.worker.input_copies import InputCopies, stretches
from tests import graphs
from tests.worker.client import Outcome, Worker, version_of
from tests.worker.made_up_gpu import library

pytestmark = pytest.mark.holds_on("cpu", why="the CPU stands for the device here")

ROW_BYTES = 16
EARLY = pytest.mark.parametrize("early", [False, True], ids=["copied late", "copied early"])
"""CUDA may copy at any moment until it is waited for."""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the library notes its copies."""
    monkeypatch.setenv("MADE_UP_CUDART", str(library(tmp_path)))
    monkeypatch.setenv("MADE_UP_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("MADE_UP_LOST", str(tmp_path / "lost"))
    return tmp_path / "log"


@pytest.fixture
def stream(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CopyStream]:
    monkeypatch.setattr(cuda_runtime, "_LIBRARIES", (str(tmp_path / "libcudart.so"),))
    cuda_runtime.library.cache_clear()
    made = copy_stream(0)
    assert made is not None
    yield made
    cuda_runtime.library.cache_clear()


def copied(log: Path) -> list[int]:
    """The rows of each copy since the last call."""
    lines = log.read_text().splitlines() if log.exists() else []
    log.write_text("")
    return [int(line.split()[1]) // ROW_BYTES for line in lines if line.startswith("copy")]


def test_stretches() -> None:
    assert list(stretches([])) == []
    assert list(stretches([3])) == [(3, 4)]
    assert list(stretches([0, 1, 2, 4, 6, 7])) == [(0, 3), (4, 5), (6, 8)]


class Rows:
    """Rows of two slots on the host and on a device of made-up memory."""

    def __init__(self, stream: CopyStream, rows: int = 4) -> None:
        self.host = [np.zeros((rows, 4), np.float32) for _ in range(2)]
        self.device: list[np.ndarray] = []
        self.copies = InputCopies([{0: host} for host in self.host], self._allocate, stream)

    def _allocate(self, like: np.ndarray) -> int:
        self.device.append(np.full_like(like, -1))
        address: int = self.device[-1].ctypes.data
        return address


@EARLY
def test_rows_that_were_told_of_are_copied_once(
    stream: CopyStream, log: Path, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    if early:
        monkeypatch.setenv("MADE_UP_EARLY", "1")
    rows = Rows(stream)
    assert not np.any(rows.device), "rows that pad a batch are zeros before anything else lies there"
    copied(log)
    rows.host[1][:] = [[1], [2], [3], [4]]
    rows.copies.stage(1, 1, [0, 1])
    assert copied(log) == [2]
    rows.copies.bring(1, 3, {0, 1}, 1)
    assert copied(log) == [1]
    np.testing.assert_array_equal(rows.device[1][:, 0], [1, 2, 3, 0])
    assert not np.any(rows.device[0])


@EARLY
def test_nothing_is_taken_for_copied_that_nobody_has_come_to(
    stream: CopyStream, log: Path, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    if early:
        monkeypatch.setenv("MADE_UP_EARLY", "1")
    rows = Rows(stream)
    rows.host[0][:2] = [[1], [2]]
    rows.copies.stage(1, 0, [0, 1])
    rows.host[0][1] = 7  # told of as number 2, to which nobody comes before the run
    copied(log)
    rows.copies.bring(0, 2, {0, 1}, 2)
    assert copied(log) == [2]
    np.testing.assert_array_equal(rows.device[0][:, 0], [1, 7, 0, 0])
    rows.host[0][:] = 9
    rows.copies.stage(2, 0, [0, 1])  # too late: the slot may be the server's again
    assert copied(log) == []
    np.testing.assert_array_equal(rows.device[0][:, 0], [1, 7, 0, 0])


def test_a_lost_device_is_told_as_such(stream: CopyStream, tmp_path: Path) -> None:
    rows = Rows(stream)
    (tmp_path / "lost").touch()
    with pytest.raises(DeviceLost, match="CUDA failure 700: cudaErrorIllegalAddress"):
        rows.copies.bring(0, 1, (), 0)


def last_error() -> int:
    """What ONNX Runtime would find after the launch of a kernel."""
    cuda = cuda_runtime.library()
    assert cuda is not None
    error: int = cuda.cudaGetLastError()
    return error


def test_errors_are_not_left_for_onnxruntime_to_find(
    stream: CopyStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = np.zeros(4096, np.uint8)
    assert cuda_runtime.pin([(area.ctypes.data, area.nbytes)], 0)
    assert not cuda_runtime.pin([(area.ctypes.data, area.nbytes)], 7)
    assert last_error() == 0
    monkeypatch.setenv("MADE_UP_UNPINNED", "1")
    assert not cuda_runtime.pin([(area.ctypes.data, area.nbytes)], 0)
    assert last_error() == 0
    (tmp_path / "lost").touch()
    with pytest.raises(DeviceLost):
        stream.wait()
    assert last_error() == 0


def test_each_slot_has_graphs_and_addresses_of_its_own(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling())
    made = onnxruntime.InferenceSession(tmp_path / "m/1/model.onnx", providers=["CPUExecutionProvider"])
    device = Device("cpu", 0, graphs=True)
    room = [np.zeros((3, 4), np.float32) for _ in range(2)]
    ids = set()
    for size in (1, 3):
        for slot in range(2):
            host, outputs = np.zeros((size, 4), np.float32), np.zeros((size, 4), np.float32)
            placed = Placed(slot, {"x": room[slot].ctypes.data})
            binding = Binding(made, size, {"x": host}, {"y": outputs}, device, placed=placed)
            ids.add(binding.graph_id)
            room[slot][:] = 10 * slot + size
            binding.run()
            assert (outputs == 2 * (10 * slot + size)).all(), "it is read where it lies on the device"
    assert len(ids) == 4


# ---- a whole worker ----


@pytest.fixture(params=[False, True], ids=["copied late", "copied early"])
def worker(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Worker]:
    if request.param:
        monkeypatch.setenv("MADE_UP_EARLY", "1")
    graphs.save(
        tmp_path, "double", graphs.doubling(), "batch_sizes = [1, 2, 4]\ninput = [{ name = 'x', finite = true }]"
    )
    with Worker(version_of(tmp_path, "double"), module="tests.worker.made_up_gpu") as made:
        copied(log)
        yield made


def frames(*values: float) -> list[list[np.ndarray]]:
    return [[np.full(4, value, np.float32)] for value in values]


def stage(worker: Worker, number: int, slot: int, values: dict[int, float]) -> None:
    """Puts rows into the slot and tells of them."""
    for row, value in values.items():
        data = np.full(4, value, np.float32).tobytes()
        worker.region.inputs[slot][row * ROW_BYTES : (row + 1) * ROW_BYTES] = data
    worker.ahead.send(channel.encode_stage(number, slot, sorted(values)))


def firsts(outcomes: list[Outcome]) -> list[float]:
    return [float(outcome.outputs["y"][0]) for outcome in outcomes]


def wait_for_copies(log: Path, rows: int) -> None:
    """Returns when that many rows have been copied; what waits for it ends with the test's time limit."""
    while sum(int(line.split()[1]) for line in log.read_text().splitlines()) < rows * ROW_BYTES:
        pass


def test_a_batch_is_copied_beside_the_run_before(worker: Worker, log: Path) -> None:
    worker.send_run(frames(1, 2), slot=0)
    stage(worker, 1, 1, {0: 3, 1: 4})
    assert firsts(worker.receive_done()) == [2, 4]
    wait_for_copies(log, 4)
    assert sorted(copied(log)) == [2, 2]
    worker.send_run(frames(3, 4, 5), slot=1, staged=[0, 1], stage_number=1)
    assert firsts(worker.receive_done()) == [6, 8, 10]
    assert copied(log) == [1]


def test_rows_may_be_changed_after_they_were_told_of(worker: Worker) -> None:
    numbers = iter(range(1, 1000))
    for turn in range(50):
        slot = turn % 2
        stage(worker, next(numbers), slot, {0: -1, 1: -2, 3: -3})
        stage(worker, last := next(numbers), slot, {1: turn, 2: turn + 1})
        worker.send_run(frames(100, turn, turn + 1), slot=slot, staged=[1, 2], stage_number=last)
        assert firsts(worker.receive_done()) == [200, 2 * turn, 2 * turn + 2]


def test_frames_that_are_refused_take_no_other_with_them(worker: Worker, log: Path) -> None:
    stage(worker, 1, 0, {0: np.nan, 1: 4, 2: 5})
    wait_for_copies(log, 3)
    worker.send_run(frames(np.nan, 4, 5), staged=[0, 1, 2], stage_number=1)
    refused, *others = worker.receive_done()
    assert refused.status == INVALID
    assert [other.status for other in others] == [OK, OK]
    assert firsts(others) == [8, 10]


def test_what_was_told_of_and_never_run_is_forgotten(worker: Worker) -> None:
    stage(worker, 1, 1, {0: 7, 1: 8})
    worker.warm(slot=1)
    assert firsts(worker.run(frames(1), slot=1)) == [2]
    worker.ahead.close()  # as of a server that has lost interest
    assert firsts(worker.run(frames(5, 6), slot=0)) == [10, 12]


def test_memory_that_cuda_does_not_pin_is_told_and_the_model_serves(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = version_of(graphs.save(tmp_path, "double", graphs.doubling()), "double")
    with Worker(version, module="tests.worker.made_up_gpu") as pinned:
        assert pinned.ready["notes"] == []
    monkeypatch.setenv("MADE_UP_UNPINNED", "1")
    with Worker(version, module="tests.worker.made_up_gpu") as worker:
        (note,) = worker.ready["notes"]
        assert note.startswith("CUDA does not pin the memory")
        assert firsts(worker.run(frames(3))) == [6]


def test_a_worker_without_such_a_device_hangs_up(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling())
    with Worker(version_of(tmp_path, "double")) as plain:
        with pytest.raises(BrokenPipeError):
            plain.ahead.send(channel.encode_stage(1, 0, [0]))
        assert firsts(plain.run(frames(3))) == [6]
