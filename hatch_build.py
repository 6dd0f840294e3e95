"""Makes wheels with compiled modules where DULY_COMPILE=1 is set (`make wheel`), and pure ones otherwise."""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))


def _compiles() -> bool:
    return os.environ.get("DULY_COMPILE") == "1"


class CompiledModules(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Returns what a wheel is built with: the compiler that is tested, and what it reads the types of."""
        if not _compiles():
            return []
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        tools = [each for each in extras["dev"] if each.startswith(("mypy==", "types-"))]
        return [*project["dependencies"], *extras["server"], *tools, "setuptools"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not _compiles() or version == "editable":
            return
        from compile_modules import compile_in

        self._folder = tempfile.mkdtemp(prefix="duly-compiled-")
        server = Path(self._folder, "server")
        shutil.copytree(ROOT / "server", server, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        try:
            made = compile_in(server)
        except subprocess.CalledProcessError as error:
            self.app.abort(f"{error.stdout or ''}{error.stderr or ''}{error}")
            return
        build_data["force_include"] |= {str(file): str(file.relative_to(server)) for file in made}
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)
