"""What the driver reports of a GPU, and what it answers, takes the lanes on that GPU down, and nothing else does."""

import threading

import pytest

from duly.nvml.health import ASK_SECONDS, EVENTS_MAX, LOOK_MS, REST_NS, HealthWatch
from duly.nvml.library import Library
from duly.nvml.recovery import PAUSE_NS_MIN
from duly.nvml.xids import DEVICE
from tests.nvml import stand_in as nvml
from tests.runtime.fake_lane import Clock

A, B = (f"00000000-0000-0000-0000-{number:012}" for number in (1, 2))


class Watched:
    """Two lanes on GPUs that NVML counts the other way round, looked after without a thread."""

    def __init__(self, library: Library, clock: Clock) -> None:
        self.one, self.two = nvml.Gpu(A), nvml.Gpu(B)
        nvml.fresh(self.two, self.one)
        self.clock = clock
        self.changes = 0
        self.devices = {"cuda:0": A, "cuda:1": B}
        self.watch = HealthWatch(lambda: self.devices, library, self.changed, clock)

    def changed(self) -> None:
        self.changes += 1

    def look(self, after_ns: int = 0) -> dict[str, str]:
        self.clock.now_ns += after_ns
        self.watch.look(0)
        return dict(self.watch.down)


@pytest.fixture
def watched(library: Library, clock: Clock) -> Watched:
    made = Watched(library, clock)
    assert made.look() == {}
    return made


def test_an_xid_of_the_device_takes_its_lane_down_and_it_comes_back(watched: Watched) -> None:
    watched.one.xid(79)
    assert watched.look() == {"cuda:0": "Xid 79: GPU has fallen off the bus"}
    assert watched.look(PAUSE_NS_MIN - 1) == {"cuda:0": "Xid 79: GPU has fallen off the bus"}
    assert watched.look(1) == {}
    assert watched.changes == 2
    assert watched.watch.xids == {("cuda:0", "device"): 1}
    assert list(watched.watch.notes) == ["cuda:0: Xid 79: GPU has fallen off the bus"]


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 63, 92, 94, 154, 4711])
def test_an_error_of_a_program_takes_no_lane_down(watched: Watched, xid: int) -> None:
    watched.one.xid(xid)
    assert watched.look() == {}
    assert watched.watch.xids == {("cuda:0", "other"): 1}
    (note,) = watched.watch.notes
    assert f"cuda:0: Xid {xid}" in note


@pytest.mark.parametrize("xid", [48, 62, 64, 74, 79, 95, 119, 120])
def test_an_error_of_the_device_does(watched: Watched, xid: int) -> None:
    watched.two.xid(xid)
    assert watched.look() == {"cuda:1": f"Xid {xid}: {DEVICE[xid]}"}


