"""Variants that the version has already, besides the most accurate one: they are judged as those that are made."""

import shutil
from pathlib import Path

import onnx

from duly.models.repository import ModelVersion
from duly.models.spec import Variant
from duly_learn.graphs.describe import external_files
from duly_learn.optimize.step import Candidate, OptimizeSource


class Existing:
    def __init__(self, version: ModelVersion, variant: Variant) -> None:
        self.name = variant.name
        self._version = version
        self._variant = variant

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        graph = self._version.folder / self._variant.file
        for name in external_files(onnx.load(str(graph), load_external_data=False)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(graph.parent / name, folder / name)
        shutil.copyfile(graph, folder / graph.name)
        return Candidate(graph.name, f"is a variant of {self._version.key} already")
