"""The table of accelerators: names of lanes, what each asks ONNX Runtime for, and what is told of them."""

import runpy
from pathlib import Path

import pytest

from duly.accelerators import (
    ACCELERATORS,
    CUDA,
    MEANINGS,
    OPENVINO,
    QNN,
    TENSORRT,
    TENSORRT_RTX,
    VITIS_AI,
    compiles,
    device_of,
    how_to_install,
    is_lane,
    lanes_like,
    of_lane,
    of_provider,
    share_device,
)
from duly.models.spec import ModelConfig, Provider
from duly.worker.plugins import chosen
from duly.worker.providers import ProviderError, check_available, wanted


@pytest.mark.parametrize(
    "lane", ["cpu:0", "cuda:12", "openvino:CPU", "openvino:GPU", "openvino:GPU.1", "openvino:NPU", "webgpu:0",
             "tensorrt-rtx:0", "migraphx:3", "qnn:0", "vitisai:0", "cuda:0/2", "openvino:GPU.1/9"],
)  # fmt: skip
def test_names_of_lanes(lane: str) -> None:
    assert is_lane(lane)
    assert of_lane(lane).kind == lane.partition(":")[0]


@pytest.mark.parametrize(
    "name", ["", "cpu", "cpu:", "cpu:00", "cuda:-1", "cuda:1000", "openvino:0", "openvino:AUTO",
             "openvino:HETERO:GPU,CPU", "webgpu:1", "gpu:0", "CUDA:0", "cuda:0 ",
             "cuda:0/", "cuda:0/1", "cuda:0/10", "cuda:0/2/3", "cuda:0/02", "cpu:0/2", "cuda/2"],
)  # fmt: skip
def test_what_is_no_lane(name: str) -> None:
    assert not is_lane(name)


def test_each_lane_asks_for_its_device() -> None:
    asked = {lane: wanted(ModelConfig(), lane)[0] for lane in ("openvino:NPU", "webgpu:0", "migraphx:1")}
    assert {lane: (each.name.removesuffix("ExecutionProvider"), each.options) for lane, each in asked.items()} == {
        "openvino:NPU": ("OpenVINO", {"device_type": "NPU"}),
        "webgpu:0": ("WebGpu", {}),
        "migraphx:1": ("MIGraphX", {"device_id": "1"}),
    }


def test_several_lanes_on_one_device() -> None:
    lanes = ("cuda:0", "cuda:0/2", "cuda:1", "cpu:0")
    assert [device_of(lane) for lane in lanes] == ["0", "0", "1", "0"]
    assert [share_device(lane, lanes) for lane in lanes] == [True, True, False, False]
    assert wanted(ModelConfig(), "cuda:0/2") == wanted(ModelConfig(), "cuda:0")


def test_openvino_takes_no_more_threads_on_the_processor_than_a_lane_has() -> None:
    (asked,) = wanted(ModelConfig(), "openvino:CPU", 3)
    assert asked.options == {"device_type": "CPU", "num_of_threads": 3}
    assert wanted(ModelConfig(), "openvino:GPU", 3)[0].options == {"device_type": "GPU"}
    own = ModelConfig(providers=(Provider(name=OPENVINO, options={"num_of_threads": 1}),))
    assert wanted(own, "openvino:CPU", 3)[0].options["num_of_threads"] == 1


def test_where_something_is_compiled() -> None:
    assert compiles("openvino:CPU", [])
    assert compiles("cuda:0", [TENSORRT, CUDA])
    assert not compiles("cuda:0", [])
    assert not compiles("cpu:0", ["CPUExecutionProvider", "SomeExecutionProvider"])


def test_a_provider_of_another_kind_gets_nothing_of_the_lane() -> None:
    asked = wanted(ModelConfig(providers=(Provider(name=CUDA), Provider(name=OPENVINO))), "openvino:GPU.1")
    assert [each.options for each in asked] == [{}, {"device_type": "GPU.1"}]