def test_an_ecc_error_of_two_bits_does(watched: Watched) -> None:
    watched.two.double_bit()
    assert watched.look() == {"cuda:1": "ECC error of two bits"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (nvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost"),
        (nvml.NVML_ERROR_RESET_REQUIRED, "GPU requires restart"),
        (nvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
    ],
)
def test_a_gpu_that_does_not_answer_is_down_until_it_does_and_nvml_is_begun_with_anew(
    watched: Watched, error: int, words: str
) -> None:
    watched.one.error = error
    assert watched.look() == {"cuda:0": words}
    assert set(watched.watch.figures) == {"cuda:1"}
    before = watched.watch._library.begun_times
    assert watched.look(REST_NS) == {"cuda:0": words}
    watched.one.error = 0
    assert watched.look(REST_NS) == {"cuda:0": words}
    assert watched.watch._library.begun_times == before + 2
    assert watched.look(PAUSE_NS_MIN) == {}
    watched.one.xid(79)
    assert watched.look() == {"cuda:0": "Xid 79: GPU has fallen off the bus"}, "its reports are heard again"


def test_the_xid_with_which_a_gpu_went_is_told_though_it_does_not_say_which_it_is(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(handle: object) -> int:
        raise nvml.NVMLError(nvml.NVML_ERROR_GPU_IS_LOST)

    watched.one.xid(79)
    watched.one.error = nvml.NVML_ERROR_GPU_IS_LOST
    monkeypatch.setattr(nvml, "nvmlDeviceGetIndex", lost)
    assert watched.look() == {"cuda:0": "Xid 79: GPU has fallen off the bus"}


def test_a_gpu_that_vanishes_is_down(watched: Watched) -> None:
    nvml.GPUS.remove(watched.one)
    watched.watch._gpus.clear()
    assert watched.look() == {"cuda:0": "GPU is not there any more"}


def test_while_no_gpu_works_nobody_holds_them_so_that_they_can_be_reset(watched: Watched, library: Library) -> None:
    watched.one.recovery = watched.two.recovery = 1
    assert watched.watch.look(0) == REST_NS / 1e9
    assert watched.watch.down == dict.fromkeys(("cuda:0", "cuda:1"), "the driver asks for a reset of the GPU")
    assert (nvml.STATE["begun"], nvml.STATE["sets"]) == (0, [])
    assert library.begun() is None, "who counts energy lets go of them, too"
    watched.one.recovery = watched.two.recovery = 0
    watched.look(REST_NS)
    assert watched.look(PAUSE_NS_MIN) == {}
    assert nvml.STATE["begun"] == 1


def test_what_needs_no_reset_now_takes_no_lane_down(watched: Watched) -> None:
    watched.one.recovery = 4
    watched.two.rows = (0, 1, 1, 0)
    assert watched.look() == {}
    assert list(watched.watch.notes) == ["cuda:1: rows of its memory are remapped with the next reset of the GPU"]
    watched.look()
    assert len(watched.watch.notes) == 1, "it is noted once"


def test_errors_of_memory_are_faults_where_the_driver_has_no_recovery_action(watched: Watched) -> None:
    watched.one.ecc = 1
    assert watched.look() == {}, "the driver asks for nothing, so that they were contained"
    watched.one.recovery = None
    watched.look()
    watched.one.ecc = 3
    assert watched.look() == {"cuda:0": "2 ECC errors that could not be corrected"}


def test_a_row_that_cannot_be_remapped_is_a_fault_unless_it_was_so_before(watched: Watched, library: Library) -> None:
    watched.one.rows = (0, 1, 0, 1)
    assert watched.look() == {"cuda:0": "a row of its memory could not be remapped"}
    late = HealthWatch(lambda: watched.devices, library, watched.changed, watched.clock)
    late.look(0)
    assert late.down == {}


def test_a_gpu_that_tells_little_is_looked_after_all_the_same(watched: Watched) -> None:
    old = watched.one
    old.ecc = old.rows = old.pages_pending = old.recovery = None
    assert watched.look() == {}
    old.pages_pending = 1
    watched.look()
    assert list(watched.watch.notes) == ["cuda:0: pages of its memory are retired with the next reset of the GPU"]


def test_a_gpu_without_memory_of_its_own_is_looked_after(watched: Watched, library: Library) -> None:
    watched.one.used_bytes = None
    assert watched.look() == {}
    assert (library.why_not, watched.watch.figures["cuda:0"].used_bytes) == ("", None)
    watched.one.error = nvml.NVML_ERROR_GPU_IS_LOST
    assert watched.look() == {"cuda:0": "GPU is lost"}
    watched.one.error, watched.one.clocks_mhz = 0, None
    watched.look(REST_NS)
    assert watched.look(PAUSE_NS_MIN) == {}, "one that tells of no clocks either works, too"


def test_a_gpu_that_does_not_report_is_asked(library: Library, clock: Clock) -> None:
    watched = Watched(library, clock)
    watched.one.events = watched.two.events = 0
    watched.look()
    assert watched.watch.look(LOOK_MS * 1000) >= 0, "it does not wait for what never comes"
    watched.one.error = nvml.NVML_ERROR_GPU_IS_LOST
    assert watched.look() == {"cuda:0": "GPU is lost"}


def test_a_part_hears_of_itself_and_of_the_whole(library: Library, clock: Clock) -> None:
    whole = nvml.Gpu("00000000-0000-0000-0000-000000000009")
    nvml.fresh(whole)
    nvml.PARTS[:] = [
        nvml.Gpu(A, parent=whole, instances=(1, 0), used_bytes=5),
        nvml.Gpu(B, parent=whole, instances=(2, 0)),
    ]
    watch = HealthWatch(lambda: {"cuda:0": A, "cuda:1": B}, library, lambda: None, clock)
    watch.look(0)
    assert (watch.figures["cuda:0"].gpu, watch.figures["cuda:0"].used_bytes) == ("gpu-0", 5)
    whole.xid(95, instances=(2, 0))
    watch.look(0)
    assert watch.down == {"cuda:1": "Xid 95: uncontained memory error"}
    whole.xid(79)
    watch.look(0)
    assert set(watch.down) == {"cuda:0", "cuda:1"}


def test_where_nvml_itself_fails_no_lane_goes_down(watched: Watched, library: Library) -> None:
    nvml.STATE["begun"] = 0
    assert watched.look() == {}
    assert library.why_not == "NVML: Uninitialized"
    assert watched.look() == {}


def test_without_a_driver_and_without_gpus_it_looks_seldom(driver: object, library: Library, clock: Clock) -> None:
    asked = 0

    def none() -> dict[str, str]:
        nonlocal asked
        asked += 1
        return {}

    watch = HealthWatch(none, library, lambda: None, clock)
    assert watch.look(0) == ASK_SECONDS
    assert watch.look(0) == ASK_SECONDS
    assert asked == 2


def test_so_many_reports_are_taken_in_one_look(watched: Watched) -> None:
    for _ in range(EVENTS_MAX + 1):
        watched.one.xid(13)
    watched.look()
    assert watched.watch.xids == {("cuda:0", "other"): EVENTS_MAX}
    watched.look()
    assert watched.watch.xids == {("cuda:0", "other"): EVENTS_MAX + 1}


def test_how_a_gpu_does(watched: Watched) -> None:
    watched.one.reasons = 0x4 | 0x40
    watched.look()
    figures = watched.watch.figures["cuda:0"]
    assert figures.gpu == "gpu-1", "by nvidia-smi's number, not by CUDA's"
    assert (figures.used_bytes, figures.total_bytes) == (3 << 30, 80 << 30)
    assert (figures.sm_hertz, figures.memory_hertz, figures.celsius) == (1_410_000_000, 1_593_000_000, 45)
    assert figures.held_down_by == {"power_cap", "hardware_thermal"}


def test_what_is_reported_is_heard_at_once_in_the_thread(library: Library) -> None:
    gpu, heard = nvml.Gpu(A), threading.Event()
    nvml.fresh(gpu)
    watch = HealthWatch(lambda: {"cuda:0": A}, library, heard.set)
    watch.start()
    try:
        while not (nvml.STATE["sets"] and nvml.STATE["sets"][0].registered):
            pass
        gpu.xid(79)
        assert heard.wait(60)
        assert watch.down == {"cuda:0": "Xid 79: GPU has fallen off the bus"}
    finally:
        watch.stop()


def test_what_nobody_expects_is_noted_and_tried_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.fresh(nvml.Gpu(A))
    noted = threading.Event()
    monkeypatch.setattr("duly.nvml.health.ASK_SECONDS", 0.0)
    asked: list[int] = []

    def devices() -> dict[str, str]:
        asked.append(1)
        if len(asked) == 1:
            raise AttributeError("nvmlOfTomorrow")
        return {"cuda:0": A}

    watch = HealthWatch(devices, library, noted.set)
    watch.start()
    try:
        assert noted.wait(60)
        while "cuda:0" not in watch.figures:
            pass
        assert list(watch.notes) == ["lanes are not looked after for a while: AttributeError: nvmlOfTomorrow"]
    finally:
        watch.stop()
