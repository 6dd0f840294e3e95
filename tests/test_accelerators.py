"""The table of accelerators: names of lanes, and what each asks ONNX Runtime for."""

import pytest

from duly.accelerators import ACCELERATORS, CUDA, OPENVINO, TENSORRT, compiles, is_lane, of_lane
from duly.models.spec import ModelConfig, Provider
from duly.worker.plugins import chosen
from duly.worker.providers import ProviderError, check_available, wanted


@pytest.mark.parametrize(
    "lane", ["cpu:0", "cuda:12", "openvino:CPU", "openvino:GPU", "openvino:GPU.1", "openvino:NPU", "webgpu:0",
             "tensorrt-rtx:0", "migraphx:3", "qnn:0", "vitisai:0"],
)  # fmt: skip
def test_names_of_lanes(lane: str) -> None:
    assert is_lane(lane)
    assert of_lane(lane).kind == lane.partition(":")[0]


@pytest.mark.parametrize(
    "name", ["", "cpu", "cpu:", "cpu:00", "cuda:-1", "cuda:1000", "openvino:0", "openvino:AUTO",
             "openvino:HETERO:GPU,CPU", "webgpu:1", "gpu:0", "CUDA:0", "cuda:0 "],
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
