"""nvidia-ml-py itself, on a library that stands in for the driver's: whether what is asked is asked rightly."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from duly.energy.nvml import Nvml
from duly.energy.totals import Reading
from duly.nvml import condition
from duly.nvml.figures import REASONS, figures
from duly.nvml.gpus import find_gpu, whole_gpu
from duly.nvml.health import REST_NS, HealthWatch
from duly.nvml.library import Library
from duly.nvml.recovery import PAUSE_NS_MIN
from tests.nvml import stand_in
from tests.runtime.fake_lane import Clock

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
UUID, OTHER = (f"00000000-0000-0000-0000-{number:012}" for number in (1, 2))

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
    pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver, whose library this would be"),
]


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library, under the name by which nvidia-ml-py finds it loaded already."""
    library = tmp_path_factory.mktemp("nvml") / "libmade_up.so"
    source = Path(__file__).parent / "made_up.c"
    command = ["cc", "-shared", "-fPIC", "-o", library, source, "-Wl,-soname,libnvidia-ml.so.1", "-pthread"]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    loaded.made_xid.argtypes = [ctypes.c_ulonglong]
    return loaded


@pytest.fixture
def real(gpu: ctypes.CDLL, driver: Path, clock: Clock) -> Iterator[Library]:
    library = Library("pynvml", driver, clock)
    assert library.begun() is pynvml, library.why_not
    yield library
    gpu.made_lost(0)
    gpu.made_action(0)
    gpu.made_count(1)
    gpu.made_shared_memory(0)
    library.give_up("the test is over")


def test_a_gpu_is_found_and_asked(real: Library) -> None:
    found = find_gpu(pynvml, UUID)
    assert (found.name, found.gpu_instance) == ("gpu-0", 0xFFFFFFFF)
    assert found.concerns(0xFFFFFFFF, 0xFFFFFFFF)
    assert figures(pynvml, found) == (
        "gpu-0", 3, 80, 1_410_000_000, 1_593_000_000, 45, {"power_cap", "software_thermal"},
    )  # fmt: skip
    assert condition.of(pynvml, found) == condition.Condition(
        "", 0, 7, False, "rows of its memory are remapped with the next reset of the GPU"
    )
    assert whole_gpu(pynvml, 0).name == "gpu-0"
    assert Nvml(real).read() == ([Reading("gpu-0", 1_500_000)], [])


def test_what_the_driver_reports_takes_the_lane_down(real: Library, gpu: ctypes.CDLL, clock: Clock) -> None:
    watch = HealthWatch(lambda: {"cuda:0": UUID}, real, lambda: None, clock)
    watch.look(0)
    assert gpu.made_registered() == pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeDoubleBitEccError
    gpu.made_xid(79)
    watch.look(1000)
    assert watch.down == {"cuda:0": "Xid 79: GPU has fallen off the bus"}
    gpu.made_lost(pynvml.NVML_ERROR_GPU_IS_LOST)
    watch.look(0)
    assert gpu.made_registered() == 0, "it is let go of, so that it can be reset"
    gpu.made_lost(0)
    gpu.made_action(pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET)
    clock.now_ns += REST_NS
    watch.look(0)
    assert watch.down == {"cuda:0": "Xid 79: GPU has fallen off the bus"}
    gpu.made_action(pynvml.NVML_GPU_RECOVERY_ACTION_NONE)
    clock.now_ns += REST_NS
    watch.look(0)
    clock.now_ns += PAUSE_NS_MIN
    watch.look(0)
    assert watch.down == {}


def test_a_gpu_is_found_while_another_is_lost(real: Library, gpu: ctypes.CDLL, clock: Clock) -> None:
    gpu.made_count(2)
    gpu.made_lost(pynvml.NVML_ERROR_GPU_IS_LOST)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{OTHER}")
    assert find_gpu(pynvml, OTHER).name == "gpu-1"
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        find_gpu(pynvml, UUID)
    watch = HealthWatch(lambda: {"cuda:0": UUID, "cuda:1": OTHER}, real, lambda: None, clock)
    for _ in range(3):  # NVML is begun with anew meanwhile
        watch.look(0)
        assert set(watch.down) == {"cuda:0"}
        clock.now_ns += REST_NS
    assert real.begun_times == 3


def test_a_gpu_that_shares_the_memory_of_the_machine_is_looked_after(
    real: Library, gpu: ctypes.CDLL, clock: Clock
) -> None:
    gpu.made_shared_memory(1)
    watch = HealthWatch(lambda: {"cuda:0": UUID}, real, lambda: None, clock)
    watch.look(0)
    assert (watch.down, real.why_not) == ({}, "")
    assert (watch.figures["cuda:0"].used_bytes, watch.figures["cuda:0"].celsius) == (None, 45)
    gpu.made_lost(pynvml.NVML_ERROR_GPU_IS_LOST)
    watch.look(0)
    assert set(watch.down) == {"cuda:0"}


def test_the_stand_in_of_the_other_tests_has_the_same_names_numbers_and_texts() -> None:
    own = [name for name in vars(stand_in) if name.startswith(("NVML", "nvml"))]
    assert not [name for name in own if not hasattr(pynvml, name)]
    for name in own:
        value = getattr(stand_in, name)
        if isinstance(value, int):
            assert getattr(pynvml, name) == value, name
    for number, text in stand_in._TEXTS.items():
        error, real = stand_in.NVMLError(number), pynvml.NVMLError(number)
        assert (str(error), text) == (str(real), text)
        assert type(error).__name__ in ("NVMLError", type(real).__name__)
    for bit, name in enumerate(REASONS):
        assert getattr(pynvml, f"nvmlClocksEventReason{name}") == 1 << bit
