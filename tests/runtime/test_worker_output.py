"""What workers print: it reaches the log, and however much it is, no worker waits."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest
import structlog

from duly.runtime.worker_output import TEXT_CHARS_MAX, WorkerOutput

MUCH = "import os\nfor n in range(3000):\n try: os.write({file}, b'x' * 1000 + b'\\n')\n except BlockingIOError: pass\n"


def started(code: str) -> "tuple[subprocess.Popen[bytes], WorkerOutput]":
    output = WorkerOutput("m/1", "cpu:0")
    command = [sys.executable, "-S", "-c", code]
    process = subprocess.Popen(command, stdout=output.writing, stderr=output.writing)
    output.listen()
    return process, output


async def printed(code: str) -> list[Any]:
    with structlog.testing.capture_logs() as lines:
        process, output = started(code)
        while process.poll() is None:
            await asyncio.sleep(0)
        output.end()
        output.end()
    assert all(line.pop("event") == "worker printed" for line in lines)
    return lines


async def test_last_words_are_one_line_of_the_log() -> None:
    (line,) = await printed(
        "import sys; print('to stdout', flush=True); raise SystemExit('\x1b[0;93mthe end\\nof it\x1b[m')"
    )
    assert line == {"model": "m/1", "lane": "cpu:0", "text": "to stdout\nthe end\nof it", "log_level": "info"}


@pytest.mark.parametrize("file", [1, 2])
async def test_much_is_cut_and_holds_up_nobody(file: int) -> None:
    with structlog.testing.capture_logs() as lines:
        process, output = started(MUCH.format(file=file))
        assert process.wait() == 0, "although nobody reads meanwhile"
        output.end()
    (line,) = lines
    assert len(line["text"]) == TEXT_CHARS_MAX
    assert line["characters_left_out"] > 0


async def test_nothing_printed_is_no_line() -> None:
    assert await printed("print()") == []
