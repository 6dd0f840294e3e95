"""What a provider is told of shapes, folders and devices before it compiles, with providers that are made up."""

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from duly.accelerators import CUDA, MIGRAPHX, OPENVINO, TENSORRT, TENSORRT_RTX, of_provider
from duly.models.spec import ModelConfig, Provider
from duly.worker import device_facts
from duly.worker.engines import Engines, NoLink
from duly.worker.graph_facts import InputFacts, NoGraph, graph_facts
from duly.worker.providers import ProviderError, wanted
from duly.worker.shape_profile import shape_options
from duly.worker.version_files import GraphFile
from tests import graphs


def file_of(model: onnx.ModelProto) -> GraphFile:
    return GraphFile(Path("/models/m/1/model.onnx"), model.SerializeToString(), {}, ("m/1/model.onnx",))


def options(name: str, model: onnx.ModelProto, config: ModelConfig, given: dict[str, str] | None = None) -> Any:
    row = of_provider(name)
    assert row is not None
    return shape_options(row, graph_facts(model.SerializeToString()), config, given or {})


# ---- what a graph says of itself ----


def test_inputs_and_tensors_are_read_out_of_the_graph() -> None:
    model = graphs.model(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Add", ["c", "s"], ["y"])],
        [graphs.value("x", ("N", 3, "H", 8)), graphs.value("s", (), graphs.INT64), graphs.value("w", (4, 3, 3, 3))],
        [graphs.value("y", ("N", 4, None, 6))],
        {"w": np.zeros((4, 3, 3, 3), np.float32)},
    )
    facts = graph_facts(model.SerializeToString())
    assert facts.inputs == {"x": InputFacts((-1, 3, -1, 8), "FP32"), "s": InputFacts((), "INT64")}
    assert facts.tensors == {"x", "w", "c", "s", "y"}


def test_an_input_without_a_shape_has_none() -> None:
    value = onnx.ValueInfoProto(name="x")
    value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model = graphs.model([helper.make_node("Relu", ["x"], ["y"])], [value], [graphs.value("y", ("N",))])
    assert graph_facts(model.SerializeToString()).inputs == {"x": InputFacts(None, "FP16")}


@pytest.mark.parametrize("data", [b"", b"\x3a", b"\x3a" + b"\xff" * 11, b"not at all a graph"])
def test_what_is_no_graph_says_nothing(data: bytes) -> None:
    with pytest.raises(NoGraph):
        graph_facts(data)


def test_a_graph_that_is_cut_off_anywhere_raises_nothing_else() -> None:
    data = graphs.doubling().SerializeToString()
    for end in range(len(data)):
        try:
            graph_facts(data[:end])
        except NoGraph:
            continue


# ---- shapes ----


def test_one_range_holds_all_sizes_and_is_tuned_for_the_largest() -> None:
    config = ModelConfig(batch_sizes=(2, 4, 16))
    assert options(TENSORRT, graphs.doubling(("N", 3, 8)), config) == {
        "trt_profile_min_shapes": "x:1x3x8",
        "trt_profile_opt_shapes": "x:16x3x8",
        "trt_profile_max_shapes": "x:16x3x8",
    }
    rtx = options(TENSORRT_RTX, graphs.doubling(), ModelConfig())
    assert rtx["nv_profile_max_shapes"] == "x:8x4"


def test_all_open_inputs_are_in_the_range_and_fixed_ones_are_not() -> None:
    model = graphs.model(
        [helper.make_node("Add", ["x", "s"], ["a"]), helper.make_node("Add", ["a", "one"], ["y"])],
        [graphs.value("x", ("N", 4)), graphs.value("s", ("N", "K")), graphs.value("one", (1,))],
        [graphs.value("y", ("N", 4))],
    )
    config = ModelConfig.model_validate(
        {"batch_sizes": (4,), "state": [{"input": "s", "output": "a", "shape": [4]}], "constants": {"one": 1.0}}
    )
    assert options(TENSORRT, model, config)["trt_profile_max_shapes"] == "x:4x4,s:4x4"


def test_fixed_graphs_need_no_range() -> None:
    assert options(TENSORRT, graphs.doubling((1, 4)), ModelConfig()) == {}


def test_shape_and_preprocessing_in_model_toml_fix_what_the_graph_leaves_open() -> None:
    open_picture = graphs.doubling(("N", 3, "H", "W"))
    stated = ModelConfig.model_validate({"input": [{"name": "x", "shape": [3, 20, 30]}], "batch_sizes": (2,)})
    assert options(TENSORRT, open_picture, stated)["trt_profile_opt_shapes"] == "x:2x3x20x30"
    resized = ModelConfig.model_validate(
        {
            "input": [
                {
                    "name": "x",
                    "datatype": "UINT8",
                    "preprocess": [
                        {"op": "resize", "height": 24, "width": 40},
                        {"op": "normalise"},
                        {"op": "layout", "axes": "CHW"},
                    ],
                }
            ]
        }
    )
    assert options(TENSORRT, open_picture, resized)["trt_profile_min_shapes"] == "x:1x3x24x40"


