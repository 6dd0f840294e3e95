"""The servers under measurement."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path

from duly_load.targets.duly_and_floor import FLOOR, OwnServer, running


def null_echo(folder: Path) -> AbstractContextManager[OwnServer]:
    """The floor: no model runs."""
    return running("null_echo", FLOOR, folder)


def duly(models: Path, folder: Path) -> AbstractContextManager[OwnServer]:
    """duly with its defaults on one CPU lane."""
    command = [sys.executable, "-m", "duly.cli", "serve", "--models", str(models), "--lanes", "cpu:0"]
    return running("duly", command, folder)
