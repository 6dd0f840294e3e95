"""A client in a process that was forked: it works, or says at once why not."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.scripted_server import ScriptedServer, serving

PROGRAM = '''
import asyncio, os, sys
import numpy as np
from duly_client import BlockingClient, Client

TARGET = sys.argv[1]


def ask():
    with BlockingClient(TARGET) as client, client.stream("echo", budget_ms=60_000) as stream:
        stream.send(np.zeros(4, np.float32))
        return next(stream).status.name


async def ask_async():
    async with Client(TARGET) as client, client.stream("echo", budget_ms=60_000) as stream:
        await stream.send(np.zeros(4, np.float32))
        return (await anext(stream)).status.name


def in_child(call):
    """What the call returns or raises in a forked process."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            told = str(call())
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        print(answer.read(), flush=True)
    os.wait()

'''
SAYS_SO = "ForkedError: this process was forked after gRPC had been used, which does not survive that: start it with "


async def lines_of(tmp_path: Path, program: str) -> list[str]:
    """The lines that a program prints beside a server; gRPC's own words about forks go to its log."""
    (tmp_path / "program.py").write_text(PROGRAM + program)
    async with serving(ScriptedServer()) as target:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(tmp_path / "program.py"),
            target,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


async def test_the_child_of_a_process_that_has_not_used_grpc_works(tmp_path: Path) -> None:
    program = """
made = BlockingClient(TARGET)
in_child(ask)
in_child(lambda: len(made.__enter__().models()))
print(ask())
"""
    assert await lines_of(tmp_path, program) == ["ON_TIME", "1", "ON_TIME"]


@pytest.mark.parametrize("first", ["ask()", "asyncio.run(ask_async())"])
async def test_a_client_that_is_made_in_the_child_says_that_it_cannot_work(tmp_path: Path, first: str) -> None:
    program = f"""
{first}
in_child(ask)
in_child(lambda: asyncio.run(ask_async()))
in_child(lambda: in_child(ask))
print(ask())
"""
    lines = await lines_of(tmp_path, program)
    assert [line.startswith(SAYS_SO) for line in lines] == [True, True, True, False, False], lines
    assert "'spawn' or 'forkserver'" in lines[0]
    assert lines[3:] == ["None", "ON_TIME"], "the parent goes on"


async def test_what_is_open_stays_the_parents(tmp_path: Path) -> None:
    program = """
with BlockingClient(TARGET) as client, client.stream("echo", budget_ms=60_000) as stream:
    in_child(client.models)
    in_child(lambda: stream.send(np.zeros(4, np.float32)))
    in_child(lambda: next(stream))
    in_child(lambda: client.stream("echo").__enter__())
    in_child(client.close)
    in_child(stream.close)
    in_child(lambda: stream.__exit__(None, None, None))
    stream.send(np.zeros(4, np.float32))
    print(next(stream).status.name)
"""
    lines = await lines_of(tmp_path, program)
    assert all(line.startswith(SAYS_SO) for line in lines[:4]), lines
    assert lines[4:] == ["None", "None", "None", "ON_TIME"]


async def test_a_child_that_does_not_use_it_ends_well(tmp_path: Path) -> None:
    """gRPC's own half-made support of forks ended one child in six by SIGSEGV."""
    program = """
def busy():
    for number in range(2000):
        try:
            raise ValueError(f"x{number}")
        except ValueError as error:
            str(error)
    os._exit(7)


with BlockingClient(TARGET) as client, client.stream("echo", budget_ms=60_000) as stream:
    for _ in range(60):
        stream.send(np.zeros(4, np.float32))
        child = os.fork()
        if child == 0:
            busy()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        next(stream)
"""
    assert await lines_of(tmp_path, program) == ["7"] * 60
