"""What a model configuration of Triton may say: its messages and fields, by the names of protobuf's text format.

The names and types are those of the public `model_config.proto`. Every field of it is here, whether duly serves it or
not, so that one that is misspelt is told from one that is not served.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from duly.models.triton.text_format import Block, Scalar, TextError, shown

Scheme = Mapping[str, Mapping[str, str]]
"""The type of each field of each message. `[T]`: any number of T; `{K: T}`: a map; `oneof|T`: one of the fields with
that word before the bar."""

MESSAGES: Scheme = {
    "ModelConfig": {
        "name": "string",
        "platform": "string",
        "backend": "string",
        "runtime": "string",
        "version_policy": "VersionPolicy",
        "max_batch_size": "int32",
        "input": "[Input]",
        "output": "[Output]",
        "batch_input": "[BatchInput]",
        "batch_output": "[BatchOutput]",
        "optimization": "Optimization",
        "dynamic_batching": "scheduling|DynamicBatching",
        "sequence_batching": "scheduling|SequenceBatching",
        "ensemble_scheduling": "scheduling|Ensembling",
        "instance_group": "[InstanceGroup]",
        "default_model_filename": "string",
        "cc_model_filenames": "{string: string}",
        "metric_tags": "{string: string}",
        "parameters": "{string: Parameter}",
        "model_warmup": "[Warmup]",
        "model_operations": "Operations",
        "model_transaction_policy": "TransactionPolicy",
        "model_repository_agents": "RepositoryAgents",
        "response_cache": "ResponseCache",
        "model_metrics": "Metrics",
    },
    "VersionPolicy": {"latest": "policy|Latest", "all": "policy|All", "specific": "policy|Specific"},
    "Latest": {"num_versions": "uint32"},
    "All": {},
    "Specific": {"versions": "[int64]"},
    "Input": {
        "name": "string",
        "data_type": "DataType",
        "format": "Format",
        "dims": "[int64]",
        "reshape": "Reshape",
        "is_shape_tensor": "bool",
        "allow_ragged_batch": "bool",
        "optional": "bool",
        "is_non_linear_format_io": "bool",
    },
    "Output": {
        "name": "string",
        "data_type": "DataType",
        "dims": "[int64]",
        "reshape": "Reshape",
        "label_filename": "string",
        "is_shape_tensor": "bool",
        "is_non_linear_format_io": "bool",
    },
    "Reshape": {"shape": "[int64]"},
    "BatchInput": {
        "kind": "BatchInputKind",
        "target_name": "[string]",
        "data_type": "DataType",
        "source_input": "[string]",
    },
    "BatchOutput": {"kind": "BatchOutputKind", "target_name": "[string]", "source_input": "[string]"},
    "Optimization": {
        "graph": "OptimizedGraph",
        "priority": "ModelPriority",
        "cuda": "Cuda",
        "execution_accelerators": "Accelerators",
        "input_pinned_memory": "PinnedMemory",
        "output_pinned_memory": "PinnedMemory",
        "gather_kernel_buffer_threshold": "uint32",
        "eager_batching": "bool",
    },
    "OptimizedGraph": {"level": "int32"},
    "Cuda": {"graphs": "bool", "busy_wait_events": "bool", "graph_spec": "[GraphSpec]", "output_copy_stream": "bool"},
    "GraphSpec": {"batch_size": "int32", "input": "{string: GraphShape}", "graph_lower_bound": "LowerBound"},
    "GraphShape": {"dim": "[int64]"},
    "LowerBound": {"batch_size": "int32", "input": "{string: GraphShape}"},
    "PinnedMemory": {"enable": "bool"},
    "Accelerators": {"gpu_execution_accelerator": "[Accelerator]", "cpu_execution_accelerator": "[Accelerator]"},
    "Accelerator": {"name": "string", "parameters": "{string: string}"},
    "DynamicBatching": {
        "preferred_batch_size": "[int32]",
        "max_queue_delay_microseconds": "uint64",
        "preserve_ordering": "bool",
        "priority_levels": "uint64",
        "default_priority_level": "uint64",
        "default_queue_policy": "QueuePolicy",
        "priority_queue_policy": "{uint64: QueuePolicy}",
    },
    "QueuePolicy": {
        "timeout_action": "TimeoutAction",
        "default_timeout_microseconds": "uint64",
        "allow_timeout_override": "bool",
        "max_queue_size": "uint32",
    },
    "SequenceBatching": {
        "direct": "strategy|Direct",
        "oldest": "strategy|Oldest",
        "max_sequence_idle_microseconds": "uint64",
        "control_input": "[ControlInput]",
        "state": "[State]",
        "iterative_sequence": "bool",
    },
    "Direct": {"max_queue_delay_microseconds": "uint64", "minimum_slot_utilization": "float"},
    "Oldest": {
        "max_candidate_sequences": "int32",
        "preferred_batch_size": "[int32]",
        "max_queue_delay_microseconds": "uint64",
        "preserve_ordering": "bool",
    },
    "ControlInput": {"name": "string", "control": "[Control]"},
    "Control": {
        "kind": "ControlKind",
        "int32_false_true": "[int32]",
        "fp32_false_true": "[float]",
        "bool_false_true": "[bool]",
        "data_type": "DataType",
    },
    "State": {
        "input_name": "string",
        "output_name": "string",
        "data_type": "DataType",
        "dims": "[int64]",
        "initial_state": "[InitialState]",
        "use_same_buffer_for_input_output": "bool",
        "use_growable_memory": "bool",
    },
    "InitialState": {
        "data_type": "DataType",
        "dims": "[int64]",
        "zero_data": "data|bool",
        "data_file": "data|string",
        "name": "string",
    },
    "Ensembling": {"step": "[Step]", "max_inflight_requests": "uint32"},
    "Step": {
        "model_name": "string",
        "model_version": "int64",
        "input_map": "{string: string}",
        "output_map": "{string: string}",
        "model_namespace": "string",
    },
    "InstanceGroup": {
        "name": "string",
        "kind": "InstanceKind",
        "count": "int32",
        "rate_limiter": "RateLimiter",
        "gpus": "[int32]",
        "secondary_devices": "[SecondaryDevice]",
        "profile": "[string]",
        "passive": "bool",
        "host_policy": "string",
    },
    "RateLimiter": {"resources": "[Resource]", "priority": "uint32"},
    "Resource": {"name": "string", "global": "bool", "count": "uint32"},
    "SecondaryDevice": {"kind": "SecondaryDeviceKind", "device_id": "int64"},
    "Parameter": {"string_value": "string"},
    "Warmup": {"name": "string", "batch_size": "uint32", "inputs": "{string: WarmupInput}", "count": "uint32"},
    "WarmupInput": {
        "data_type": "DataType",
        "dims": "[int64]",
        "zero_data": "data|bool",
        "random_data": "data|bool",
        "input_data_file": "data|string",
    },
    "Operations": {"op_library_filename": "[string]"},
    "TransactionPolicy": {"decoupled": "bool"},
    "RepositoryAgents": {"agents": "[Agent]"},
    "Agent": {"name": "string", "parameters": "{string: string}"},
    "ResponseCache": {"enable": "bool"},
    "Metrics": {"metric_control": "[MetricControl]"},
    "MetricControl": {"metric_identifier": "MetricIdentifier", "histogram_options": "options|HistogramOptions"},
    "MetricIdentifier": {"family": "string"},
    "HistogramOptions": {"buckets": "[double]"},
}

DATA_TYPES: Mapping[str, str] = {
    "TYPE_BOOL": "BOOL",
    "TYPE_UINT8": "UINT8",
    "TYPE_UINT16": "UINT16",
    "TYPE_UINT32": "UINT32",
    "TYPE_UINT64": "UINT64",
    "TYPE_INT8": "INT8",
    "TYPE_INT16": "INT16",
    "TYPE_INT32": "INT32",
    "TYPE_INT64": "INT64",
    "TYPE_FP16": "FP16",
    "TYPE_FP32": "FP32",
    "TYPE_FP64": "FP64",
    "TYPE_STRING": "STRING",
    "TYPE_BF16": "BF16",
}
"""The names that model.toml has for element types. Which of them are served, model.toml says."""

ENUMS: Mapping[str, Sequence[str]] = {
    "DataType": ("TYPE_INVALID", *DATA_TYPES),
    "Format": ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"),
    "BatchInputKind": (
        "BATCH_ELEMENT_COUNT",
        "BATCH_ACCUMULATED_ELEMENT_COUNT",
        "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
        "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
        "BATCH_ITEM_SHAPE",
        "BATCH_ITEM_SHAPE_FLATTEN",
    ),
    "BatchOutputKind": ("BATCH_SCATTER_WITH_INPUT_SHAPE",),
    "ModelPriority": ("PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN"),
    "TimeoutAction": ("REJECT", "DELAY"),
    "ControlKind": (
        "CONTROL_SEQUENCE_START",
        "CONTROL_SEQUENCE_READY",
        "CONTROL_SEQUENCE_END",
        "CONTROL_SEQUENCE_CORRID",
    ),
    "InstanceKind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
    "SecondaryDeviceKind": ("KIND_NVDLA",),
}
_INTEGERS = {
    "int32": (-(1 << 31), (1 << 31) - 1),
    "uint32": (0, (1 << 32) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint64": (0, (1 << 64) - 1),
}
_BOOLEANS = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}
_DIGITS_MAX = 32
_FLOATS = ("float", "double")


@dataclass(frozen=True, slots=True)
class Value:
    """One value with its line. An enum's is its name."""

    line: int
    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Fields that it does not state have no entry."""

    line: int
    scalars: dict[str, list[Value]] = field(default_factory=dict)
    inner: "dict[str, list[Message]]" = field(default_factory=dict)
    maps: "dict[str, dict[str | int, Value | Message]]" = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """The line of each field that is stated, where it is stated first."""

    def line_of(self, name: str) -> int:
        """The line of a field; where it is not stated, that of the message."""
        return self.lines.get(name, self.line)

    def message(self, name: str) -> "Message | None":
        return next(iter(self.inner.get(name, ())), None)

    def messages(self, name: str) -> "list[Message]":
        return self.inner.get(name, [])

    def text(self, name: str) -> str:
        """The text, or the name of the enum's value; empty where it is not stated."""
        values = self.scalars.get(name)
        return str(values[0].value) if values else ""

    def integer(self, name: str) -> int:
        """The whole number; 0 where it is not stated."""
        values = self.scalars.get(name)
        return int(values[0].value) if values else 0

    def flag(self, name: str) -> bool:
        values = self.scalars.get(name)
        return bool(values[0].value) if values else False

    def numbers(self, name: str) -> list[int]:
        return [int(each.value) for each in self.scalars.get(name, ())]


