"""A newcomer's first minutes: a fresh clone, an empty home, the README's two commands.

Needs git and the package registry, from which everything is installed anew into the clone's own environment.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What a newcomer's shell has; above all nothing that points to this checkout.
INHERITED = ("PATH", "LANG", "TERM")
REGISTRY = ("PIP_", "SSL_", "REQUESTS_", "HTTP", "http", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="not a git checkout")
def test_the_two_commands_of_the_readme_work(tmp_path: Path) -> None:
    commands = re.findall(r"^(make \w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)[:2]
    assert commands == ["make demo", "make test"]
    clone, home = tmp_path / "duly", tmp_path / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(REGISTRY)}
    environment |= {"HOME": str(home)}
    path = environment["PATH"].split(os.pathsep)
    environment["PATH"] = os.pathsep.join(part for part in path if not part.startswith(str(ROOT)))

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    shown = run("make", "demo", "DEMO_ARGS=--seconds 3")
    assert "microphone" in shown
    tested = run("make", "test", "PYTEST_ARGS=-q tests/core/test_stories.py")
    assert re.search(r"\d+ passed", tested)
