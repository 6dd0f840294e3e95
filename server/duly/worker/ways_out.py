"""What would make a graph load that does not: the lines of model.toml that do it, or how to export the graph.

These are the second halves of errors. A line given here can be put at the top of model.toml as it stands.
"""

import difflib
import json
import re
from collections.abc import Iterable, Sequence

from duly.models.spec import Input, ModelConfig, TensorSpec
from duly.models.wording import first_few
from duly.worker.dtypes import DTYPES
from duly.worker.graph import Graph, GraphTensor, extents, is_fixed

NAMES_MAX = 20
"""An error names so many tensors and counts the rest."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_NOT_NUMBERS = (
    (r"tensor\(float[48]", "{type} is not taken; export it as FP16 or FP32, by a Cast"),
    (r"tensor\(u?int[24]\)", "{type} is not taken; export it as INT8 or UINT8, by a Cast"),
    (r"tensor\(complex", "complex numbers are not taken; export their two parts as one more dimension of 2"),
    (
        r"seq\(map\(",
        "a list of dictionaries, as ZipMap makes it; export without it (skl2onnx: options={{'zipmap': False}})",
    ),
    (r"seq\(", "a list of tensors; export them as one tensor, or each as one of its own"),
    (r"map\(", "a dictionary; export from the vector on that is made of it"),
    (r"optional\(", "optional; export it as a tensor that is always there"),
    (r"sparse_tensor\(", "sparse; export it as a dense tensor"),
)


def not_numbers(datatype: str) -> str:
    """Says why tensors of a type that is no key of DTYPES cannot be sent, and what to export in their place."""
    words = next((words for pattern, words in _NOT_NUMBERS if re.match(pattern, datatype)), "")
    kind = datatype.removeprefix("tensor(").removesuffix(")")
    return words.format(type=kind) if words else f"{kind} is not taken; export it as FP32, by a Cast"


def leave_out(graph: Graph, config: ModelConfig, unwanted: Iterable[str]) -> str:
    """Gives the line of model.toml with which clients get all outputs of the graph but those that are `unwanted`.

    It is the end of a sentence; empty where no other output is left.
    """
    unwanted = set(unwanted)
    # A first extent of 1 is often that of the exporter's example; it is not where outputs were looked at.
    ones = not any(graph.outputs[name].datatype in DTYPES for name in unwanted)
    never = {*unwanted, *(state.output for state in config.states)}
    never |= {config.postprocess.tensor} if config.postprocess else set()
    if config.outputs:
        return "; or take it out of [[output]]"
    open_batch = any(tensor.shape and not isinstance(tensor.shape[0], int) for tensor in graph.inputs.values())
    others = [
        name
        for name, tensor in graph.outputs.items()
        if name not in never
        and tensor.datatype in DTYPES
        and tensor.shape
        and not (open_batch and isinstance(tensor.shape[0], int) and not (ones and tensor.shape[0] == 1))
    ]
    if not others:
        return ""
    tables = ", ".join(f"{{ name = {json.dumps(name, ensure_ascii=False)} }}" for name in others)
    return f"; or leave it out, by naming the others ([[output]]) at the top of model.toml: output = [{tables}]"


def take_whole(graph: Graph, config: ModelConfig, tensor: str) -> str:
    """Gives what to do about an output of the graph that has no row for each frame."""
    text = "say batched = false under its [[output]] for frames to run one at a time and get all of it"
    if config.outputs or (line := leave_out(graph, config, [tensor])):
        return text + ("; or take it out of [[output]]" if config.outputs else line)
    return f"{text}: output = [{{ name = {json.dumps(tensor, ensure_ascii=False)}, batched = false }}]"


def say_example(specs: Sequence[TensorSpec]) -> str:
    """Gives what to do where a graph takes only some texts, and not the one that it is tried with; empty: there is no
    text, or model.toml states one.
    """
    spec = next((spec for spec in specs if spec.is_text and not spec.example), None)
    if spec is None:
        return ""
    others = "".join(f", {{ name = {json.dumps(each.name, ensure_ascii=False)} }}" for each in specs if each != spec)
    name = json.dumps(spec.name, ensure_ascii=False)
    return (
        f'; "0" was tried as text: where the graph takes only some texts, say one under its [[input]]: '
        f'input = [{{ name = {name}, example = "…" }}{others}]'
    )


def constant(tensor: GraphTensor) -> str:
    """Gives the line of model.toml that feeds an input with the same number in every batch."""
    number = "0.5" if tensor.datatype in ("BF16", "FP16", "FP32", "FP64") else "1"
    key = tensor.name if _BARE_KEY.fullmatch(tensor.name) else json.dumps(tensor.name, ensure_ascii=False)
    return f"constants = {{ {key} = {number} }}, with its value in place of {number}"


def feed(tensor: GraphTensor) -> str:
    """Gives what feeds an input of the graph that nothing feeds."""
    text = f"add an input, a state or a constant for it: [[input]] with name = {json.dumps(tensor.name)}"
    return text + (
        f", or {constant(tensor)}" if tensor.datatype != "STRING" and is_fixed(extents(tensor.shape)) else ""
    )


def refit(declared: Input, graph_shape: tuple[int, ...]) -> str:
    """Gives what makes an input fit the graph, which takes `graph_shape` a frame."""
    if declared.preprocess or declared.encodings:
        return "change shape or preprocess"
    without = "" if len(declared.shape or ()) <= len(graph_shape) else ", without the batch dimension"
    return f"write shape = {list(graph_shape)}{without}, or leave it out"


def turned(declared: Input, shape: tuple[int, ...]) -> str:
    """Gives the line of model.toml that makes a picture what a graph takes that has the channels first.

    It is the end of a sentence; empty where that is not what is wrong.
    """
    if declared.preprocess or declared.shape or len(shape) != 3 or shape[0] not in (-1, 1, 3):
        return ""
    _, height, width = shape
    resize = f'{{ op = "resize", width = {width}, height = {height} }}, ' if min(height, width) > 0 else ""
    return f'; where the graph has the channels first: preprocess = [{resize}{{ op = "layout", axes = "CHW" }}]'


def no_such(name: str, kind: str, names: Sequence[str], key: str) -> str:
    """Says that the graph has no input or output (`kind`) as the value of `key` in model.toml names it, which ones it
    has, and which one is likely meant.
    """
    alike = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), list(alike), n=1)
    meant = f"; did you mean '{alike[close[0]]}'?" if close else ""
    if key == "name" and names and not meant:
        meant = f"; where clients call one of them so, say which: tensor = {json.dumps(names[0], ensure_ascii=False)}"
    return f"the graph has no {kind} '{name}'; it has: {first_few(names, NAMES_MAX) or 'none'}{meant}"