def test_each_row_says_how_it_is_had() -> None:
    for each in ACCELERATORS:
        if each.kind == "cpu":
            continue
        with pytest.raises(ProviderError) as refused:
            check_available([Provider(name=each.provider)], ["CPUExecutionProvider"], "onnxruntime 1.31.0")
        remedy = str(refused.value).rpartition("; ")[2]
        assert any(
            word and word in remedy
            for word in (f"duly[{each.extra}]" * bool(each.extra), each.wheel, each.plugin, each.needs)
        )


def test_the_device_of_a_plugin() -> None:
    cpu_and_gpus = [{"ov_device": "CPU"}, {"ov_device": "GPU.0"}, {"ov_device": "GPU.1"}]
    assert [chosen(OPENVINO, name, cpu_and_gpus) for name in ("CPU", "GPU", "GPU.1")] == [0, 1, 2]
    with pytest.raises(ProviderError, match=r"finds no device NPU; there is: CPU, GPU.0, GPU.1"):
        chosen(OPENVINO, "NPU", cpu_and_gpus)
    assert chosen("WebGpuExecutionProvider", "0", [{}]) == 0
    with pytest.raises(ProviderError, match="finds 1 devices, counted from 0, and none of number 2"):
        chosen("NvTensorRTRTXExecutionProvider", "2", [{}])


ROOT = Path(__file__).parent.parent
MADE = runpy.run_path(str(ROOT / "docs/list_accelerators.py"))


def test_each_kind_of_lane_has_its_meaning() -> None:
    named = [name for each in MEANINGS for name in each.lanes]
    assert all(map(is_lane, named))
    assert {of_lane(name).kind for name in named} == {each.kind for each in ACCELERATORS}
    assert all(name in MADE["lanes"]() for name in named)


def test_the_readme_shows_what_has_run_as_the_table_has_it() -> None:
    assert MADE["matrix"]() in (ROOT / "README.md").read_text("utf-8")


def test_the_page_is_filled_from_the_table() -> None:
    page = MADE["PAGE"].read_text("utf-8")
    assert MADE["filled"](page) == page
    assert MADE["filled"](page.replace("| `webgpu:…` |", "| `other:…` |")) == page
    with pytest.raises(SystemExit, match=r"accelerators.md has no place for the table matrix"):
        MADE["filled"](page.replace("<!-- matrix", "<!-- metrics"))


@pytest.mark.parametrize(
    ("provider", "there", "steps"),
    [
        (CUDA, "", "pip install 'duly[gpu]'"),
        (CUDA, "onnxruntime", "pip uninstall onnxruntime, then pip install 'duly[gpu]'"),
        (TENSORRT_RTX, "onnxruntime", "pip install 'duly[tensorrt-rtx]'"),
        (TENSORRT_RTX, "onnxruntime-gpu", "pip uninstall onnxruntime-gpu, then pip install 'duly[tensorrt-rtx]'"),
        (
            QNN,
            "onnxruntime-openvino",
            "pip uninstall onnxruntime-openvino, then pip install 'duly[cpu]' onnxruntime-qnn",
        ),
        (VITIS_AI, "onnxruntime", ""),
    ],
)
def test_what_is_to_be_installed_leaves_one_onnx_runtime(provider: str, there: str, steps: str) -> None:
    row = of_provider(provider)
    assert row is not None
    assert how_to_install(row, there) == steps


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("openvino:npu", "openvino:CPU, openvino:GPU, openvino:GPU.1 or openvino:NPU"),
        ("webgpu:1", "webgpu:0"),
        ("cuda", "cuda:0 or cuda:1"),
        ("gpu:0", "cpu:0, cuda:0, openvino:NPU or webgpu:0"),
    ],
)
def test_who_names_no_lane_is_shown_those_of_its_kind(name: str, like: str) -> None:
    assert lanes_like(name) == like
