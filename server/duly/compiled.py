"""What of the server is compiled where it was installed so: the modules that every frame passes.

They are plain Python, and are compiled by mypyc as they are, in place (`make core`) or for a wheel (`make wheel`).
Compiled and not, they do the same; frames take less time in the former. With DULY_COMPILED=0 in the environment of a
command its own process uses the sources all the same, such as to tell whether something is the compiler's fault.

What serves calls stays Python: compiled, some calls never ended whose clients had gone. So does what tests put faults
into, the driver and a worker as this process sees it, though compiled they would take two microseconds less a frame.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path

MODULES = (
    "core",
    "counts",
    "rpc.duly_v1.codec",
    "rpc.duly_v1.common_frames",
    "rpc.duly_v1.outcome_writer",
    "rpc.duly_v1.taking",
    "rpc.kserve.classification",
    "rpc.kserve.common_requests",
    "rpc.kserve.parameters",
    "rpc.kserve.replies",
    "rpc.kserve.request_stream",
    "rpc.kserve.requests",
    "rpc.kserve.tensors",
    "rpc.local.areas",
    "rpc.local.frames",
    "rpc.local.incoming",
    "rpc.local.outcomes",
    "rpc.local.outgoing",
    "rpc.local.packets",
    "rpc.varints",
    "runtime.answers",
    "runtime.awake",
    "runtime.blame",
    "runtime.delivery",
    "runtime.facts",
    "runtime.held_frames",
    "runtime.outcome",
    "runtime.recorder",
    "runtime.recording_lines",
    "runtime.shared_memory",
    "runtime.slot_filling",
    "runtime.slots",
    "runtime.staged_rows",
    "runtime.worker_port",
    "streams.clock",
    "streams.inputs",
    "streams.loop_lag",
    "streams.memory",
    "streams.ordering",
    "streams.outbox",
    "streams.results",
    "streams.stream",
    "streams.verdict",
    "worker.channel",
    "worker.model",
    "worker.shared_frames",
    "worker.slot_layout",
)
"""The modules, and the packages all of whose modules are, below `duly`."""
_HERE = Path(__file__).parent


def sources() -> list[Path]:
    """Returns the source files of what is compiled, in order. A package's `__init__` is none of them."""
    files: list[Path] = []
    for name in MODULES:
        place = _HERE.joinpath(*name.split("."))
        files += sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return [file for file in files if file.name != "__init__.py"]


def told() -> str:
    """Returns in a word whether it is compiled: "yes", "no", or how much of it where only a part is."""
    all_of_it = sources()
    there = sum(_is_compiled(file) for file in all_of_it)
    return {0: "no", len(all_of_it): "yes"}.get(there, f"{there} of {len(all_of_it)} modules")


class _Sources(MetaPathFinder):
    """Finds the sources of modules that are compiled."""

    def __init__(self) -> None:
        self._files = {_module(file): file for file in sources()}

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        file = self._files.get(fullname)
        return spec_from_file_location(fullname, file) if file is not None else None


def choose() -> None:
    """Sees to it that modules which are imported from now on are not compiled ones, where the environment says so."""
    if os.environ.get("DULY_COMPILED") == "0":
        sys.meta_path.insert(0, _Sources())


def _module(source: Path) -> str:
    return ".".join(("duly", *source.relative_to(_HERE).with_suffix("").parts))


def _is_compiled(source: Path) -> bool:
    """Whether the module would be imported from anything but its source. Nothing is imported but its packages."""
    spec = find_spec(_module(source))
    return spec is not None and spec.origin is not None and not spec.origin.endswith(".py")
