"""A server's process: started in a session of its own, watched until it is ready, stopped whatever happens."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from duly_load.generator import die_with_parent
from duly_load.targets.peer import PeerError

READY_TIMEOUT_S = 180.0
"""Loading a model may warm it up and profile it at every batch size."""
STOP_TIMEOUT_S = 15.0
"""Longer than duly's own grace for a drain, which is 10 s."""
POLL_S = 0.05
ASK_TIMEOUT_S = 2.0
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 16 << 10


class ServerProcess:
    """A server that runs inside a `with` block, with all processes that it starts; `wait_until` makes sure that it is
    ready. It also ends with the thread that entered the block.
    """

    def __init__(self, name: str, command: list[str], folder: Path, environ: Mapping[str, str]) -> None:
        """Its log goes to `folder`, where it runs."""
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self._folder = folder
        self._environ = environ

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then stops the whole group.
            self._popen = subprocess.Popen(
                [sys.executable, "-I", die_with_parent.__file__, str(os.getpid()), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environ,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(STOP_TIMEOUT_S)
        finally:
            with suppress(ProcessLookupError):  # a server that did not stop, children that outlived it
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()

    @property
    def pid(self) -> int:
        """The process id of the server itself."""
        return self._popen.pid

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Asks again and again. Raises PeerError where the server ends meanwhile or takes too long."""
        give_up_s = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            if ended := self.died():
                raise PeerError(f"{self.name} did not get ready: {ended}")
            if time.monotonic() > give_up_s:
                raise PeerError(f"{self.name} did not get ready within {READY_TIMEOUT_S:g} s{self.log_tail()}")
            time.sleep(POLL_S)

    def tree(self) -> list[psutil.Process]:
        """The server and its children, of all generations, the oldest first. Raises PeerError where it is gone."""
        try:
            server = psutil.Process(self._popen.pid)
            children = server.children(recursive=True)
        except psutil.NoSuchProcess:
            raise PeerError(f"{self.name} is gone: {self.died()}") from None
        began_s: dict[psutil.Process, float] = {}
        for child in children:
            with suppress(psutil.NoSuchProcess):  # it ended just now
                began_s[child] = child.create_time()
        return [server, *sorted(began_s, key=began_s.__getitem__)]

    def cpu_s(self) -> float:
        """CPU time of the server and all its processes since it began, those that ended included. Raises PeerError."""
        total_s = 0.0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):  # it ended just now: its parent counts it from here on
                total_s += sum(process.cpu_times()[:4])  # its own, and that of children it has waited for
        return total_s

    def died(self) -> str:
        """How it ended, with the end of its log; empty while it runs."""
        status = self._popen.poll()
        if status is None:
            return ""
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        return f"{shlex.join(self._command[:4])} ... ended {how}{self.log_tail()}"

    def log_tail(self) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            lines = log.read(LOG_TAIL_BYTES).decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return f"; the end of its log, {self.log}:\n  " + "\n  ".join(lines) if lines else "; its log is empty"


def clean_environ(*prefixes: str) -> dict[str, str]:
    """This process's environment without the variables that begin so: settings in it must not reach a server."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return environ | {"ORT_DISABLE_TELEMETRY": "1"}


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the loopback interface is nobody's proxy's


def ask(port: int, path: str) -> bytes | None:
    """The answer of a server on this machine to GET `path`; None: it does not listen, or says no."""
    try:
        with _opener.open(f"http://127.0.0.1:{port}/{path}", timeout=ASK_TIMEOUT_S) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, OSError, ValueError):
        return None


def models_ready(port: int, names: Iterable[str]) -> bool:
    """Whether a server of the KServe v2 protocol has all these models ready, asked over HTTP at `port`."""
    return all(ask(port, f"v2/models/{name}/ready") is not None for name in names)
