"""The environments of the other sides' software, below build/peers, which `make peers-NAME` makes."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "build" / "peers"


def python_of(name: str) -> Path:
    """The interpreter of an environment."""
    return PEERS / name / "bin" / "python"


def own_path() -> dict[str, str]:
    """The environment variables with which a process finds the packages of this checkout."""
    path = os.pathsep.join(str(ROOT / part) for part in ("server", "clients/python"))
    return {**os.environ, "PYTHONPATH": path, "no_proxy": "127.0.0.1,localhost"}


def plain() -> dict[str, str]:
    """The environment variables of a process that finds nothing of this checkout."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"no_proxy": "127.0.0.1,localhost"}


@contextlib.asynccontextmanager
async def running(*command: object, env: dict[str, str] | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is ended with the context. It has this checkout's packages unless `env` says otherwise."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env or own_path(),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def line_of(process: asyncio.subprocess.Process) -> str:
    """The next line that a process prints. Fails with its standard error where it prints none."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        _, told = await process.communicate()
        raise AssertionError(f"the process ended with {process.returncode}: {told.decode()}")
    return line.decode().strip()


async def lines_of(process: asyncio.subprocess.Process) -> list[str]:
    """All lines that a process prints until it ends well."""
    out, told = await process.communicate()
    assert process.returncode == 0, f"{told.decode()}\n{out.decode()}"
    return out.decode().splitlines()


def command_of(name: str) -> tuple[str, ...]:
    """A gateway's command, by the interpreter that runs the tests."""
    return (sys.executable, "-m", f"duly_gateways.{name}.command")
