"""The example of docs/fusion.md runs as it stands there, against a real server."""

import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.documents.pages import ROOT
from tests.e2e.serving import serving

EXAMPLE = str(ROOT / "clients/python/examples/rig.py")


async def test_two_cameras_run_together_and_a_lost_picture_is_told(tmp_path: Path) -> None:
    making = await create_subprocess_exec(sys.executable, EXAMPLE, "model", str(tmp_path))
    assert await making.wait() == 0
    async with serving(tmp_path) as app:
        sending = await create_subprocess_exec(
            sys.executable, EXAMPLE, "send", app.address, "--seconds", "2", stdout=PIPE
        )
        told, _ = await sending.communicate()
    assert sending.returncode == 0
    lines = told.decode().splitlines()
    assert {line.split()[0] for line in lines} <= {"ON_TIME", "LATE", "EXPIRED", "SUPERSEDED"}
    joined = [line for line in lines if " with right " in line]
    assert joined
    lost = [line for line in lines if "input 'right'" in line]
    assert lost, "the right camera loses a picture now and then"
    assert len(lines) == len({tuple(line.split()[1:3]) for line in lines}), "each frame is told of once"