def read_message(block: Block, kind: str = "ModelConfig", place: str = "") -> Message:
    """Checks a message and its fields. `place`: what leads to it, such as "input".

    Raises:
        TextError: a field is unknown, stands twice, or has a value that it cannot have.
    """
    schema, message = MESSAGES[kind], Message(block.line)
    chosen: dict[str, str] = {}
    for given in block.fields:
        where = f"{place}.{given.name}" if place else given.name
        if given.name not in schema:
            raise TextError(given.line, _unknown(given.name, where, schema))
        oneof, _, wanted = schema[given.name].rpartition("|")
        first = message.lines.setdefault(given.name, given.line)
        if (other := chosen.setdefault(oneof, given.name)) != given.name and oneof:
            raise TextError(given.line, f"{where}: only one of {other} and {given.name} can be stated; keep one")
        if wanted[0] not in "[{" and (given.name in message.scalars or given.name in message.inner):
            raise TextError(given.line, f"{where} stands twice, first on line {first}; keep one")
        if wanted[0] == "{":
            key, value = _entry(given.value, wanted, where, given.line)
            message.maps.setdefault(given.name, {})[key] = value
            continue
        wanted = wanted.strip("[]")
        if wanted in MESSAGES:
            message.inner.setdefault(given.name, []).append(_inner(given.value, wanted, where))
        else:
            message.scalars.setdefault(given.name, []).append(_scalar(given.value, wanted, where))
    return message


