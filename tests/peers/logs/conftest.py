"""The programs that read what duly writes and send what it reads, in build/peers/logs, and a real server of duly's."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.documents.pages import ROOT
from tests.duly_logs.conftest import models, server

__all__ = ["models", "server"]

BIN = ROOT / "build" / "peers" / "logs" / "bin"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.peers)


def peer(program: str, *arguments: object) -> str:
    """Standard output of a program of the peers' environment, which knows nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(BIN / program), *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