def test_the_batch_may_be_another_dimension() -> None:
    config = ModelConfig.model_validate({"batch_axis": 1, "batch_sizes": (4,)})
    assert options(TENSORRT, graphs.doubling((5, "N", 3)), config)["trt_profile_max_shapes"] == "x:5x4x3"


@pytest.mark.parametrize("name", [TENSORRT, TENSORRT_RTX, MIGRAPHX])
def test_open_extents_are_refused_where_they_would_be_compiled_for(name: str) -> None:
    with pytest.raises(ProviderError, match=r"dimension 2 of the graph's input 'x' is open: .* say the shape of input"):
        options(name, graphs.doubling(("N", 3, "T")), ModelConfig())
    assert options(OPENVINO, graphs.doubling(("N", 3, "T")), ModelConfig()) == {}


def test_a_graph_without_a_batch_may_not_be_open_at_all() -> None:
    with pytest.raises(ProviderError, match="dimension 0"):
        options(TENSORRT, graphs.doubling(("points", 4)), ModelConfig(batched=False))


@pytest.mark.parametrize("name", ["images:0", "a,b"])
def test_names_that_would_be_taken_apart_are_refused(name: str) -> None:
    """ONNX Runtime splits the ranges at these characters, and would compile at the first frame after all."""

    def named(*dims: str | int) -> onnx.ModelProto:
        return graphs.model(
            [helper.make_node("Relu", [name], ["y"])], [graphs.value(name, dims)], [graphs.value("y", dims)]
        )

    with pytest.raises(ProviderError, match="rename the input, or export it with a fixed batch"):
        options(TENSORRT, named("N", 4), ModelConfig())
    assert options(TENSORRT, named(1, 4), ModelConfig()) == {}
    assert options(MIGRAPHX, named("N", 4), ModelConfig()) == {}


def test_ranges_of_ones_own_are_left_as_they_are() -> None:
    given = {f"trt_profile_{which}_shapes": "x:1x3x9" for which in ("min", "opt", "max")}
    assert options(TENSORRT, graphs.doubling(("N", 3, "T")), ModelConfig(), given) == {}
    del given["trt_profile_opt_shapes"]
    with pytest.raises(ProviderError, match="has trt_profile_min_shapes and not trt_profile_opt_shapes"):
        options(TENSORRT, graphs.doubling(), ModelConfig(), given)


# ---- what is asked and told ----


class Server:
    """Answers as the server does, from a list."""

    def __init__(self, folder: Path, *there: bool) -> None:
        self.folder = folder
        self.there = list(there)
        self.asked: list[dict[str, Any]] = []
        self.told: list[tuple[str, bool, float]] = []

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        return {"folder": str(self.folder), "there": self.there.pop(0), "seconds": 210.0}

    def tell(self, doing: str, builds: bool = False, expected_s: float = 0.0) -> None:
        self.told.append((doing, builds, expected_s))


class Sessions:
    """Opens sessions, of which the first ones fail."""

    def __init__(self, fail: int = 0) -> None:
        self.fail = fail
        self.options: list[dict[str, Any]] = []

    def __call__(self, asked: Sequence[Provider]) -> int:
        self.options.append(dict(asked[0].options))
        if len(self.options) <= self.fail:
            raise RuntimeError("could not deserialize engine from cache")
        return len(self.options)


def engines(server: Server, lane: str = "cuda:1") -> Engines:
    return Engines(server, lane, "1.31.1")


ASKED = (Provider(name=TENSORRT, options={"device_id": "1", "trt_fp16_enable": True}),)


def test_an_engine_that_is_there_is_opened_and_nothing_is_compiled(tmp_path: Path) -> None:
    server, sessions = Server(tmp_path, True), Sessions()
    own = engines(server)
    assert own.open(ASKED, file_of(graphs.doubling()), None, ModelConfig(), sessions) == 1
    assert sessions.options[0] == {
        "device_id": "1",
        "trt_fp16_enable": True,
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(tmp_path),
        "trt_profile_min_shapes": "x:1x4",
        "trt_profile_opt_shapes": "x:8x4",
        "trt_profile_max_shapes": "x:8x4",
    }
    assert [builds for _, builds, _ in server.told] == [False, False]
    assert not own.warmed()


