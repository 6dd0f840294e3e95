"""What measures copies beside runs does copy and does run: on a library that is made up as CUDA's runtime, and by a
worker for which the processor is a device with memory of its own.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from duly import accelerators
from duly.runtime import worker_process
from duly.worker import cuda_runtime
from tests.gpu.lane import lane_of
from tests.gpu.models import Measured, bare_session, write_model
from tests.gpu.requirements import CHECKOUT
from tests.gpu.stage_overlap import HostCopies, copies_of
from tests.worker.made_up_gpu import library, with_memory

SIZE = 4


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the library notes what it is asked for."""
    made = library(tmp_path)
    monkeypatch.setenv("MADE_UP_CUDART", str(made))
    monkeypatch.setenv("MADE_UP_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(cuda_runtime, "_LIBRARIES", (str(made),))
    cuda_runtime.library.cache_clear()
    yield tmp_path / "log"
    cuda_runtime.library.cache_clear()


@pytest.mark.parametrize("pinned", [True, False])
def test_of_a_gpu_its_own_copies_are_measured(log: Path, pinned: bool) -> None:
    sources = [np.arange(12, dtype=np.float32), np.zeros(4, np.float32)]
    target = np.zeros_like(sources[0])
    copies = copies_of("cuda:0", sources, pinned)
    copies.copy(target.ctypes.data, sources[0].ctypes.data, target.nbytes)
    copies.wait()
    np.testing.assert_array_equal(target, sources[0])
    assert log.read_text().split("\n")[:-1] == ["pin 48", "pin 16"] * pinned + ["copy 48"]


def test_without_a_runtime_of_cuda_there_is_an_error_and_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_runtime, "_LIBRARIES", ("libnone.so",))
    cuda_runtime.library.cache_clear()
    with pytest.raises(RuntimeError, match="no runtime of CUDA"):
        copies_of("cuda:0", [], pinned=False)
    with pytest.raises(RuntimeError, match="does not pin"):
        copies_of("cuda:0", [np.zeros(1, np.float32)], pinned=True)
    cuda_runtime.library.cache_clear()


def test_a_rehearsals_copies_are_done_once_they_were_waited_for() -> None:
    source, target = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    copies = HostCopies()
    for part in (0, 500):
        copies.copy(target[part:].ctypes.data, source[part:].ctypes.data, 2000)
    copies.wait()
    np.testing.assert_array_equal(target, source)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("has_memory", [True, False])
async def test_a_worker_gives_the_same_answers_either_way(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_memory: bool, beside: bool
) -> None:
    if has_memory:

        def made_up(descriptor: int) -> list[str]:
            return [sys.executable, "-m", "tests.worker.made_up_gpu", str(descriptor), str(os.getpid())]

        monkeypatch.setattr(accelerators, "ACCELERATORS", with_memory(accelerators.ACCELERATORS))
        monkeypatch.setattr(worker_process, "worker_command", made_up)
        monkeypatch.chdir(CHECKOUT)  # from where it is imported
    measured = Measured("mlp")
    graph = write_model(tmp_path / "models", measured, "", (SIZE,), rehearsal=True)
    frames = measured.frames(SIZE)
    session = bare_session(graph, "cpu:0")
    (expected,) = session.run(None, {session.get_inputs()[0].name: frames})
    async with lane_of(tmp_path / "models", measured.name, "cpu:0") as lane:
        log.write_text("")
        await lane.batches([lane.payload(frame) for frame in frames], 5, beside)
        assert lane.stages == has_memory
        given = np.stack([lane.output(index) for index in range(SIZE)])
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    copies = [line for line in log.read_text().splitlines() if line.startswith("copy")]
    assert len(copies) >= 5 if has_memory else not copies
