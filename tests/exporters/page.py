"""The tables of docs/models.md: what exporters write, and how duly takes it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx

from tests.exporters.judged import STATED, Verdict
from tests.exporters.zoo import Exported, packages

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

_TITLES = {
    "catboost": "CatBoost",
    "hummingbird": "Hummingbird",
    "jax": "JAX",
    "lightgbm": "LightGBM",
    "onnxruntime": "ONNX Runtime's tools",
    "paddle": "PaddlePaddle",
    "scikit-learn": "scikit-learn",
    "tensorflow": "TensorFlow and Keras",
    "torch": "PyTorch",
    "xgboost": "XGBoost",
}
_DATATYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}


def section(tool: str, models: Iterable[Exported], verdicts: Mapping[str, Verdict]) -> str:
    """The part of the page about one tool, from its heading on."""
    lines = [f"### {_TITLES[tool]}", "", f"{packages()[tool]}.", ""]
    lines += ["| model | how it was exported | the graph | bare | model.toml | batches |", "|" + " --- |" * 6]
    said = []
    for exported in models:
        bare = verdicts[exported.name]
        stated = verdicts.get(exported.name + STATED)
        cells = [
            f"`{exported.name}`",
            exported.how,
            f"`{_signature(exported.graph)}`",
            _cell(bare),
            "<br>".join(f"`{line}`" for line in exported.toml.splitlines() if line),
            _sizes(bare if bare.served or stated is None else stated),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        if words := "; ".join(filter(None, (bare.refused, *bare.notes))):
            said.append(f"- `{exported.name}`: {_plain(words, exported.name)}")
    if said:
        lines += ["", "What duly says of them:", "", *said]
    return "\n".join(lines) + "\n"


def sections(page: str) -> dict[str, str]:
    """The parts of the page by tool. What follows the last of them is not among them."""
    tools = {title: tool for tool, title in _TITLES.items()}
    found = {}
    for match in re.finditer(r"^### (.*)\n(?:(?!^##).*\n)*", page, re.MULTILINE):
        if match[1] in tools:
            found[tools[match[1]]] = match[0].rstrip("\n") + "\n"
    return found


def rewritten(page: str, tool: str, new: str) -> str:
    """The page with the part about `tool` replaced; one that is not there comes to the end."""
    old = sections(page).get(tool)
    return page.replace(old, new) if old else f"{page.rstrip()}\n\n{new}"


def _cell(verdict: Verdict) -> str:
    if verdict.wrong:
        return f"wrong: {verdict.wrong}"
    if verdict.refused:
        return "refused, see below"
    return "right, see below" if verdict.notes else "right"


def _sizes(verdict: Verdict) -> str:
    """Such as `1-8`."""
    sizes = verdict.batch_sizes
    return "" if not sizes else f"{sizes[0]}-{sizes[-1]}" if len(sizes) > 1 else str(sizes[0])


def _plain(words: str, name: str) -> str:
    """The words without the names of files, without what differs between machines and versions of ONNX Runtime, and
    with nothing that Markdown would take for more than text.
    """
    words = re.sub(rf"{re.escape(name)}(/[\w.]+)+: ", "", words)
    words = re.sub(r"(warm-up with a batch of \d+): .*?; the graph", r"\1: …; the graph", words)
    words = re.sub(r"\d+%", "some %", words)
    return re.sub(r"([\[\]*_<>|])", r"\\\1", words)


def _signature(graph: onnx.GraphProto) -> str:
    weights = {initializer.name for initializer in graph.initializer}
    inputs = (each for each in graph.input if each.name not in weights)
    return f"{', '.join(map(_value, inputs))} → {', '.join(map(_value, graph.output))}"


def _value(value: onnx.ValueInfoProto) -> str:
    """Such as `x FP32[batch, 4]`."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return f"{value.name} ({kind.removesuffix('_type')})"
    tensor = value.type.tensor_type
    datatype = onnx.TensorProto.DataType.Name(tensor.elem_type)
    return f"{value.name} {_DATATYPES.get(datatype, datatype)}[{', '.join(_extents(tensor.shape))}]"


def _extents(shape: onnx.TensorShapeProto) -> Iterator[str]:
    for dim in shape.dim:
        yield dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?")
