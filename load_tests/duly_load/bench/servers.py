"""Servers under measurement, and what they take of memory."""

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psutil

from duly_load.targets.duly_and_floor import FLOOR, OwnServer, running
from duly_load.targets.peer import PeerError


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree, bytes."""

    rss_bytes: int
    """Shared pages counted once in every process that maps them."""
    pss_bytes: int | None
    """Shared pages divided among those that map them; None: may not be read here."""


def null_echo(folder: Path) -> AbstractContextManager[OwnServer]:
    """The floor: no model runs."""
    return running("null_echo", FLOOR, folder)


def duly(models: Path, folder: Path) -> AbstractContextManager[OwnServer]:
    """duly with its defaults on one CPU lane."""
    command = [sys.executable, "-m", "duly.cli", "serve", "--models", str(models), "--lanes", "cpu:0"]
    return running("duly", command, folder)


def memory_of(server: OwnServer) -> Memory:
    """Of the server and all its workers now. Raises PeerError if one of them is gone."""
    tree = server.tree()
    try:
        rss_bytes = sum(process.memory_info().rss for process in tree)
    except psutil.NoSuchProcess as error:
        raise PeerError(f"a process of {server.version} ended while it was measured") from error
    try:
        return Memory(rss_bytes, sum(process.memory_full_info().pss for process in tree))
    except psutil.AccessDenied:
        return Memory(rss_bytes, None)
