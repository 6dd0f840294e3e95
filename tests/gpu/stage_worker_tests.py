"""Runs the tests of the worker and of whole servers on the lane: is the graph truly there, is it right in batches, is
what was lost replaced? What each test came to is kept as it comes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from duly.accelerators import TENSORRT
from tests.gpu.providers import check_provider
from tests.gpu.requirements import CHECKOUT
from tests.gpu.stages import Asked

ON_THE_DEVICE = (
    "tests/accelerators/test_served.py",
    "tests/accelerators",
    "tests/worker/test_batches.py",
    "tests/worker/test_bfloat16.py",
)
"""Whole servers first, as they say most; then a worker without a server."""
WITH_TENSORRT = "tests/accelerators/test_tensorrt.py"
REHEARSED = ("tests/worker/test_batches.py",)
"""What stands in their place on the CPU."""
_ALL = "not thorough and not peers and not learn"


def run(asked: Asked) -> None:
    check_provider(asked)
    seen = asked.scratch / f"{asked.key}.jsonl"
    seen.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.gpu.seen_tests", "-p", "no:cacheprovider", "-m", _ALL]
    command += ["--continue-on-collection-errors"]
    if asked.rehearsal and asked.lane == "cpu:0":
        command += REHEARSED
    else:
        files = [WITH_TENSORRT] if asked.provider == TENSORRT else [f"--ignore={WITH_TENSORRT}", *ON_THE_DEVICE]
        command += ["--lane", asked.lane, *files]
    environ = {**os.environ, "SEEN_TESTS": str(seen)}
    with subprocess.Popen(command, cwd=CHECKOUT, env=environ) as process:
        try:
            # Looked at again and again, so that a stage that is stopped has kept what was seen.
            while process.poll() is None:
                try:
                    process.wait(1)
                except subprocess.TimeoutExpired:
                    asked.write(told(_lines(seen)))
        finally:
            process.terminate()
    found = told(_lines(seen))
    asked.write(found)
    if process.returncode:
        bad = [each["test"] for each in found["failures"]]
        raise SystemExit(f"{len(bad)} of {found['collected']} tests failed: {', '.join(bad[:5])}" if bad else 1)


def told(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Returns counts by outcome, and each test that did not pass with the reason."""
    collected, tests = 0, list[dict[str, Any]]()
    for line in lines:
        if "collected" in line:
            collected = int(line["collected"])
        else:
            tests.append(line)
    names = [each["test"] for each in tests]
    outcomes = {
        outcome: sum(each["outcome"] == outcome for each in tests) for outcome in ("passed", "failed", "skipped")
    }
    return {
        "collected": collected,
        **outcomes,
        "not reached": max(collected - len({*names}), 0),
        "failures": [each for each in tests if each["outcome"] == "failed"],
        "skips": [each for each in tests if each["outcome"] == "skipped"],
    }


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
