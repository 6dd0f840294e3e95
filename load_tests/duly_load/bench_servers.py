"""Servers under measurement: each a process of its own on a UNIX socket, stopped whatever happens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

READY_TIMEOUT_S = 180.0
"""Loading a model warms it up and profiles it at every batch size."""
STOP_TIMEOUT_S = 20.0
"""The server's own grace for a drain is 10 s."""
POLL_S = 0.1
LOG_TAIL_LINES = 20


class ServerError(Exception):
    """A server did not start or did not live: says which, why, and the end of its log."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree, bytes."""

    rss_bytes: int
    """Shared pages counted once in every process that maps them."""
    pss_bytes: int | None
    """Shared pages divided among those that map them; None: may not be read here."""


class ServerProcess:
    """A server that runs and is ready inside a `with` block. Raises ServerError where it does not get ready."""

    def __init__(self, name: str, command: list[str], folder: Path, environ: Mapping[str, str]) -> None:
        """`command` is given `--listen unix:...` with a socket in `folder`, where its log goes too."""
        self.name = name
        self.target = f"unix:{folder / name}.sock"
        self._command = [*command, "--listen", self.target]
        self._log = folder / f"{name}.log"
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ServerProcess":
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then stops the whole group.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def memory(self) -> Memory:
        """Memory of the server and all its workers now. Raises ServerError if it is gone."""
        assert self._process is not None
        try:
            parent = psutil.Process(self._process.pid)
            tree = [parent, *parent.children(recursive=True)]
            rss_bytes = sum(process.memory_info().rss for process in tree)
        except psutil.NoSuchProcess as error:
            raise ServerError(f"{self.name}: a process of it ended while it was measured{self._log_tail()}") from error
        try:
            return Memory(rss_bytes, sum(process.memory_full_info().pss for process in tree))
        except psutil.AccessDenied:
            return Memory(rss_bytes, None)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        give_up_s = time.monotonic() + READY_TIMEOUT_S
        with grpc.insecure_channel(self.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < give_up_s:
                if (status := self._process.poll()) is not None:
                    raise ServerError(f"{self.name}: ended with status {status} before it was ready{self._log_tail()}")
                try:
                    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0, wait_for_ready=True)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.RpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        raise ServerError(f"{self.name}: its health check failed: {error.details()}") from error
                time.sleep(POLL_S)
        raise ServerError(f"{self.name}: not ready within {READY_TIMEOUT_S:g} s{self._log_tail()}")

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
        finally:
            with suppress(ProcessLookupError):  # a server that did not stop, workers that outlived it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "; the end of its log:\n  " + "\n  ".join(lines) if lines else "; its log is empty"


def null_echo(folder: Path) -> ServerProcess:
    """The floor: no model runs."""
    return ServerProcess("null_echo", [sys.executable, "-m", "duly_load.null_echo"], folder, os.environ)


def duly(models: Path, folder: Path) -> ServerProcess:
    """duly with its defaults on one CPU lane; settings in this process's environment do not reach it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DULY_")}
    command = [sys.executable, "-m", "duly.cli", "serve", "--models", str(models), "--lanes", "cpu:0"]
    return ServerProcess("duly", command, folder, environ)
