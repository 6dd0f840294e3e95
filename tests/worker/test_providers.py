"""A provider that was asked for and does not run the model is an error, never a silent fall back."""

import hashlib
from pathlib import Path

import pytest

from duly.accelerators import CPU, CUDA, TENSORRT, WEBGPU
from duly.models.spec import ModelConfig, Provider
from duly.worker.providers import Node, ProviderError, check_used, wanted
from tests import graphs
from tests.worker.test_load_errors import reason_of

AZURE = "AzureExecutionProvider"  # the one beside the CPU's in the CPU distribution; it runs no ordinary node


# ---- with the installed runtime ----


@pytest.mark.holds_on("cpu", why="it tells what the plain ONNX Runtime has")
def test_provider_that_is_not_installed(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling(), f'providers = [{{ name = "{CUDA}" }}, {{ name = "{CPU}" }}]\n')
    reason = reason_of(tmp_path, "m")
    assert reason.startswith(f"m/model.toml: providers: {CUDA} is not in onnxruntime 1.")
    assert reason.endswith(f"which has {AZURE}, {CPU}; pip uninstall onnxruntime, then pip install 'duly[gpu]'")


def test_gpu_lane_without_gpu_runtime(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling())
    assert f"{CUDA} is not in onnxruntime" in reason_of(tmp_path, "m", lane="cuda:0")


@pytest.mark.holds_on("cpu", why="it needs a provider that runs nothing, which the plain ONNX Runtime has")
@pytest.mark.parametrize("listed", [[AZURE], [AZURE, CPU], [CPU, AZURE]])
def test_provider_that_runs_nothing(tmp_path: Path, listed: list[str]) -> None:
    tables = ", ".join(f'{{ name = "{name}" }}' for name in listed)
    graphs.save(tmp_path, "m", graphs.doubling(), f"providers = [{tables}]\n")
    assert reason_of(tmp_path, "m") == (
        f"m/model.toml: providers: {AZURE} was asked for and runs no node of the graph: {CPU} runs Add; take it out"
    )


def test_provider_library_that_is_none(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling(), 'providers = [{ name = "Acme", library = "libacme.so" }]\n')
    (tmp_path / "m/libacme.so").write_bytes(b"not a library")
    trusted = {"libraries_sha256": [hashlib.sha256(b"not a library").hexdigest()]}
    reason = reason_of(tmp_path, "m", trust=trusted)
    assert reason.startswith("m/model.toml: providers: Acme: library libacme.so: Failed to load library libacme.so")


@pytest.mark.holds_on("cpu", why="it tells the lane")
def test_cuda_graph_needs_cuda(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling(), "cuda_graph = true\n")
    assert reason_of(tmp_path, "m") == (
        f"m/model.toml: cuda_graph needs {CUDA} as the first provider, not {CPU} on cpu:0"
    )


# ---- the rules, with what a session would say on other machines ----


def providers(*names: str) -> list[Provider]:
    return [Provider(name=name) for name in names]


def test_gpu_lane_asks_for_its_own_gpu_and_the_author_has_the_last_word() -> None:
    assert wanted(ModelConfig(), "cpu:0") == (Provider(name=CPU),)
    (cuda,) = wanted(ModelConfig(cuda_graph=True), "cuda:2")
    assert (cuda.name, cuda.options["device_id"], cuda.options["enable_cuda_graph"]) == (CUDA, "2", 1)
    own = Provider(name=CUDA, options={"arena_extend_strategy": "kNextPowerOfTwo", "gpu_mem_limit": 1})
    tensorrt, cuda, cpu = wanted(ModelConfig(providers=(Provider(name=TENSORRT), own, Provider(name=CPU))), "cuda:1")
    assert tensorrt.options == {"device_id": "1"}
    assert cuda.options["arena_extend_strategy"] == "kNextPowerOfTwo"
    assert cuda.options["gpu_mem_limit"] == 1
    assert cpu.options == {}


@pytest.mark.parametrize(
    ("lane", "option"),
    [
        ("cuda:0", "gpu_mem_limit"),
        ("tensorrt-rtx:0", "nv_max_workspace_size"),
        ("migraphx:0", "migraphx_mem_limit"),
        ("cpu:0", ""),
        ("openvino:GPU", ""),
        ("webgpu:0", ""),
    ],
)
def test_memory_is_limited_where_a_provider_can_be_told(lane: str, option: str) -> None:
    (without,), (provider,) = wanted(ModelConfig(), lane), wanted(ModelConfig(), lane, memory_bytes_max=1 << 30)
    assert dict(provider.options) == dict(without.options) | ({option: 1 << 30} if option else {})


def test_every_provider_of_a_lane_is_told_and_model_toml_wins() -> None:
    asked = (Provider(name=TENSORRT), Provider(name=CUDA, options={"gpu_mem_limit": 5}), Provider(name=CPU))
    tensorrt, cuda, cpu = wanted(ModelConfig(providers=asked), "cuda:0", memory_bytes_max=1 << 30)
    assert tensorrt.options["trt_max_workspace_size"] == 1 << 30
    assert cuda.options["gpu_mem_limit"] == 5
    assert not cpu.options


