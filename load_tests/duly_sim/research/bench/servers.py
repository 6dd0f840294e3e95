"""The servers under measurement, and the models that duly serves there."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx

from duly_load.graphs import MLP, SQUEEZENET, WIDE, Graph
from duly_load.targets.duly_and_floor import FLOOR, TUNED_FLOOR, OwnServer, running
from duly_load.targets.models import THREADS


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A graph and the batch sizes that duly may run it with."""

    graph: Graph
    batch_sizes: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name under which it is served."""
        return self.graph.name

    @property
    def frame_bytes(self) -> int:
        """The size of one frame's payload."""
        return 4 * prod(self.graph.input_shape)

    def file(self, repository: Path) -> Path:
        """The file of its graph within a repository that `write_repository` made."""
        return repository / self.name / "1" / "model.onnx"


SMALL = BenchModel(MLP, (1, 2, 4, 8, 16, 32, 64, 128))
LARGE_INPUT = BenchModel(WIDE, (1, 2, 4, 8))
DEAR = BenchModel(SQUEEZENET, (1, 2, 4))
"""Its frames are dear to receive and to run."""
MODELS = (SMALL, LARGE_INPUT, DEAR)


def write_repository(folder: Path, models: Sequence[BenchModel] = MODELS) -> None:
    """Writes `NAME/1/model.onnx` and `NAME/model.toml` of each model into `folder`, which it makes if need be."""
    for model in models:
        file = model.file(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model.graph.build(), file)
        config = f"batch_sizes = {list(model.batch_sizes)}\nthreads = {THREADS}\n"
        (folder / model.name / "model.toml").write_text(config, encoding="utf-8")


def null_echo(folder: Path) -> AbstractContextManager[OwnServer]:
    """The floor, with gRPC as anybody gets it: no model runs."""
    return running("null_echo", FLOOR, folder)


def tuned_echo(folder: Path) -> AbstractContextManager[OwnServer]:
    """The floor with duly's own settings of the transport."""
    return running("tuned_echo", TUNED_FLOOR, folder)


def duly(models: Path, folder: Path) -> AbstractContextManager[OwnServer]:
    """duly with its defaults on one CPU lane."""
    command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(models), "--lanes", "cpu:0"]
    return running("duly", command, folder)
