"""A real server in a process of its own, as it is seen from outside: its address, processes, memory and descriptors."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 30.0
LOOK_S = 0.02
PLAIN = ("-m", "duly.cli")
LYING = ("-m", "tests.chaos.lying_server")
"""A server whose workers misbehave on demand, see `lying_worker`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server uses, its workers included where nothing else is said."""

    rss_bytes: int
    """Of the serving process alone."""
    workers_rss_bytes: int
    descriptors: int
    """Of the serving process alone."""
    processes: int
    shared_bytes: int
    """The memory files that the serving process has mapped, by their size."""


def free_address(host: str = "127.0.0.1") -> str:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def _is_taken(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 0.2).close()
    except OSError:
        return False
    return True


class Rig:
    """Used as `async with Rig(models, folder) as rig`. It is stopped with SIGTERM at the end."""

    def __init__(
        self,
        models: Path,
        folder: Path,
        *options: str,
        entry: Sequence[str] = PLAIN,
        env: dict[str, str] | None = None,
        wrap: Sequence[str] = (),
        listen: str = "127.0.0.1:0",
        mute: int | None = None,
        hard_files: int | None = None,
    ) -> None:
        """`wrap`: what stands before the command, such as `ip netns exec NAME`. `mute`: where the log goes instead of a
        file; `listen` must state a port then. `hard_files`: how many files the server may have open.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "server.log"
        self._mute = mute
        self._listen = listen
        if hard_files:
            wrap = (*wrap, "prlimit", f"--nofile={hard_files}:{hard_files}")
        self._folder = folder
        command = [*wrap, sys.executable, "-P", *entry, "serve", "--models", str(models), "--listen", listen]
        self._command = [*command, "--threads", "1", "--log-format", "json", *options]
        paths = [str(ROOT / part) for part in ("server", "clients/python", "load_tests", ".")]
        self._env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "ORT_DISABLE_TELEMETRY": "1", **(env or {})}
        self.address = ""
        self.metrics = ""
        self.stopped_s: float | None = None
        """How long the server took from SIGTERM to its end; None: it had to be killed, or still runs."""
        self.status: int | None = None
        self._events: list[dict[str, Any]] = []
        self._read_bytes = 0
        """How much of the log has been read into `_events`."""

    async def __aenter__(self) -> "Rig":
        await self.start()
        return self

    async def start(self) -> None:
        with open(self.log, "ab") as log:
            out = log if self._mute is None else self._mute
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stderr=out, stdout=out, env=self._env, cwd=self._folder
            )
        end_s = time.monotonic() + START_SECONDS_MAX
        while not self.address:
            if self._mute is not None and _is_taken(self._listen):
                self.address = self._listen
            if self._process.poll() is not None or time.monotonic() > end_s:
                self._process.kill()
                raise RuntimeError(f"the server did not start: {self.tail()}")
            await asyncio.sleep(LOOK_S)
            for line in self.events("serving"):
                self.address = line["address"]
                self.metrics = line.get("metrics") or ""

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Returns the log lines with one of these texts; all without names."""
        with self.log.open("rb") as log:
            log.seek(self._read_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # it is still being written
                self._read_bytes += len(line)
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict):
                        self._events.append(entry)
        return [entry for entry in self._events if not names or entry.get("event") in names]

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    @property
    def pid(self) -> int:
        """The process id of the serving process."""
        process = psutil.Process(self._process.pid)
        while "serve" not in process.cmdline() or process.name().startswith("ip"):  # wrapped by another command
            process = process.children()[0]
        return process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def workers(self) -> list[int]:
        """Returns the process ids of the workers."""
        found = []
        for child in psutil.Process(self.pid).children(recursive=True):
            try:
                line = child.cmdline()
            except psutil.Error:
                continue
            if any(part in ("duly.worker.main", "tests.chaos.lying_worker") for part in line):
                found.append(child.pid)
        return found

    def usage(self) -> Usage:
        process = psutil.Process(self.pid)
        children = process.children(recursive=True)
        workers = 0
        for child in children:
            try:
                workers += child.memory_info().rss
            except psutil.Error:
                continue
        shared = {}
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                if os.readlink(link).startswith("/memfd:"):
                    shared[link.stat().st_ino] = link.stat().st_size
            except OSError:
                continue
        rss = process.memory_info().rss
        return Usage(rss, workers, process.num_fds(), 1 + len(children), sum(shared.values()))

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        if self.status is not None:
            return
        began_s = time.monotonic()
        if self.alive:
            self.signal(signal.SIGTERM)
        try:
            self.status = await asyncio.to_thread(self._process.wait, STOP_SECONDS_MAX)
            self.stopped_s = time.monotonic() - began_s
        except subprocess.TimeoutExpired:
            for child in psutil.Process(self._process.pid).children(recursive=True):
                child.kill()
            self._process.kill()
            self.status = await asyncio.to_thread(self._process.wait)
