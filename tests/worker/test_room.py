"""How much room inputs and outputs get in a real worker, what is empty, and that memory is given back."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import helper

from duly import cgroups
from duly.models.spec import TensorSpec
from duly.worker import channel
from duly.worker.channel import FRAME_FAILED, INVALID, OK
from duly.worker.memory import memory_bytes_max
from tests import graphs
from tests.worker.client import Encoded, LoadFailed, Worker, version_of

MIB = 1 << 20


def specs(worker: Worker) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in (*worker.signature.inputs, *worker.signature.outputs)}


# ---- room ----


def test_what_the_limits_leave_is_what_a_frame_may_have(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.copying(["N", "K"]), '[[input]]\nname = "x"\nbytes_max = 5000\n')
    with Worker(version_of(tmp_path, "m"), bytes_in_flight_max=4000) as worker:
        assert specs(worker)["x"].bytes_max == 4000
        (note,) = worker.ready["notes"]
        assert "raise bytes_in_flight_max (--bytes-in-flight-max) to at least 5000" in note
        (outcome,) = worker.run([[np.arange(1000, dtype=np.float32)]])
        assert outcome.outputs["y"].shape == (1000,)
    with Worker(version_of(tmp_path, "m"), bytes_in_flight_max=5000) as worker:
        assert (specs(worker)["x"].bytes_max, worker.ready["notes"]) == (5000, [])


def test_a_fixed_frame_that_does_not_fit_is_not_loaded(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.copying(["N", 1001]))
    with pytest.raises(LoadFailed, match=r"^m/model\.toml: a frame has 4,004 bytes, .* to at least 4004$"):
        Worker(version_of(tmp_path, "m"), payload_bytes_max=4000)


def test_a_frame_beyond_any_memory_is_told_before_one_is_made_up(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.copying(["N", 1 << 42]))
    with pytest.raises(LoadFailed, match=r"^m/model\.toml: a frame has 17,592,186,044,416 bytes, at most 67,108,864 "):
        Worker(version_of(tmp_path, "m"))


def test_a_batch_beyond_the_memory_is_not_loaded(tmp_path: Path) -> None:
    extent = memory_bytes_max() // 4 // 2 // 2 // 100  # in and out, in two slots, are more with more than 100 frames
    graphs.save(tmp_path, "m", graphs.copying(["N", extent]), "batch_sizes = [1, 128]\n")
    with pytest.raises(LoadFailed, match=r"^m/model\.toml: batch_sizes: .* set batch_sizes to at most \[\d+\]$"):
        Worker(version_of(tmp_path, "m"), bytes_in_flight_max=1 << 40, payload_bytes_max=1 << 40)


def test_an_output_with_the_extents_of_an_input_needs_no_setting(tmp_path: Path) -> None:
    node = helper.make_node("Concat", ["x"] * 40, ["y"], axis=1)
    wide = graphs.model([node], [graphs.value("x", ["N", 1, "H", "W"])], [graphs.value("y", ["N", 40, "H", "W"])])
    graphs.save(tmp_path, "wide", wide, "batch_sizes = [1]\n")
    with Worker(version_of(tmp_path, "wide")) as worker:
        largest = np.zeros((1, 1024, specs(worker)["x"].bytes_max // 4 // 1024), np.float32)
        (outcome,) = worker.run([[largest]])
        assert (outcome.status, outcome.outputs["y"].nbytes) == (OK, 40 * largest.nbytes)


def test_an_output_of_unknown_size_has_generous_room(tmp_path: Path) -> None:
    graphs.save(tmp_path, "zeros", graphs.zeros(), "batch_sizes = [1]\n")
    with Worker(version_of(tmp_path, "zeros")) as worker:
        count = 640 * 480 * 12
        (outcome,) = worker.run([[np.int64([count])]])
        assert outcome.outputs["y"].shape == (count,)


def test_an_output_has_the_room_that_is_stated_and_not_less_than_it_needs(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.zeros(), 'batch_sizes = [1]\n[[output]]\nname = "y"\nbytes_max = 300_000_000\n')
    with Worker(version_of(tmp_path, "m")) as worker:
        assert specs(worker)["y"].bytes_max == 300_000_000
    graphs.save(tmp_path, "m", graphs.doubling(["N", 4]), '[[output]]\nname = "y"\nbytes_max = 15\n')
    with pytest.raises(LoadFailed, match=r"output\[0\]\.bytes_max: 15 is less than the 16 bytes of FP32\[4\]"):
        Worker(version_of(tmp_path, "m"))


def test_the_bytes_of_an_encoded_picture_are_bounded_apart_from_its_pixels(tmp_path: Path) -> None:
    """Noise is larger as PNG than as plain bytes, and a small picture may carry a lot besides its pixels."""
    toml = '[[input]]\nname = "x"\nencodings = ["PNG"]\npreprocess = [{ op = "normalise" }]\n'
    graphs.save(tmp_path, "m", graphs.copying(["N", 48, 64, 3]), toml)
    noise = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
    png = cv2.imencode(".png", noise)[1].tobytes()
    assert len(png) > noise.nbytes
    with Worker(version_of(tmp_path, "m")) as worker:
        assert specs(worker)["x"].bytes_max >= 36 * MIB
        (outcome,) = worker.run([[Encoded("PNG", png)]])
        np.testing.assert_array_equal(outcome.outputs["y"], noise[..., ::-1])


def test_batches_that_no_message_holds_are_left_out_where_nobody_asked_for_them(tmp_path: Path) -> None:
    count = 1500
    nodes = [helper.make_node("Identity", ["x"], [f"y{index}"]) for index in range(count)]
    outputs = [graphs.value(f"y{index}", ["N", 1]) for index in range(count)]
    graphs.save(tmp_path, "m", graphs.model(nodes, [graphs.value("x", ["N", 1])], outputs))
    with Worker(version_of(tmp_path, "m")) as worker:
        assert worker.signature.batch_sizes == (1, 2)
        assert len(worker.run([[np.float32([1])], [np.float32([2])]])[1].outputs) == count


def test_names_and_settings_may_be_longer_than_a_message(tmp_path: Path) -> None:
    names = [f"{'a long name ' * 100}{index}" for index in range(200)]
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in names]
    proto = graphs.model(nodes, [graphs.value("x", ["N", 1])], [graphs.value(name, ["N", 1]) for name in names])
    graphs.save(tmp_path, "m", proto, f'batch_sizes = [1]\ndescription = "{"x" * channel.MESSAGE_BYTES_MAX}"\n')
    with Worker(version_of(tmp_path, "m")) as worker:
        assert list(worker.run([[np.float32([7])]])[0].outputs) == names


# ---- nothing in it ----


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (graphs.FP32, np.zeros((0, 3), np.float32)),
        (graphs.INT64, np.zeros((0, 3), np.int64)),
        (graphs.BOOL, np.zeros((2, 0), np.bool_)),
        (graphs.FP16, np.zeros((0, 0), np.float16)),
    ],
)
def test_an_empty_frame_is_run_also_beside_others(tmp_path: Path, kind: int, value: np.ndarray) -> None:
    graphs.save(tmp_path, "m", graphs.copying(["N", "A", "B"], kind))
    other = np.ones((2, 3), value.dtype)
    with Worker(version_of(tmp_path, "m")) as worker:
        outcomes = worker.run([[value], [other], [value]])
        assert [outcome.status for outcome in outcomes] == [OK] * 3
        for outcome, sent in zip(outcomes, (value, other, value), strict=True):
            assert outcome.outputs["y"].shape == sent.shape
            np.testing.assert_array_equal(outcome.outputs["y"], sent)


@pytest.mark.holds_on("cpu", why="OpenVINO takes no tensor without elements, WebGPU no Identity")
def test_an_input_whose_fixed_size_is_zero_is_served(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.copying(["N", 0, 4]))
    with Worker(version_of(tmp_path, "m")) as worker:
        assert worker.run([[np.zeros((0, 4), np.float32)]] * 2)[1].outputs["y"].shape == (0, 4)


@pytest.mark.holds_on("cpu", why="an index out of bounds is an error of the CPU's provider alone")
def test_frames_that_a_graph_refuses_do_not_fail_those_of_other_shapes(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    dims = ["N", 1, "H", "W"]
    weights = {"w": np.ones((1, 1, 1, 1), np.float32)}
    graphs.save(tmp_path, "m", graphs.model([node], [graphs.value("x", dims)], [graphs.value("y", dims)], weights))
    with Worker(version_of(tmp_path, "m")) as worker:
        good = np.ones((1, 2, 2), np.float32)
        outcomes = worker.run([[np.ones((1, 0, 2), np.float32)], [good], [np.ones((1, 3, 0), np.float32)]])
        assert [outcome.status for outcome in outcomes] == [FRAME_FAILED, OK, FRAME_FAILED]
        assert "Conv" in outcomes[0].reason
        np.testing.assert_array_equal(outcomes[1].outputs["y"], good)


def test_a_picture_has_a_pixel(tmp_path: Path) -> None:
    toml = '[[input]]\nname = "x"\npreprocess = [{ op = "resize", width = 4, height = 4 }]\n'
    graphs.save(tmp_path, "m", graphs.copying(["N", 4, 4, 3], graphs.UINT8), toml)
    with Worker(version_of(tmp_path, "m")) as worker:
        (outcome,) = worker.run([[np.zeros((5, 0, 3), np.uint8)]])
        assert (outcome.status, outcome.reason) == (INVALID, "input 'x' is empty: its shape is [5, 0, 3]")


# ---- memory ----


def test_the_memory_is_what_limits_of_process_and_group_leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "import resource; from duly.worker.memory import memory_bytes_max\n"
        "for limit, most in ((resource.RLIMIT_AS, 1 << 33), (resource.RLIMIT_FSIZE, 1 << 20)):\n"
        "    resource.setrlimit(limit, (most, most)); print(memory_bytes_max() <= most)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "True"]
    files = {
        "proc/self/cgroup": "5:memory:/old\n4:cpu,cpuacct:/other\n0::/pod/box\n",
        "sys/fs/cgroup/pod/box/memory.max": "max\n",
        "sys/fs/cgroup/pod/memory.max": "3000000\n",
        "sys/fs/cgroup/memory/old/memory.limit_in_bytes": "2000000\n",
        "sys/fs/cgroup/other/memory.max": "1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    assert memory_bytes_max() == 2_000_000
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/box\n")
    assert memory_bytes_max() == 3_000_000
    (tmp_path / "proc/self/cgroup").unlink()  # neither /proc nor /sys, as in some sandboxes
    assert memory_bytes_max() > 3_000_000


def held_bytes(region: channel.Region) -> int:
    """Memory that the region takes."""
    return os.fstat(region.fd).st_blocks * 512


def test_large_results_leave_no_memory_behind(tmp_path: Path) -> None:
    graphs.save(tmp_path, "zeros", graphs.zeros(), "batch_sizes = [1, 2]\n")
    with Worker(version_of(tmp_path, "zeros")) as worker:
        for slot in range(channel.SLOTS):
            worker.run([[np.int64([10 * MIB])]] * 2, slot=slot)
        assert held_bytes(worker.region) >= 160 * MIB
        for slot in range(channel.SLOTS):
            assert worker.run([[np.int64([2])]], slot=slot)[0].outputs["y"].tolist() == [0, 0]
        assert held_bytes(worker.region) < MIB


def test_an_area_is_trimmed_alone_and_only_where_it_holds_much() -> None:
    region = channel.Region.create(80 * MIB, 4096)
    region.outputs[0][:4] = b"kept"
    region.inputs[0][: 70 * MIB] = bytes([1]) * (70 * MIB)
    region.inputs[1][:4] = b"kept"
    region.filled[0, False] = channel.KEPT_BYTES_MAX
    region.trim(0, outputs=False)
    assert held_bytes(region) >= 70 * MIB
    region.filled[0, False] += 1
    region.trim(0, outputs=False)
    assert held_bytes(region) < MIB
    assert bytes(region.inputs[0][:4]) == bytes(4)
    assert bytes(region.outputs[0][:4]) == bytes(region.inputs[1][:4]) == b"kept"
    region.close()


@pytest.mark.parametrize("rank", [6, 9])
def test_a_graph_that_leaves_many_extents_open_is_loaded(tmp_path: Path, rank: int) -> None:
    """Frames that are made up for it do not grow with every dimension: 32 to the eighth is a million of millions."""
    graphs.save(tmp_path, "m", graphs.doubling([f"d{axis}" for axis in range(rank)]))
    with Worker(version_of(tmp_path, "m")) as worker:
        frame = np.arange(6, dtype=np.float32).reshape(2, *[1] * (rank - 3), 3)
        (outcome,) = worker.run([[frame]])
        assert np.array_equal(outcome.outputs["y"], 2 * frame)
