"""One real server for the tests of a module that replay, and the commands as processes of their own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.documents.pages import ROOT
from tests.duly_logs.models import repository
from tests.e2e.serving import serving

PACKAGES = [str(ROOT / part) for part in ("server", "clients/python")]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("models"))


@pytest.fixture
async def server(models: Path) -> AsyncIterator[str]:
    """The address of a real server of the tests' models."""
    async with serving(models, admission="advise") as app:
        yield app.address


@pytest.fixture
def before_packages(tmp_path: Path) -> Path:
    """A folder of modules that commands find before all others."""
    folder = tmp_path / "modules"
    folder.mkdir()
    return folder


async def start(
    command: str, *arguments: object, before: Path | None = None, folder: Path | None = None
) -> asyncio.subprocess.Process:
    """Starts `duly COMMAND`, with the installed packages of the tests."""
    path = [str(before)] if before else []
    given = os.environ.get("PYTHONPATH", "")
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "duly.cli", command, *map(str, arguments)),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, *PACKAGES, given])},
    )


async def run(
    command: str, *arguments: object, before: Path | None = None, folder: Path | None = None
) -> tuple[int | None, str, str]:
    """Exit status, standard output and standard error of `duly COMMAND`."""
    out, err = await (process := await start(command, *arguments, before=before, folder=folder)).communicate()
    return process.returncode, out.decode(), err.decode()
