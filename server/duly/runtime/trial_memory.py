"""What is remembered of trials when the server starts again: which version of a model was active, and which versions
did not pass. It is one small file of JSON in `state_folder`; without that nothing is remembered.

    {"active": {"detector": "3"}, "ended": {"detector/4": {"stage": "ROLLED_BACK", "reason": "...", "unix_s": 1764}}}

Writing it is the work of a thread, and never waited for. It is written anew each time, beside the old one, and put in
its place by a rename. A file that cannot be read counts as none, and is said so once.
"""

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from duly.models.repository import ModelVersion
from duly.trials.trial import Stage

_log = structlog.get_logger("duly.trials")

FILE = "trials.json"
ENDED_MAX = 256
"""So many versions that did not pass are remembered; the oldest are forgotten."""
ACTIVE_MAX = 1024
"""Of so many models it is remembered which version was active."""
FILE_BYTES_MAX = 1 << 20
"""A larger file is not read."""
REASON_CHARS_MAX = 400
"""Longer reasons are cut off."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the trial of a version ended that did not pass."""

    stage: Stage
    reason: str
    unix_s: int


class StateInUse(Exception):
    """Another server remembers in the same folder. The text says what would be right."""


class TrialMemory:
    def __init__(self, folder: Path | None) -> None:
        """`folder`: it must exist; None: nothing is remembered when the server ends."""
        self._path = folder / FILE if folder is not None else None
        self._active: dict[str, str] = {}
        self._ended: dict[str, Ended] = {}
        self._writing: asyncio.Task[None] | None = None
        self._again = False
        self._lock = -1
        if self._path is not None:
            self._read(self._path)

    def keep(self) -> None:
        """Keeps other servers from the folder until `close`, also where this process dies. Raises StateInUse, or
        OSError where the folder is gone.
        """
        if self._path is None:
            return
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StateInUse("another server remembers in this folder: give each one of its own") from None
        self._lock = descriptor

    @property
    def lasts(self) -> bool:
        """Whether it is kept when the server ends."""
        return self._path is not None

    def ended(self, key: str) -> Ended | None:
        """How the trial of that version, NAME/VERSION, ended; None: it passed, or there was none."""
        return self._ended.get(key)

    def not_passed(self, key: str, stage: Stage, reason: str) -> None:
        self._ended.pop(key, None)
        self._ended[key] = Ended(stage, reason[:REASON_CHARS_MAX], int(time.time()))
        while len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        self._write_soon()

    def tried_again(self, key: str) -> None:
        """Forgets how a trial ended before, as there is another one by hand, or somebody has activated the version."""
        if self._ended.pop(key, None) is not None:
            self._write_soon()

    def activated(self, name: str, version: str) -> None:
        if self._active.get(name) != version:
            self._active.pop(name, None)
            self._active[name] = version
            while len(self._active) > ACTIVE_MAX:
                del self._active[next(iter(self._active))]
            self._write_soon()

    def first(self, versions: Sequence[ModelVersion]) -> Sequence[ModelVersion]:
        """Returns those of a model's versions, the newest first, that may be loaded at the start. A model with [trial]
        goes on with the version that was active; what came since is tried as if it had come now. Versions that did not
        pass stay out, unless there are no others.
        """
        if not versions or versions[0].config.trial is None:
            return versions
        was_active = self._active.get(versions[0].name)
        if was_active is not None and any(version.version == was_active for version in versions):
            self._say_what_waits([version for version in versions if int(version.version) > int(was_active)])
            return [version for version in versions if int(version.version) <= int(was_active)]
        passed = [version for version in versions if version.key not in self._ended]
        return passed or versions

    def _say_what_waits(self, newer: Sequence[ModelVersion]) -> None:
        """Says that versions, the newest first, are not loaded before they are tried, as far as they may still pass."""
        waiting = [version for version in newer if version.key not in self._ended]
        if waiting:
            name, newest = waiting[0].name, waiting[0].version
            _log.warning(
                "newer versions wait for a trial, the one that was active goes on",
                model=name,
                versions=",".join([version.version for version in waiting]),
                how=f"--watch activate tries the newest; by hand: duly models try {name} {newest}",
            )

    async def close(self) -> None:
        """Waits until everything is written."""
        if self._writing is not None:
            await self._writing
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _write_soon(self) -> None:
        self._again = True
        if self._path is not None and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().create_task(self._write(self._path), name="file of trials")

    async def _write(self, path: Path) -> None:
        while self._again:
            self._again = False
            ended = {
                key: {"stage": each.stage.name, "reason": each.reason, "unix_s": each.unix_s}
                for key, each in self._ended.items()
            }
            text = json.dumps({"active": self._active, "ended": ended}, indent=1, ensure_ascii=False)
            try:
                await asyncio.to_thread(_put, path, text)
            except OSError as error:
                _log.error("the file of trials cannot be written", file=path.name, reason=error.strerror)

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                contents = file.read(FILE_BYTES_MAX + 1)
            if len(contents) > FILE_BYTES_MAX:
                raise ValueError(f"more than {FILE_BYTES_MAX} bytes")
            self._take(json.loads(contents))
        except FileNotFoundError:
            return
        except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._active, self._ended = {}, {}
            _log.error("the file of trials cannot be read, nothing is remembered", file=path.name, reason=str(error))

    def _take(self, read: Any) -> None:
        self._active = {str(name): str(int(version)) for name, version in list(read["active"].items())[-ACTIVE_MAX:]}
        self._ended = {
            str(key): Ended(Stage[each["stage"]], str(each["reason"])[:REASON_CHARS_MAX], int(each["unix_s"]))
            for key, each in list(read["ended"].items())[-ENDED_MAX:]
        }


def _put(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    with beside.open("w", encoding="utf-8", errors="replace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
