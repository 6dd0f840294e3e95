"""Runs `duly demo` as a user does, and reads what it printed."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "duly.cli", "demo", *arguments]


def environment(**variables: str) -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("server", "clients/python"))
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "100", **variables}


def paragraphs(output: str) -> dict[str, str]:
    """The summary at the end: text by heading, each in one line."""
    summary = output.rstrip().rsplit("\n\n", 1)[1]
    found = re.findall(r"^(\S.*?)  +(\S.*(?:\n +\S.*)*)", summary, re.MULTILINE)
    return {heading: " ".join(text.split()) for heading, text in found}