def test_an_engine_that_is_not_there_is_compiled_and_that_is_told(tmp_path: Path) -> None:
    server = Server(tmp_path, False)
    own = engines(server)
    own.open(ASKED, file_of(graphs.doubling()), None, ModelConfig(), Sessions())
    own.warms("model.onnx", 4, 3, 4)
    assert server.told[1:] == [
        ("TensorrtExecutionProvider compiles model.onnx", True, 210.0),
        ("warms model.onnx with batches of 4, size 3 of 4", True, 0.0),
    ]
    assert not own.warmed()
    assert server.told[-1] == ("", False, 0.0)


def test_the_question_has_all_that_the_engine_depends_on_and_not_which_gpu_it_is(tmp_path: Path) -> None:
    server = Server(tmp_path, True, True)
    for number in "01":
        asked = (
            Provider(name=TENSORRT, options={"device_id": number, "trt_fp16_enable": True}),
            Provider(name="CPUExecutionProvider"),
        )
        engines(server, f"cuda:{number}").open(asked, file_of(graphs.doubling()), None, ModelConfig(), Sessions())
    first, second = server.asked
    assert first == second
    assert first["files"] == ["m/1/model.onnx"]
    parts = first["parts"]
    assert parts["providers"][0][1]["trt_profile_max_shapes"] == "x:8x4"
    assert parts["providers"][1][0] == "CPUExecutionProvider"
    assert parts["versions"]["onnxruntime"] == "1.31.1"
    assert parts["versions"]["tensorrt"] == 0
    assert "driver" in parts["device"]
    assert "device_id" not in parts["providers"][0][1]


@pytest.mark.parametrize(("lane", "name"), [("cuda:0", TENSORRT), ("migraphx:0", MIGRAPHX)])
def test_how_much_memory_is_left_is_no_part_of_the_question_but_what_model_toml_says_is(
    tmp_path: Path, lane: str, name: str
) -> None:
    row = of_provider(name)
    assert row is not None

    def question(config: ModelConfig, memory_bytes_max: int) -> dict[str, Any]:
        server, sessions = Server(tmp_path, True), Sessions()
        asked = wanted(config, lane, 1, memory_bytes_max)
        engines(server, lane).open(asked, file_of(graphs.doubling()), None, config, sessions)
        assert row.memory_option in sessions.options[0]
        return server.asked[0]

    left = ModelConfig(providers=(Provider(name=name), Provider(name=CUDA)))
    assert question(left, 5_000_000_001) == question(left, 4_000_000_003)
    stated = [ModelConfig(providers=(Provider(name=name, options={row.memory_option: size}),)) for size in (1, 2)]
    assert question(stated[0], 7) == question(stated[0], 8)
    assert question(stated[0], 7) != question(stated[1], 7)


def test_an_engine_that_does_not_work_is_thrown_away_once(tmp_path: Path) -> None:
    server, sessions = Server(tmp_path, True, False), Sessions(fail=1)
    assert engines(server).open(ASKED, file_of(graphs.doubling()), None, ModelConfig(), sessions) == 2
    assert [each.get("damaged", False) for each in server.asked] == [False, True]
    assert [builds for _, builds, _ in server.told] == [False, False, True]
    server, sessions = Server(tmp_path, True, False), Sessions(fail=2)
    with pytest.raises(RuntimeError):
        engines(server).open(ASKED, file_of(graphs.doubling()), None, ModelConfig(), sessions)
    assert len(sessions.options) == 2


def test_a_graph_that_cannot_be_compiled_is_tried_once(tmp_path: Path) -> None:
    server, sessions = Server(tmp_path, False), Sessions(fail=1)
    with pytest.raises(RuntimeError):
        engines(server).open(ASKED, file_of(graphs.doubling()), None, ModelConfig(), sessions)
    assert len(sessions.options) == len(server.asked) == 1


def test_where_the_disk_is_full_it_is_compiled_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly.worker.engines.FREE_BYTES_MIN", 1 << 80)
    server, sessions = Server(tmp_path, False), Sessions(fail=1)
    own = engines(server)
    assert own.open(ASKED, file_of(graphs.doubling()), None, ModelConfig(), sessions) == 2
    assert "trt_engine_cache_path" not in sessions.options[1]
    assert own.notes[0].startswith("model.onnx: the disk of engine_cache is full")


def test_what_is_written_at_the_end_of_a_session_is_opened_twice(tmp_path: Path) -> None:
    server = Server(tmp_path, False)
    own = engines(server, "tensorrt-rtx:0")
    asked, sessions, file = (Provider(name=TENSORRT_RTX),), Sessions(), file_of(graphs.doubling())
    own.open(asked, file, None, ModelConfig(), sessions)
    assert sessions.options[0]["nv_runtime_cache_path"] == str(tmp_path)
    assert own.warmed()
    own.open(asked, file, None, ModelConfig(), sessions)
    assert len(server.asked) == 1
    assert sessions.options[0] == sessions.options[1]
    assert not own.warmed()


