"""Where and how a model configuration of Triton has the graph run."""

from duly.accelerators import CPU, CUDA, OPENVINO, TENSORRT
from duly.models.triton.message import Message, Value
from duly.models.triton.text_format import TextError, shown
from duly.models.triton.written import Written, refused, unused

_GPU_PROVIDERS = {"tensorrt": TENSORRT, "cuda": CUDA}
_CPU_PROVIDERS = {"openvino": OPENVINO}
_TENSORRT_OPTIONS = {"max_workspace_size_bytes": "trt_max_workspace_size"}
"""Options that Triton calls otherwise than ONNX Runtime, whose own begin with trt_ and are taken as they are."""
_SWITCHES = frozenset(
    {
        "trt_detailed_build_log", "trt_dump_ep_context_model", "trt_dump_subgraphs", "trt_engine_hw_compatible",
        "trt_force_sequential_engine_build", "trt_force_timing_cache", "trt_int8_use_native_calibration_table",
        "trt_layer_norm_fp32_fallback", "trt_load_user_initializer",
    }
)  # fmt: skip
"""Options that are on or off, beside those that end in _enable. Triton takes 1 and 0 for it, which ONNX Runtime's
Python refuses of TensorRT."""
_ON_OFF = {"1": "True", "0": "False"}
_PRECISIONS = {"FP32": "", "FP16": "trt_fp16_enable", "INT8": "trt_int8_enable"}
_THREADS_MAX = 4096
_LANES = "where a model runs, the server says for all (lanes)"


def instances(written: Written, config: Message) -> None:
    """Writes what instance groups say of devices. Raises TextError."""
    groups = config.messages("instance_group")
    for group in groups:
        refused(group, ["secondary_devices"], "instance_group.", "no provider of ONNX Runtime runs on it")
        unused(written, group, ["gpus", "host_policy"], "instance_group.", _LANES)
        unused(written, group, ["rate_limiter"], "instance_group.", "the scheduler decides by the deadlines what runs")
        unused(written, group, ["profile"], "instance_group.", "it is of TensorRT's own models")
        unused(written, group, ["passive"], "instance_group.", "each lane runs what the scheduler gives it")
        if group.integer("count") < 0:
            raise TextError(
                group.line_of("count"), f"instance_group.count: should be 1 or more, got {group.integer('count')}"
            )
        if group.text("kind") == "KIND_GPU":
            written.note(group.line_of("kind"), f"instance_group.kind: KIND_GPU has no effect: {_LANES}")
        if group.integer("count") > 1:
            text = "instance_group.count has no effect: a model has one worker on each lane; give the server more lanes"
            written.note(group.line_of("count"), text)
    if groups and all(group.text("kind") == "KIND_CPU" for group in groups):
        written.put("providers", [{"name": CPU}], groups[0].line_of("kind"))


def optimization(written: Written, config: Message) -> None:
    """Writes the providers that execution accelerators are. Raises TextError."""
    message = config.message("optimization")
    if message is None:
        return
    where = "optimization."
    unused(written, message, ["graph"], where, "graphs are optimised as ONNX Runtime does unasked")
    unused(written, message, ["priority"], where, "the class of each stream says what runs first")
    unused(written, message, ["cuda"], where, "ONNX Runtime's own are had by cuda_graph = true of model.toml")
    why = "what can be pinned is"
    unused(written, message, ["input_pinned_memory", "output_pinned_memory"], where, why)
    unused(written, message, ["gather_kernel_buffer_threshold", "eager_batching"], where, "payloads are copied once")
    accelerators = message.message("execution_accelerators")
    if accelerators is None:
        return
    on_gpu, on_cpu = (accelerators.messages(f"{device}_execution_accelerator") for device in ("gpu", "cpu"))
    if on_gpu and "providers" in written.table:
        text = "gpu_execution_accelerator has no effect: the only instances are KIND_CPU"
        written.note(on_gpu[0].line, text)
        on_gpu = []
    if on_gpu and on_cpu:
        text = "cpu_execution_accelerator has no effect beside gpu_execution_accelerator: providers are one list"
        written.note(on_cpu[0].line, text)
        on_cpu = []
    known = _GPU_PROVIDERS if on_gpu else _CPU_PROVIDERS
    chosen = on_gpu or on_cpu
    if chosen:
        providers = [_provider(written, each, known) for each in chosen]
        written.put("providers", [*providers, {"name": CPU}], chosen[0].line)
        for index, each in enumerate(chosen):
            written.lines[f"providers[{index}]"] = each.line


def _provider(written: Written, accelerator: Message, known: dict[str, str]) -> dict[str, object]:
    where, name = "execution_accelerators", accelerator.text("name")
    if name not in known:
        text = f"{where}.name: {shown(name)} is no accelerator of ONNX models; there are {', '.join(known)}"
        raise TextError(accelerator.line_of("name"), text)
    options: dict[str, object] = {}
    for key, value in accelerator.maps.get("parameters", {}).items():
        assert isinstance(value, Value)
        if known[name] != TENSORRT or str(key).startswith("trt_"):
            switches = known[name] == TENSORRT and (str(key).endswith("_enable") or key in _SWITCHES)
            options[str(key)] = _ON_OFF.get(str(value.value), value.value) if switches else value.value
        elif key in _TENSORRT_OPTIONS:
            options[_TENSORRT_OPTIONS[str(key)]] = value.value
        elif key == "precision_mode":
            if value.value not in _PRECISIONS:
                text = f"{where}.parameters: precision_mode should be one of {', '.join(_PRECISIONS)}"
                raise TextError(value.line, f"{text}, got {shown(str(value.value))}")
            if option := _PRECISIONS[str(value.value)]:
                options[option] = True
        else:
            written.note(value.line, f"{where}.parameters: {shown(str(key))} has no effect")
    return {"name": known[name]} | ({"options": options} if options else {})


def parameters(written: Written, config: Message) -> None:
    """Writes the settings of ONNX Runtime that have a place in model.toml. Raises TextError."""
    for key, value in config.maps.get("parameters", {}).items():
        assert isinstance(value, Message)
        text, line = value.text("string_value"), value.line_of("string_value")
        if key == "intra_op_thread_count":
            if not (text.isascii() and text.isdigit() and int(text) <= _THREADS_MAX if len(text) <= 4 else False):
                what = f"should be a whole number up to {_THREADS_MAX} in quotes, got {shown(text)}"
                raise TextError(line, f"parameters: intra_op_thread_count {what}")
            written.put("threads", int(text), line)
        else:
            written.note(line, f"parameters: {shown(str(key))} has no effect")
