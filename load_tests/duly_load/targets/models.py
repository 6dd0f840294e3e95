"""The models of a scenario as servers want them: a repository of duly's, and of each model what a server needs to know
that can only run its graph.
"""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from duly.models.folders import CONFIG_FILE
from duly.models.repository import ModelVersion, Repository
from duly.models.spec import ModelConfig
from duly_client.convert import DTYPES
from duly_load.graphs import GRAPHS, Chain, Graph
from duly_load.scenario.serve import ServedModel
from duly_load.targets.peer import PeerError

THREADS = 1
"""The threads of each model, in every server: figures are for one core."""
BATCH_SIZES_UNSAID = tuple(ServedModel.model_fields["batch_sizes"].default)
"""The batch sizes that duly takes, too, where none are given."""

_DATATYPES: dict[int, str] = {helper.np_dtype_to_tensor_dtype(dtype): name for name, dtype in DTYPES.items()}
"""The protocols' names of element types, by ONNX's numbers."""


@dataclass(frozen=True, slots=True)
class PeerTensor:
    """An input or output as clients see it."""

    name: str
    tensor: str
    """The graph's own name of it."""
    datatype: str
    """The element type as the protocols name it: FP32, INT64, ..."""
    shape: tuple[int, ...]
    """The shape of one frame, without the batch dimension; -1: any extent."""


@dataclass(frozen=True, slots=True)
class PeerModel:
    """A model that is its graph and nothing else."""

    name: str
    file: Path
    inputs: tuple[PeerTensor, ...]
    outputs: tuple[PeerTensor, ...]
    batch_max: int

    def graph_json(self) -> str:
        """What `duly_load.targets.inside.graph_session` reads."""
        said = {
            "file": str(self.file),
            "threads": THREADS,
            "inputs": {each.name: each.tensor for each in self.inputs},
            "outputs": {each.name: each.tensor for each in self.outputs},
        }
        return json.dumps(said, indent=2)


def write_repository(root: Path, models: Sequence[ServedModel]) -> None:
    """Writes NAME/VERSION and NAME/model.toml of each model into the new folder `root`. Raises PeerError."""
    if not models:
        raise PeerError("the scenario names no models for a server to serve; give it [[model]] tables")
    for model in models:
        folder = root / model.name
        folder.mkdir(parents=True)
        if model.folder is not None:
            _copy(model, model.folder, folder)
            continue
        (folder / "1").mkdir()
        onnx.save(_made(model).build(), folder / "1" / "model.onnx")
        (folder / CONFIG_FILE).write_text(_batch_sizes(model), encoding="utf-8")


def peer_models(root: Path, models: Sequence[ServedModel]) -> list[PeerModel]:
    """The models that `write_repository` wrote, each with the first variant of its newest version. Raises PeerError
    where one is more than its graph, or is broken.
    """
    versions, problems = Repository(root).scan()
    for problem in (problem for problem in problems if not problem.harmless):
        raise PeerError(f"model {problem.name}: {problem.reason}")
    newest: dict[str, ModelVersion] = {}
    for version in versions:
        newest.setdefault(version.name, version)
    return [_bare(newest[model.name]) for model in models]


def _made(model: ServedModel) -> Graph | Chain:
    if model.graph is not None:
        return GRAPHS[model.graph]
    assert model.dense is not None
    return Chain(model.dense.width, model.dense.layers)


def _batch_sizes(model: ServedModel) -> str:
    return f"batch_sizes = {sorted(set(model.batch_sizes))}\n"


def _copy(model: ServedModel, source: Path, folder: Path) -> None:
    """Links to what is in `source`, and its model.toml, made to say how batches are where it does not."""
    if not source.is_dir():
        raise PeerError(f"model {model.name}: {source} is not a folder; should be that of a model, with VERSION/*.onnx")
    for path in source.iterdir():
        if path.name != CONFIG_FILE:
            (folder / path.name).symlink_to(path.resolve())
    written = source / CONFIG_FILE
    text = written.read_text(encoding="utf-8") if written.exists() else ""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PeerError(f"model {model.name}: {written}: not TOML: {error}") from error
    if content.get("threads", THREADS) not in (0, THREADS):
        raise PeerError(
            f"model {model.name}: {written}: threads = {content['threads']}, but servers are compared at {THREADS} for "
            "each model; leave it out"
        )
    if model.batch_sizes != BATCH_SIZES_UNSAID:
        sizes = sorted(set(model.batch_sizes))
        if content.get("batch_sizes", sizes) != sizes:
            raise PeerError(
                f"model {model.name}: batch_sizes = {content['batch_sizes']} in {written}, {sizes} in the scenario; "
                "say it once"
            )
        if "batch_sizes" not in content:
            text = _batch_sizes(model) + text  # what is in no table comes first
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def _bare(version: ModelVersion) -> PeerModel:
    config, file = version.config, version.folder / version.config.variants[0].file
    if more := _more_than_graph(config):
        raise PeerError(f"model {version.name}: its model.toml has {more}, which duly alone can do; compare its graph")
    try:
        graph = onnx.load(file, load_external_data=False).graph
    except (DecodeError, OSError) as error:
        raise PeerError(f"model {version.name}: {file}: not an ONNX graph: {error}") from error
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    outputs = {value.name: value for value in graph.output}
    if not inputs or not outputs:
        raise PeerError(f"model {version.name}: {file}: not an ONNX graph: no inputs or outputs are in it")
    # Clients may see them under other names.
    taken = {each.name: each.tensor or each.name for each in config.inputs} or {name: name for name in inputs}
    given = {each.name: each.tensor or each.name for each in config.outputs} or {name: name for name in outputs}
    for tensor in {*taken.values()} - {*inputs} | {*given.values()} - {*outputs}:
        raise PeerError(f"model {version.name}: its model.toml names {tensor!r}, which its graph does not have")
    rows = {_extents(version.name, value)[0] for value in (*inputs.values(), *outputs.values())}
    if not rows <= {-1, 1}:
        raise PeerError(f"model {version.name}: its batch dimension is fixed; export it with one that is free, or of 1")
    sizes = (1,) if rows == {1} else config.batch_sizes or BATCH_SIZES_UNSAID
    return PeerModel(
        version.name,
        file.resolve(),
        tuple(_tensor(version.name, name, inputs[tensor]) for name, tensor in taken.items()),
        tuple(_tensor(version.name, name, outputs[tensor]) for name, tensor in given.items()),
        max(sizes),
    )


def _more_than_graph(config: ModelConfig) -> str:
    """What a server that only runs the graph would leave out; empty: nothing."""
    if any(each.preprocess or each.datatype or each.shape for each in config.inputs):
        return "inputs with preprocess, datatype or shape"
    parts: dict[str, Any] = {"state": config.states, "postprocess": config.postprocess, "constants": config.constants}
    return ", ".join(name for name, part in parts.items() if part)


def _tensor(model: str, name: str, value: onnx.ValueInfoProto) -> PeerTensor:
    datatype = _DATATYPES.get(value.type.tensor_type.elem_type)
    if datatype is None:
        raise PeerError(f"model {model}: {value.name} should hold one of {', '.join(DTYPES)}")
    return PeerTensor(name, value.name, datatype, _extents(model, value)[1:])


def _extents(model: str, value: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    if not dims:
        raise PeerError(f"model {model}: {value.name} has no shape in the graph; should have one, with the batch first")
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
