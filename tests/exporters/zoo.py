"""The models that the tools of `make/` exported, as they are kept in `models/`."""

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

MODELS = Path(__file__).parent / "models"

Tensors = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Exported:
    """One model as a tool wrote it, and what the tool itself answers."""

    tool: str
    name: str
    how: str
    """How it was exported, for the table."""

    @property
    def key(self) -> str:
        """Its name in a repository."""
        return f"{self.tool}.{self.name}"

    @property
    def file(self) -> Path:
        return MODELS / self.tool / f"{self.name}.onnx"

    @property
    def toml(self) -> str:
        """The lines of model.toml that a user needs; empty: none, or none that would help."""
        path = self.file.with_suffix(".toml")
        return path.read_text("utf-8") if path.exists() else ""

    @cached_property
    def graph(self) -> onnx.GraphProto:
        return onnx.load(self.file, load_external_data=False).graph

    @cached_property
    def frames(self) -> list[tuple[Tensors, Tensors]]:
        """Inputs of single frames, and the answers of the tool to each alone."""
        frames: dict[int, tuple[Tensors, Tensors]] = {}
        with np.load(self.file.with_suffix(".npz")) as arrays:
            for key in arrays.files:
                outgoing = ">" in key.split("<")[0]
                index, _, tensor = key.partition(">" if outgoing else "<")
                frames.setdefault(int(index), ({}, {}))[outgoing][tensor] = arrays[key]
        return [frames[index] for index in sorted(frames)]

    def put(self, repository: Path, name: str, toml: str) -> None:
        """Puts it into the repository as version 1 of model `name`."""
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        for path in self.file.parent.glob(f"{self.file.name}*"):
            shutil.copy(path, folder)
        (repository / name / "model.toml").write_text(toml, "utf-8")


def packages() -> dict[str, str]:
    """The packages of each tool and their versions, as the table names them."""
    found = {}
    for about in sorted(MODELS.glob("*/about.json")):
        stated = json.loads(about.read_text("utf-8"))["packages"]
        found[about.parent.name] = ", ".join(f"{package} {version}" for package, version in stated.items())
    return found


def exported() -> list[Exported]:
    """All models, by tool."""
    found = []
    for about in sorted(MODELS.glob("*/about.json")):
        models = json.loads(about.read_text("utf-8"))["models"]
        found += [Exported(about.parent.name, name, how) for name, how in models.items()]
    return found
