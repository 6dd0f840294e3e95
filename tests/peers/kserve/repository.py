"""The models that clients are let loose on, as a repository for duly and as one for Triton.

Both have the same `config.pbtxt`, but for the backend: duly runs the graph, and Triton's Python backend runs the same
graph in ONNX Runtime, or a script that does what the graph does where that can't be told from outside.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from duly_load.targets.inside import INSIDE
from tests import graphs

SCRIPTS = Path(__file__).parent / "triton_models"
KINDS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "STRING": TensorProto.STRING,
}
HALVES = ("FP16", "BF16")
"""The types without typed contents in the protocol."""
LABELS = ("north", "east", "south", "west")


@dataclass(frozen=True, slots=True)
class Model:
    """A model as both servers have it."""

    name: str
    graph: onnx.ModelProto
    tensors: str
    """Its inputs and outputs as `config.pbtxt` has them."""
    batch_max: int
    """0: frames have no batch dimension."""
    script: Path
    """What Triton's Python backend runs."""
    more: str = "dynamic_batching { }\n"
    """The rest of `config.pbtxt`, the same for both."""
    state: str = ""
    """What of it is duly's alone: Triton's Python backend knows no implicit state."""


def tensor(way: str, name: str, kind: str, dims: Sequence[int], more: str = "") -> str:
    return f'{way} {{ name: "{name}" data_type: TYPE_{kind} dims: [ {", ".join(map(str, dims))} ] {more}}}\n'


def echoing(name: str, kinds: Sequence[str], dims: Sequence[int] = (2,)) -> Model:
    """`in_KIND` comes back as `out_KIND`."""
    nodes, inputs, outputs, tensors = [], [], [], ""
    free = ["N", *(f"D{place}" if dim < 0 else dim for place, dim in enumerate(dims))]
    for kind in kinds:
        taken, given = f"in_{kind.lower()}", f"out_{kind.lower()}"
        nodes.append(helper.make_node("Identity", [taken], [given]))
        inputs.append(graphs.value(taken, free, KINDS[kind]))
        outputs.append(graphs.value(given, free, KINDS[kind]))
        tensors += tensor("input", taken, kind, dims) + tensor("output", given, kind, dims)
    return Model(name, graphs.model(nodes, inputs, outputs), tensors, 4, SCRIPTS / "echo.py")


def add_sub() -> Model:
    """sum = a + b and difference = a - b, of INT32[16]."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    inputs = [graphs.value(name, ["N", 16], TensorProto.INT32) for name in ("a", "b")]
    outputs = [graphs.value(name, ["N", 16], TensorProto.INT32) for name in ("sum", "difference")]
    tensors = "".join(tensor("input", name, "INT32", [16]) for name in ("a", "b"))
    tensors += "".join(tensor("output", name, "INT32", [16]) for name in ("sum", "difference"))
    return Model("add_sub", graphs.model(nodes, inputs, outputs), tensors, 8, INSIDE / "triton_backend.py")


def accumulating() -> Model:
    """y = total' = total + x, of INT32[1], where total is the state of a sequence."""
    nodes = [
        helper.make_node("Add", ["x", "total"], ["total_next"]),
        helper.make_node("Identity", ["total_next"], ["y"]),
    ]
    inputs = [graphs.value(name, ["N", 1], TensorProto.INT32) for name in ("x", "total")]
    outputs = [graphs.value(name, ["N", 1], TensorProto.INT32) for name in ("y", "total_next")]
    tensors = tensor("input", "x", "INT32", [1]) + tensor("output", "y", "INT32", [1])
    state = 'state { input_name: "total" output_name: "total_next" data_type: TYPE_INT32 dims: [ 1 ] }'
    sequences = (
        "sequence_batching { max_sequence_idle_microseconds: 60000000 oldest { max_candidate_sequences: 8 } %s}\n"
    )
    graph = graphs.model(nodes, inputs, outputs)
    return Model("accumulate", graph, tensors, 4, SCRIPTS / "sequence.py", sequences, state)


