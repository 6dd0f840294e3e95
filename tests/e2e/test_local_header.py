"""The header for drivers, clients/cpp/duly_local.h: compiled as C and as C++, against a real server."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import graphs
from tests.e2e.serving import serving

FOLDER = Path(__file__).parents[2] / "clients" / "cpp"
FLAGS = ("-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
COMPILERS = {"c": ("cc", "-std=gnu11"), "c++": ("c++", "-std=c++17", "-x", "c++")}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a UNIX socket."""
    with tempfile.TemporaryDirectory(prefix="duly-") as name:
        yield Path(name)


@pytest.mark.parametrize("language", COMPILERS)
async def test_the_example_streams_frames(folder: Path, language: str) -> None:
    compiler, *flags = COMPILERS[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    program = folder / "example"
    command = [compiler, *flags, *FLAGS, str(FOLDER / "local_example.c"), "-o", str(program)]
    compiled = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    graphs.save(folder / "models", "double", graphs.scaling())
    graphs.save(folder / "models", "zeros", graphs.zeros())

    async def run(model: str, frames: np.ndarray) -> tuple[int, list[str], str]:
        process = await asyncio.create_subprocess_exec(
            program, app.local_path, model, str(frames[0].nbytes), stdin=-1, stdout=-1, stderr=-1
        )
        out, error = await process.communicate(frames.tobytes())
        assert process.returncode is not None
        return process.returncode, out.decode().splitlines(), error.decode()

    async with serving(folder / "models", local=str(folder / "s")) as app:
        frames = np.arange(400, dtype=np.float32).reshape(100, 4)
        status, lines, error = await run("double", frames)
        assert (status, error) == (0, "")
        assert sorted(lines) == sorted(
            f"frame {n + 1} status 1 output 0: {(2 * frame).tobytes().hex(' ')} " for n, frame in enumerate(frames)
        )
        status, lines, error = await run("double", np.full((1, 3), np.nan, np.float32))
        assert (status, error) == (0, "")
        assert "status 7" in lines[0]  # INVALID
        assert "12 bytes" in lines[0]
        status, lines, error = await run("zeros", np.int64([[3_000_000], [2]]))  # results that come in pieces
        assert (status, error, len(lines)) == (0, "", 2)
        assert lines[0].startswith("frame 1 status 1 output 0: 00 00")
        status, lines, error = await run("nothing", frames)
        assert (status, lines) == (1, [])
        assert "MODEL_NOT_FOUND" in error