def _entry(value: Scalar | Block, wanted: str, where: str, line: int) -> "tuple[str | int, Value | Message]":
    """One entry of a map, which is written as a message with `key` and `value`."""
    if isinstance(value, Scalar):
        raise TextError(value.line, f'{where}: should be {{ key: "…" value: … }}, got {shown(value.text)}')
    key_kind, value_kind = wanted.strip("{}").split(": ")
    parts: dict[str, Scalar | Block] = {}
    for given in value.fields:
        if given.name not in ("key", "value"):
            raise TextError(given.line, f"{where}.{given.name}: there is no such field; there are key, value")
        if given.name in parts:
            raise TextError(given.line, f"{where}.{given.name} stands twice; keep one")
        parts[given.name] = given.value
    if "key" not in parts:
        raise TextError(line, f"{where}: its key is missing")
    key = _scalar(parts["key"], key_kind, f"{where}.key").value
    assert isinstance(key, str | int)
    inner = parts.get("value", Block(line, ()))
    if value_kind in MESSAGES:
        return key, _inner(inner, value_kind, f"{where}.value")
    if "value" not in parts:
        return key, Value(line, "")
    return key, _scalar(inner, value_kind, f"{where}.value")


def _inner(value: Scalar | Block, kind: str, where: str) -> Message:
    if isinstance(value, Scalar):
        raise TextError(value.line, f"{where}: should be a message in {{ }}, got {shown(value.text)}")
    return read_message(value, kind, where)