def slow() -> Model:
    """y = x of FP32[1,1] after a tenth of a second and more of honest work, one frame after another."""
    tensors = tensor("input", "x", "FP32", [1, 1]) + tensor("output", "y", "FP32", [1])
    policy = "timeout_action: REJECT default_timeout_microseconds: 60000000 allow_timeout_override: true"
    more = f"dynamic_batching {{ default_queue_policy {{ {policy} }} priority_levels: 2 default_priority_level: 2 }}\n"
    return Model("slow", graphs.slow(400), tensors, 1, INSIDE / "triton_backend.py", more)


def unbatched() -> Model:
    """y = x + x of FP32[2,2], whose first dimension is none of a batch."""
    tensors = tensor("input", "x", "FP32", [2, 2]) + tensor("output", "y", "FP32", [2, 2])
    return Model("unbatched", graphs.doubling((2, 2)), tensors, 0, INSIDE / "triton_backend.py", "")


def scalar() -> Model:
    """y = x + x, a number a frame, which clients send as [1]."""
    reshape = "reshape { shape: [ ] } "
    tensors = tensor("input", "x", "FP32", [1], reshape) + tensor("output", "y", "FP32", [1], reshape)
    return Model("scalar", graphs.doubling(("N",)), tensors, 4, INSIDE / "triton_backend.py")


def labelled() -> Model:
    """y = x + x of FP32[4], a score for each of four labels."""
    tensors = tensor("input", "x", "FP32", [4]) + tensor("output", "y", "FP32", [4], 'label_filename: "labels.txt" ')
    return Model("labelled", graphs.doubling(("N", 4)), tensors, 4, INSIDE / "triton_backend.py")


def models() -> list[Model]:
    whole = [kind for kind in KINDS if kind not in HALVES]
    return [
        echoing("types", whole),
        echoing("halves", HALVES),
        echoing("text", ["STRING"], (-1,)),
        echoing("lengths", ["FP32"], (-1,)),
        add_sub(),
        accumulating(),
        slow(),
        unbatched(),
        scalar(),
        labelled(),
    ]


def write_for_duly(root: Path) -> list[str]:
    """The models' names."""
    for model in models():
        folder = _folder(root, model)
        onnx.save(model.graph, folder / "1" / "model.onnx")
        _write_config(folder, model, 'platform: "onnxruntime_onnx"', model.state)
    return [model.name for model in models()]


def write_for_triton(root: Path) -> list[str]:
    """The models' names. There is a decoupled one more, of a kind that no graph is."""
    for model in models():
        folder = _folder(root, model)
        shutil.copyfile(model.script, folder / "1" / "model.py")
        onnx.save(model.graph, folder / "model.onnx")
        (folder / "graph.json").write_text(_graph_json(folder / "model.onnx", model.graph), encoding="utf-8")
        _write_config(folder, model, 'backend: "python"', "")
    tensors = tensor("input", "x", "INT32", [1]) + tensor("output", "y", "INT32", [1])
    more = "model_transaction_policy { decoupled: true }\n"
    repeat = Model("decoupled", graphs.doubling(), tensors, 0, SCRIPTS / "decoupled.py", more)
    folder = _folder(root, repeat)
    shutil.copyfile(repeat.script, folder / "1" / "model.py")
    _write_config(folder, repeat, 'backend: "python"', "")
    return [*(model.name for model in models()), repeat.name]


def _folder(root: Path, model: Model) -> Path:
    folder = root / model.name
    (folder / "1").mkdir(parents=True)
    (folder / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    return folder


def _write_config(folder: Path, model: Model, backend: str, state: str) -> None:
    more = model.more % state if "%s" in model.more else model.more
    text = f'name: "{model.name}"\n{backend}\nmax_batch_size: {model.batch_max}\n{model.tensors}'
    text += f"instance_group {{ kind: KIND_CPU count: 1 }}\n{more}"
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")


def _graph_json(file: Path, graph: onnx.ModelProto) -> str:
    """What `duly_load.targets.inside.graph_session` reads."""
    names = {"inputs": graph.graph.input, "outputs": graph.graph.output}
    said = {way: {value.name: value.name for value in values} for way, values in names.items()}
    return json.dumps({"file": str(file), "threads": 1, **said})
