"""Model configurations of Triton that duly serves, drawn from a seed."""

from random import Random
from typing import Any, get_args

from duly.models.spec import DataTypeName
from duly.models.triton.schema import ENUMS
from tests.models.triton.protobuf import model_config

TYPES = [ENUMS["DataType"].index(f"TYPE_{name}") for name in get_args(DataTypeName)]


def _reshaped(random: Random, tensor: Any) -> None:
    if random.random() < 0.3 and all(extent > 0 for extent in tensor.dims):
        tensor.reshape.shape.extend([1, *tensor.dims] if random.random() < 0.5 else [*tensor.dims, 1, 1])


def _tensor(random: Random, tensor: Any, name: str) -> None:
    tensor.name = name
    if random.random() < 0.8:
        tensor.data_type = random.choice(TYPES)
    if random.random() < 0.8:
        tensor.dims.extend(random.choice([-1, 1, 3, 8, 224]) for _ in range(random.randint(1, 4)))
        _reshaped(random, tensor)


def random_config(seed: int) -> Any:
    """A message that `translate` takes."""
    random = Random(seed)
    config = model_config()()
    config.backend = random.choice(["", "onnxruntime"])
    config.max_batch_size = largest = random.choice([0, 0, 1, 3, 8, 100, 256, 500])
    if random.random() < 0.3:
        config.default_model_filename = random.choice(["net.onnx", 'odd "name"\\.onnx', "größe\t.onnx"])
    for index in range(random.randint(0, 3)):
        _tensor(random, config.input.add(), f"in/{index}:0")
    for index in range(random.randint(0, 3)):
        output = config.output.add()
        _tensor(random, output, random.choice(["out", "größe", 'a"b']) + str(index))
        if random.random() < 0.2:
            output.label_filename = "labels.txt"
    match random.randint(0, 3):
        case 0:
            config.version_policy.latest.num_versions = random.randint(1, 9)
        case 1:
            config.version_policy.all.SetInParent()
        case 2:
            config.version_policy.specific.versions.extend(random.sample(range(1, 99), random.randint(1, 4)))
    match random.randint(0, 2):
        case 0:
            _dynamic(random, config.dynamic_batching, largest)
        case 1:
            _sequences(random, config.sequence_batching)
    for _ in range(random.randint(0, 2)):
        group = config.instance_group.add()
        group.kind, group.count = random.randint(0, 3), random.randint(0, 4)
    if random.random() < 0.3:
        accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
        accelerator.parameters["precision_mode"] = random.choice(["FP32", "FP16", "INT8"])
        accelerator.parameters["trt_engine_cache_enable"] = "1"
    if random.random() < 0.3:
        config.optimization.cuda.graphs = True
    if random.random() < 0.5:
        config.parameters["intra_op_thread_count"].string_value = str(random.randint(0, 64))
        config.parameters["something else"].string_value = "\x00\x7f\u2028"
    return config


def _dynamic(random: Random, batching: Any, largest: int) -> None:
    batching.SetInParent()
    if largest:
        batching.preferred_batch_size.extend(random.randint(1, largest) for _ in range(random.randint(0, 3)))
    batching.max_queue_delay_microseconds = random.choice([0, 100, 1 << 63])
    if random.random() < 0.5:
        batching.priority_levels = levels = random.randint(1, 9)
        batching.default_priority_level = random.randint(1, levels)
        batching.priority_queue_policy[levels].max_queue_size = 3
    if random.random() < 0.5:
        batching.default_queue_policy.default_timeout_microseconds = random.choice([0, 1, 50_000, 1 << 40])
        batching.default_queue_policy.timeout_action = random.randint(0, 1)


def _sequences(random: Random, batching: Any) -> None:
    batching.SetInParent()
    for index in range(random.randint(0, 3)):
        control_input = batching.control_input.add(name=f"control{index}")
        control = control_input.control.add(kind=random.randint(0, 3))
        if control.kind != 3:
            match random.randint(0, 2):
                case 0:
                    control.int32_false_true.extend([random.randint(-9, 0), random.randint(1, 9)])
                case 1:
                    control.fp32_false_true.extend([-0.5, random.choice([1.0, 1e30, 0.1])])
                case 2:
                    control.bool_false_true.extend([False, True])
    for index in range(random.randint(0, 2)):
        state = batching.state.add(input_name=f"s{index}", output_name=f"t{index}", data_type=random.randint(1, 12))
        state.dims.extend(random.randint(1, 9) for _ in range(random.randint(1, 3)))
        if random.random() < 0.5:
            first = state.initial_state.add(name="first", data_type=state.data_type, dims=state.dims)
            if random.random() < 0.5:
                first.zero_data = True
            else:
                first.data_file = "first.bin"