def test_shapes_may_be_computed_on_the_host() -> None:
    assigned = {CUDA: [Node("Conv", "a")], CPU: [Node("Shape", "s"), Node("Gather", "g"), Node("Concat", "")]}
    assert check_used(providers(CUDA), [CUDA, CPU], assigned) == (CUDA, CPU)


def test_nodes_that_fell_to_the_cpu_are_named_unless_it_was_asked_for() -> None:
    fallen = [Node("NonMaxSuppression", f"nms{index}") for index in range(12)]
    assigned = {CUDA: [Node("Conv", "a")], CPU: [Node("Shape", "s"), *fallen]}
    with pytest.raises(ProviderError) as refused:
        check_used(providers(CUDA), [CUDA, CPU], assigned)
    named = ", ".join(f"NonMaxSuppression 'nms{index}'" for index in range(10))
    assert str(refused.value) == (
        f"{CUDA} can't run all of the graph: {named} and 2 more fell to the CPU; add {CPU} to providers to allow that"
    )
    assert check_used(providers(CUDA, CPU), [CUDA, CPU], assigned) == (CUDA, CPU)


def test_an_accelerator_behind_another_may_have_nothing_to_do_where_nothing_is_left() -> None:
    both = providers(TENSORRT, CUDA)
    whole = {TENSORRT: [Node("TRTKernel", "t")]}
    shapes = whole | {CPU: [Node("Shape", "s"), Node("Gather", "g")]}
    for assigned, used in ((whole, (TENSORRT,)), (shapes, (TENSORRT, CPU))):
        assert check_used(both, [TENSORRT, CUDA, CPU], assigned) == used
        assert check_used([*both, Provider(name=CPU)], [TENSORRT, CUDA, CPU], assigned) == used
    parts = whole | {CUDA: [Node("Resize", "r")]}
    assert check_used(both, [TENSORRT, CUDA, CPU], parts) == (TENSORRT, CUDA)
    with pytest.raises(ProviderError, match=f"{TENSORRT} was asked for and runs no node"):
        check_used(both, [TENSORRT, CUDA, CPU], {CUDA: [Node("Resize", "r")]})
    with pytest.raises(ProviderError, match=f"{CUDA} was asked for and runs no node"):
        check_used(providers(CPU, CUDA), [CPU, CUDA], {CPU: [Node("Resize", "r")]})


def test_every_accelerator_asked_for_must_run_something_where_something_is_left() -> None:
    assigned = {TENSORRT: [Node("TRTKernel", "t")], CPU: [Node("Resize", "r")]}
    with pytest.raises(ProviderError, match=f"{CUDA} was asked for and runs no node"):
        check_used(providers(TENSORRT, CUDA, CPU), [TENSORRT, CUDA, CPU], assigned)
    assert check_used(providers(TENSORRT, CPU), [TENSORRT, CPU], assigned) == (TENSORRT, CPU)


def test_cpu_in_the_list_may_have_nothing_to_do_unless_it_is_the_first() -> None:
    assigned = {CUDA: [Node("Conv", "a")]}
    assert check_used(providers(CUDA, CPU), [CUDA, CPU], assigned) == (CUDA,)
    with pytest.raises(ProviderError, match=f"{CPU} was asked for and runs no node of the graph: {CUDA} runs Conv 'a'"):
        check_used(providers(CPU, CUDA), [CPU, CUDA], assigned)


def test_nodes_that_are_not_named_show_in_the_memory_of_their_device() -> None:
    asked, shapes = providers(WEBGPU), {CPU: [Node("Shape", ""), Node("Gather", "")]}
    assert check_used(asked, [WEBGPU, CPU], shapes, {"WebGPU_Buf", "Cpu"}) == (WEBGPU, CPU)
    for host in ({"Cpu"}, {"CpuPinned", "Cpu"}, set()):
        with pytest.raises(ProviderError, match=f"{WEBGPU} was asked for and runs no node of the graph: {CPU} runs"):
            check_used(asked, [WEBGPU, CPU], shapes, host)
    with pytest.raises(ProviderError, match=rf"can't run all of the graph: Hardmax 'h' fell to the CPU; add {CPU}"):
        check_used(asked, [WEBGPU, CPU], {CPU: [Node("Hardmax", "h")]}, {"WebGPU_Buf"})


def test_of_two_that_are_not_named_neither_is_believed() -> None:
    assigned = {CUDA: [Node("Conv", "c")]}
    with pytest.raises(ProviderError, match=f"{TENSORRT} was asked for and runs no node"):
        check_used(providers(TENSORRT, CUDA), [TENSORRT, CUDA, CPU], assigned, {"Cuda"})
    shapes = {CPU: [Node("Shape", "s")]}
    with pytest.raises(ProviderError, match=f"{TENSORRT} was asked for and runs no node"):
        check_used(providers(TENSORRT, CUDA), [TENSORRT, CUDA, CPU], shapes, {"Cuda"})


def test_provider_that_could_not_start() -> None:
    with pytest.raises(ProviderError, match=f"{CUDA} could not start here; the session has {CPU} only"):
        check_used(providers(CUDA, CPU), [CPU], {CPU: [Node("Conv", "")]})
