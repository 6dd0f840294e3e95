"""The commands of docs/replay.md run as they stand there, one after the other."""

import shlex
import shutil
from pathlib import Path

import pytest

from tests.documents.pages import blocks
from tests.duly_logs.conftest import run
from tests.duly_logs.drives import pictures, ros2_drive


@pytest.mark.thorough
async def test_commands_run(models: Path, server: str, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    ros2_drive(tmp_path / "drive.mcap", pictures(8))
    (tmp_path / "pictures").mkdir()
    for number, jpeg in enumerate(pictures(8)):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(jpeg)
    lines = [line for block in blocks("sh") if block.page == "docs/replay.md" for line in block.text.splitlines()]
    commands = [shlex.split(line.replace("127.0.0.1:8500", server)) for line in lines if "rtsp:" not in line]
    ran = []
    for duly, command, *arguments in (words for words in commands if "/dev/video0" not in words):
        assert duly == "duly"
        status, _, errors = await run(command, *arguments, folder=tmp_path)
        assert status == 0, f"{command} {arguments}: {errors}"
        ran.append(command)
    assert ran == ["replay", "replay", "diff", "replay", "replay", "diff", "stream", "replay"]
    assert (tmp_path / "diff.html").stat().st_size > 10_000