def test_a_folder_that_model_toml_names_is_its_own_matter(tmp_path: Path) -> None:
    server, sessions = Server(tmp_path), Sessions()
    asked = (Provider(name=OPENVINO, options={"device_type": "CPU", "cache_dir": "/own"}),)
    engines(server, "openvino:CPU").open(asked, file_of(graphs.doubling()), None, ModelConfig(), sessions)
    assert sessions.options == [{"device_type": "CPU", "cache_dir": "/own"}]
    assert not server.asked


def test_a_processor_compiles_nothing() -> None:
    sessions = Sessions()
    Engines(NoLink(), "cpu:0", "1.31.1").open(
        (Provider(name="CPUExecutionProvider"),), file_of(graphs.doubling(("N", "T"))), None, ModelConfig(), sessions
    )
    assert sessions.options == [{}]


def test_what_was_compiled_by_its_author_is_left_as_it_is(tmp_path: Path) -> None:
    server, sessions = Server(tmp_path), Sessions()
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="x.engine")
    model = graphs.model([node], [graphs.value("x", ("N", "T"))], [graphs.value("y", ("N", "T"))])
    engines(server).open(ASKED, file_of(model), None, ModelConfig(), sessions)
    assert sessions.options == [dict(ASKED[0].options)]
    assert not server.asked


# ---- devices ----

FAKE_CUDA = """
#include <string.h>
#include <stddef.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return ordinal > 1 ? 101 : 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 40 ? "NVIDIA L4" : "NVIDIA T4", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device == 40 ? 8 : 7) : attribute == 76 ? (device == 40 ? 9 : 5)
        : attribute == 16 ? 58 : -1; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 24000000000ul; return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int getInferLibVersion(void) { return 101300; }
"""


@pytest.fixture
def fake_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries of NVIDIA's names, with the functions of its headers that are asked."""
    if shutil.which("cc") is None:
        pytest.skip("a C compiler makes the libraries")
    (tmp_path / "cuda.c").write_text(FAKE_CUDA)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "cuda.c"], check=True)
    real = ctypes.CDLL

    def load(name: str, *args: Any, **more: Any) -> ctypes.CDLL:
        return real(str(library) if name in ("libcuda.so.1", "libnvinfer.so.10") else name, *args, **more)

    monkeypatch.setattr(ctypes, "CDLL", load)


def test_a_gpu_is_known_by_what_engines_depend_on(fake_cuda: None, tmp_path: Path) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX 580.95.05\nGCC version: 12\n")
    row = of_provider(TENSORRT)
    assert row is not None
    first, second, missing = (device_facts.device_facts(row, number, tmp_path) for number in "012")
    assert {key: first[key] for key in ("name", "major", "minor", "processors", "memory_bytes", "cuda", "driver")} == {
        "name": "NVIDIA L4", "major": 8, "minor": 9, "processors": 58, "memory_bytes": 24_000_000_000, "cuda": 13000,
        "driver": "NVRM version: NVIDIA UNIX 580.95.05",
    }  # fmt: skip
    assert (second["name"], second["major"]) == ("NVIDIA T4", 7)
    assert "name" not in missing
    assert device_facts.version_facts(row, "1.31.1")["tensorrt"] == 101300


def test_an_amd_gpu_is_known_by_the_kernels_topology(tmp_path: Path) -> None:
    nodes = tmp_path / "sys/class/kfd/kfd/topology/nodes"
    for number, text in enumerate(
        ("cpu_cores_count 16\nsimd_count 0\n", "simd_count 256\ngfx_target_version 90402\ndevice_id 29857\n")
    ):
        (nodes / str(number)).mkdir(parents=True)
        (nodes / str(number) / "properties").write_text(text)
    (tmp_path / "opt/rocm/.info").mkdir(parents=True)
    (tmp_path / "opt/rocm/.info/version").write_text("7.1.0\n")
    row = of_provider(MIGRAPHX)
    assert row is not None
    facts = device_facts.device_facts(row, "0", tmp_path)
    assert (facts["gfx_target_version"], facts["simd_count"], facts["rocm"]) == ("90402", "256", "7.1.0")


def test_a_processor_is_known_by_its_name_and_what_it_can(tmp_path: Path) -> None:
    row = of_provider(OPENVINO)
    assert row is not None
    (tmp_path / "proc").mkdir()
    seen = []
    for flags in ("avx2 amx_int8", "avx2"):
        text = f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: {flags}\n\nprocessor\t: 1\nmodel name\t: Other\n"
        (tmp_path / "proc/cpuinfo").write_text(text)
        seen.append(device_facts.device_facts(row, "CPU", tmp_path))
    assert [facts["name"] for facts in seen] == ["A CPU", "A CPU"]
    assert seen[0] != seen[1]
