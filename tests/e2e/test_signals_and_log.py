"""`duly serve` as a process among others: signals, a log that nobody takes, recordings into odd files."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from duly_client import BlockingClient
from duly_sim.simulator.replay import replay
from tests import graphs

X = np.arange(4, dtype=np.float32)
HARMLESS = ["USR2", "ALRM", "VTALRM", "PROF", "IO", "PIPE", "XFSZ", "STKFLT", "RTMIN", "RTMAX"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("process") / "models"
    graphs.save(root, "double", graphs.scaling(), toml="batch_sizes = [1]\n")
    return root


@contextlib.contextmanager
def serve(models: Path, folder: Path, *options: str, **started: Any) -> "Iterator[subprocess.Popen[bytes]]":
    """A server on a socket in `folder`."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(models), "--log-format", "json"]
    command += ["--listen", f"unix:{folder}/duly.sock", *options]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **started) as process:
        try:
            yield process
        finally:
            process.kill()


def asks(folder: Path, frames: int = 1) -> None:
    with (
        BlockingClient(f"unix:{folder}/duly.sock", open_timeout_s=60) as client,
        client.stream("double", budget_ms=60_000) as stream,
    ):
        for _ in range(frames):
            stream.send(X)
            outcome = next(stream)
            assert outcome.ok, outcome.reason


def lines_of(process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    assert process.stderr is not None
    return map(json.loads, process.stderr)


def until(lines: Iterator[dict[str, Any]], event: str) -> dict[str, Any]:
    return next(line for line in lines if line["event"] == event)


def test_signals_lose_no_frame(models: Path, tmp_path: Path) -> None:
    """Of every signal that would end a program: after it, frames are answered as before."""
    record = tmp_path / "record"
    with serve(
        models, tmp_path, "--record", str(record), "--flight-folder", str(tmp_path), stderr=subprocess.PIPE
    ) as server:
        lines = lines_of(server)
        until(lines, "serving")
        workers = psutil.Process(server.pid).children()
        with (
            BlockingClient(f"unix:{tmp_path}/duly.sock") as client,
            client.stream("double", budget_ms=60_000) as stream,
        ):
            for name in (*HARMLESS, "HUP", "USR1"):  # as a terminal does, to all processes of the group
                for process in (server.pid, *(worker.pid for worker in workers)):
                    os.kill(process, getattr(signal, f"SIG{name}"))
                stream.send(X)
                assert next(stream).ok, name
            server.send_signal(signal.SIGTSTP)
            server.send_signal(signal.SIGCONT)
            flight = Path(until(lines, "flight recording written")["file"])  # which a thread does in its own time
            record.rename(tmp_path / "moved")
            server.send_signal(signal.SIGHUP)
            until(lines, "reloading")
            stream.send(X)
            assert next(stream).ok
        assert psutil.Process(server.pid).children() == workers
        workers[0].kill()
        incident = until(lines, "flight recording written")
        assert incident["why"] == "worker-ended"
        server.send_signal(signal.SIGQUIT)
        assert server.wait() == 0
    assert flight.parent == tmp_path
    for part in (flight, Path(incident["file"]), tmp_path / "moved", record):
        replayed = replay(part)
        assert replayed.difference is None
        assert replayed.frames > 0, part


def test_a_terminal_that_is_gone_drains(models: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    with serve(
        models,
        tmp_path,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    ) as server:
        os.close(slave)
        while b'"serving"' not in os.read(master, 65_536):
            pass
        os.close(master)
        assert server.wait() == 0


def test_asked_thrice_while_it_loads(models: Path, tmp_path: Path) -> None:
    with serve(models, tmp_path, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        for line in server.stderr:
            if json.loads(line)["event"] == "loading":
                break
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            with contextlib.suppress(ProcessLookupError):
                server.send_signal(signum)
        rest = server.stderr.read()
        assert "Traceback" not in rest
        assert server.wait() == 1


def test_nobody_waits_for_the_log_or_the_recording(models: Path, tmp_path: Path) -> None:
    """The log goes to a terminal of which somebody has pressed Ctrl-S, and the recording into a pipe whose reader does
    not read, which is full after some 200 frames.
    """
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    master, slave = pty.openpty()
    termios.tcflow(slave, termios.TCOOFF)
    with serve(models, tmp_path, "--record", str(fifo), stderr=slave) as server:
        asks(tmp_path, frames=400)
        server.send_signal(signal.SIGHUP)
        asks(tmp_path)
        assert os.get_blocking(slave), "it belongs to whoever started the server, too"
        server.terminate()
        assert server.wait() == 0
    for file in (reader, master, slave):
        os.close(file)