def _scalar(value: Scalar | Block, kind: str, where: str) -> Value:
    if isinstance(value, Block):
        raise TextError(value.line, f"{where}: should be {_said(kind)}, not a message in {{ }}")
    if kind in ENUMS:
        return Value(value.line, _enum(value, kind, where))
    if kind == "string":
        if value.kind != "string":
            raise TextError(value.line, f"{where}: should be a text in quotes, got {shown(value.text)}")
        return Value(value.line, value.text)
    if value.kind != "string":
        if kind == "bool" and value.text in _BOOLEANS:
            return Value(value.line, _BOOLEANS[value.text])
        if kind in _INTEGERS and (number := _integer(value.text)) is not None:
            low, high = _INTEGERS[kind]
            if low <= number <= high:
                return Value(value.line, number)
            raise TextError(value.line, f"{where}: {shown(value.text)} is no number from {low} to {high}")
        if kind in _FLOATS and (real := _float(value.text)) is not None:
            return Value(value.line, real)
    raise TextError(value.line, f"{where}: should be {_said(kind)}, got {shown(value.text)}")


def _integer(text: str) -> int | None:
    if len(text) > _DIGITS_MAX:
        return None
    digits = text.removeprefix("-")
    base = 16 if digits[:2].lower() == "0x" else 8 if digits.startswith("0") and digits.isdigit() else 10
    try:
        return int(text, base)
    except ValueError:
        return None


def _float(text: str) -> float | None:
    try:
        real = float(text.rstrip("fF")) if text[:2].lower() != "0x" else float(int(text, 16))
    except (ValueError, OverflowError):
        return None
    return real if isfinite(real) else None


def _enum(value: Scalar, kind: str, where: str) -> str:
    names = ENUMS[kind]
    if value.kind == "number" and (number := _integer(value.text)) is not None and 0 <= number < len(names):
        return names[number]
    if value.kind == "name" and value.text in names:
        return value.text
    quotes = ", without quotes" if value.kind == "string" and value.text in names else ""
    text = f"{where}: should be one of {', '.join(names)}{quotes}, got {shown(value.text)}"
    raise TextError(value.line, text + _likely(value.text.upper(), names))


def _said(kind: str) -> str:
    if kind in ENUMS:
        return f"one of {', '.join(ENUMS[kind])}"
    if kind in _INTEGERS:
        return "a whole number"
    return {"string": "a text in quotes", "bool": "true or false"}.get(kind, "a number")


def _unknown(name: str, where: str, schema: Mapping[str, str]) -> str:
    hint = _likely(name, schema) or (f"; there are {', '.join(schema)}" if 0 < len(schema) <= 12 else "")
    return f"{where}: there is no such field{hint}"


def _likely(word: str, known: Mapping[str, str] | Sequence[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
