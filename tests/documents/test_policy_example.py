"""The example of docs/chunks.md runs as it stands there, against a real server."""

import re
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.documents.pages import ROOT
from tests.e2e.serving import serving

EXAMPLE = str(ROOT / "clients/python/examples/policy.py")


async def test_a_robot_is_driven_by_chunks(tmp_path: Path) -> None:
    making = await create_subprocess_exec(sys.executable, EXAMPLE, "model", str(tmp_path))
    assert await making.wait() == 0
    async with serving(tmp_path) as app:
        running = await create_subprocess_exec(
            sys.executable, EXAMPLE, "run", app.address, "--seconds", "2", stdout=PIPE
        )
        told, _ = await running.communicate()
    assert running.returncode == 0
    said = re.fullmatch(r"(\d+) ticks of 20 ms, (\d+) of them without an action\n", told.decode())
    assert said is not None, told
    assert int(said[1]) > int(said[2])
