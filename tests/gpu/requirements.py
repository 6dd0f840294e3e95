"""What a run needs to have installed, read from pyproject.toml."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
EXTRAS = ("load", "test")
"""Of duly, beside the one that brings ONNX Runtime."""
BUILDS = ("hatchling>=1.27", "editables>=0.3")
"""What makes the checkout importable, as an editable installation. Without the network pip takes it from the wheels."""
CUDA_LIBRARIES = "cuda,cudnn"
"""Extras of onnxruntime-gpu that bring what of CUDA it calls."""
TENSORRT = "tensorrt-cu13-libs>=10.13,<11"
"""TensorRT's libraries, as ONNX Runtime's provider needs them: libnvinfer.so.10. On PyPI there is no wheel of it, only
a file that fetches one from NVIDIA's own index."""


def requirements(extra: str, cuda_libraries: bool, tensorrt: bool) -> list[str]:
    """Returns what to ask pip for beside duly itself. `extra`: `gpu`, or `cpu` for rehearsals."""
    wanted = dict.fromkeys(_of_duly(extra, *EXTRAS))
    wanted |= dict.fromkeys(BUILDS)
    if cuda_libraries:
        wanted |= {f"onnxruntime-gpu[{CUDA_LIBRARIES}]": None}
    if tensorrt:
        wanted |= {TENSORRT: None}
    return list(wanted)


def _of_duly(*extras: str) -> Iterator[str]:
    """The requirements of duly with these extras, in which other extras of its own are resolved."""
    project = _project()
    yield from project["dependencies"]
    for extra in extras:
        for each in project["optional-dependencies"][extra]:
            own = re.fullmatch(r"duly\[([a-z,-]+)\]", each)
            if own is None:
                yield each
            else:
                yield from _of_duly(*own[1].split(","))


def _project() -> dict[str, dict[str, list[str]]]:
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        project: dict[str, dict[str, list[str]]] = tomllib.load(file)["project"]
    return project
