"""Keeps what a tool exported, and what the tool itself answers to a few frames. Every tool's environment has onnx."""

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

MODELS = Path(__file__).parent.parent / "models"

Arrays = Mapping[str, Any]


class Kept:
    """The models of one tool, in `models/TOOL`. What was kept of it before is removed.

    `packages` are the distributions whose versions the table names.
    """

    def __init__(self, tool: str, *packages: str) -> None:
        self._folder = MODELS / tool
        self._about: dict[str, Any] = {"packages": {package: version(package) for package in packages}, "models": {}}
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True)

    def keep(
        self,
        name: str,
        how: str,
        model: onnx.ModelProto | Path,
        frames: Sequence[tuple[Arrays, Arrays]],
        toml: str = "",
    ) -> None:
        """Keeps `model`, exported as `how` says, under `name`.

        Args:
            name: the name of the files.
            how: how the model was exported, for the table.
            model: the model, or its file, beside which external data may lie.
            frames: inputs and outputs of single frames, by the names of the graph, without a batch dimension.
            toml: the model.toml that a user needs, if any.
        """
        if isinstance(model, Path):
            for data in model.parent.glob(f"{model.name}?*"):
                shutil.copy(data, self._folder / data.name)
            model = onnx.load(model, load_external_data=False)
        _forget_places(model)
        (self._folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
        arrays = {}
        for index, (inputs, outputs) in enumerate(frames):
            arrays |= {f"{index}<{tensor}": np.asarray(value) for tensor, value in inputs.items()}
            arrays |= {f"{index}>{tensor}": np.asarray(value) for tensor, value in outputs.items()}
        np.savez_compressed(self._folder / f"{name}.npz", **arrays)
        if toml:
            (self._folder / f"{name}.toml").write_text(toml, "utf-8")
        self._about["models"][name] = how
        about = json.dumps(self._about, indent=2, ensure_ascii=False)
        (self._folder / "about.json").write_text(about + "\n", "utf-8")
        size = sum(file.stat().st_size for file in self._folder.glob(f"{name}.*"))
        print(f"{self._folder.name}/{name}: {size:,} bytes, {len(frames)} frames")


def _forget_places(model: onnx.ModelProto) -> None:
    """Takes out what exporters note of the machine: comments, and stack traces with the paths of the code."""
    parts: list[Any] = [model]
    while parts:
        part = parts.pop()
        for field, value in part.ListFields():
            if field.name in ("doc_string", "metadata_props"):
                part.ClearField(field.name)
            elif field.message_type is not None:
                parts += value if field.is_repeated else [value]
