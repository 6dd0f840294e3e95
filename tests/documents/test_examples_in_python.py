"""The examples of docs/fusion.md and docs/chunks.md run as they stand there, against a real server."""

import re
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.documents.pages import ROOT
from tests.e2e.serving import serving


async def run(example: str, command: str, models: Path) -> str:
    """Has an example make its model, and runs its command for two seconds. Returns what it prints."""
    script = str(ROOT / "clients/python/examples" / example)
    making = await create_subprocess_exec(sys.executable, script, "model", str(models))
    assert await making.wait() == 0
    async with serving(models) as app:
        running = await create_subprocess_exec(
            sys.executable, script, command, app.address, "--seconds", "2", stdout=PIPE
        )
        told, _ = await running.communicate()
    assert running.returncode == 0
    return told.decode()


async def test_two_cameras_run_together_and_a_lost_picture_is_told(tmp_path: Path) -> None:
    lines = (await run("rig.py", "send", tmp_path)).splitlines()
    assert {line.split()[0] for line in lines} <= {"ON_TIME", "LATE", "EXPIRED", "SUPERSEDED"}
    joined = [line for line in lines if " with right " in line]
    assert joined
    lost = [line for line in lines if "input 'right'" in line]
    assert lost, "the right camera loses a picture now and then"
    assert len(lines) == len({tuple(line.split()[1:3]) for line in lines}), "each frame is told of once"


async def test_a_robot_is_driven_by_chunks(tmp_path: Path) -> None:
    told = await run("policy.py", "run", tmp_path)
    said = re.fullmatch(r"(\d+) ticks of 20 ms, (\d+) of them without an action\n", told)
    assert said is not None, told
    assert int(said[1]) > int(said[2])
