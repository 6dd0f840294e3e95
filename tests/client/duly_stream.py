"""`duly stream` as a process of its own, against a scripted server."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from duly.v1 import tensor_pb2
from tests.client.scripted_server import OpenedStream, Script, ScriptedServer, on_time, serving

ROOT = Path(__file__).parents[2]


async def start(*arguments: object) -> asyncio.subprocess.Process:
    path = os.pathsep.join([str(ROOT / "server"), str(ROOT / "clients" / "python")])
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "duly.cli", "stream", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )


async def finished(process: asyncio.subprocess.Process, stdin: bytes = b"") -> tuple[int | None, list[str], str]:
    """(exit status, lines of stdout, stderr)."""
    out, err = await process.communicate(stdin)
    return process.returncode, out.decode().splitlines(), err.decode()


async def stream(script: Script, *arguments: object, stdin: bytes = b"") -> tuple[int | None, list[str], str]:
    async with serving(ScriptedServer(script)) as target:
        return await finished(await start("model", "--server", target, *arguments), stdin)


def answering(*outputs: tensor_pb2.Tensor, **terms: Any) -> Script:
    """Every frame gets these outputs."""

    async def answer(stream: OpenedStream) -> None:
        await stream.greet()
        async for frame in stream.frames():
            outcome = on_time(frame)
            del outcome.outputs[:]
            outcome.outputs.extend(outputs)
            await stream.answer(outcome)

    async def greeted(stream: OpenedStream) -> None:
        greet = stream.greet
        stream.greet = lambda: greet(**terms)  # type: ignore[method-assign]
        await answer(stream)

    return greeted


def tensor(name: str, array: Any, datatype: tensor_pb2.DataType) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(name=name, datatype=datatype, shape=array.shape, data=array.tobytes())
