"""The folder of a training: what a trainer, built in or the user's own, is given, and what it must make.

    JOB/job.json            what is to be done, the fields of `Job`
    JOB/from/...            the files of the version that the new one is made from
    JOB/frames/NNNNNN.npz   frames with their labels, segments as the store has them (`duly.sampling.files.read_file`)
    JOB/frames.json         of each frame, in the same order: its class, its weight, and whether it is an old one
    JOB/out/                where the files of the new version are to lie at the end: the graph of each variant
    JOB/not_made.json       may say why variants other than the first have none: {"int8": "..."}

A trainer gets the folder as its last argument. It has succeeded if it ends with status 0. The last lines of what it
prints are told where it does not.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from duly.models.folders import CHECKS_FOLDER
from duly.models.manifest import MANIFEST_FILE, SIGNATURE_FILE
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig
from duly.sampling.files import read_file, write
from duly.sampling.sample import Sample

LEARNED_FILE = "learned.json"
"""Lies in the folder of a version that a learner made, and says how."""
SEGMENT_FRAMES = 256
_NOT_MADE_BYTES_MAX = 65_536
NOT_MADE_FILE = "not_made.json"
_OPTIMIZE_FILE = "optimize.json"
_NOT_COPIED = (CHECKS_FOLDER, MANIFEST_FILE, SIGNATURE_FILE, "model.sig", LEARNED_FILE, _OPTIMIZE_FILE)
"""What is about the answers or the very bytes of one version alone."""


@dataclass(frozen=True, slots=True)
class Job:
    model: str
    version: str
    """The version that the new one is made from."""
    scores: str
    """The output that has the scores."""
    classes: int
    logits: bool
    """Whether scores are before softmax or sigmoid: some lie outside of 0..1."""
    seed: int
    config: dict[str, Any]
    """The settings of model.toml."""

    @property
    def model_config(self) -> ModelConfig:
        return ModelConfig.model_validate(self.config)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A frame to train on."""

    sample: Sample
    label: int
    weight: float
    old: bool


def write_job(folder: Path, job: Job, version: ModelVersion, lessons: Sequence[Lesson]) -> None:
    """Makes the folder, in place of one that is there. Raises OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "frames").mkdir(parents=True)
    (folder / "out").mkdir()
    copy_version(version.folder, folder / "from")
    for config in ("model.toml", "config.pbtxt"):
        if (version.model_folder / config).is_file():
            shutil.copyfile(version.model_folder / config, folder / config)
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    told = [{"label": each.label, "weight": each.weight, "old": each.old} for each in lessons]
    (folder / "frames.json").write_text(json.dumps(told))
    for number, part in enumerate(segments([each.sample for each in lessons])):
        write(folder / "frames" / f"{number:06}.npz", part, segment=True)


def segments(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Cuts frames into runs that fit into a segment: of one form, with the same arrays."""
    parts: list[list[Sample]] = []
    for sample in samples:
        last = parts[-1] if parts else []
        fits = last and last[0].form == sample.form and last[0].arrays.keys() == sample.arrays.keys()
        if fits and len(last) < SEGMENT_FRAMES:
            last.append(sample)
        else:
            parts.append([sample])
    return parts


def read_job(folder: Path) -> tuple[Job, list[Lesson]]:
    """Reads what `write_job` has written. Raises OSError, ValueError, or BrokenFile."""
    job = Job(**json.loads((folder / "job.json").read_text()))
    samples = [sample for path in sorted((folder / "frames").glob("*.npz")) for sample in read_file(path)]
    told = json.loads((folder / "frames.json").read_text())
    return job, [
        Lesson(sample, int(each["label"]), float(each["weight"]), bool(each["old"]))
        for sample, each in zip(samples, told, strict=True)
    ]


def not_made(folder: Path) -> dict[str, str]:
    """Returns why the trainer has made no graph of variants, as it has said. What makes no sense is none."""
    try:
        with (folder / NOT_MADE_FILE).open("rb") as file:
            said = json.loads(file.read(_NOT_MADE_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(name): str(reason) for name, reason in said.items()} if isinstance(said, dict) else {}


def copy_version(source: Path, target: Path) -> None:
    """Copies the files of a version that a new one of the same kind may need too. Raises OSError."""
    shutil.copytree(source, target, ignore=lambda folder, names: [name for name in names if name in _NOT_COPIED])
