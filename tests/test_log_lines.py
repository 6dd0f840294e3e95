"""Lines of the log: whoever logs never waits, what is lost is counted, and the next line says so."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from duly import log_lines
from duly.log_lines import LinesFromThread, not_blocking


@contextlib.contextmanager
def full_socket() -> Iterator[int]:
    """What systemd gives, when its journal is stuck."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.send(bytes(4096))
        theirs.setblocking(True)
        yield theirs.fileno()


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


@contextlib.contextmanager
def full_disk() -> Iterator[int]:
    file = os.open("/dev/full", os.O_WRONLY)
    yield file
    os.close(file)


@contextlib.contextmanager
def closed_file() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("what", [full_socket, full_pipe, full_disk, closed_file])
def test_what_nobody_takes_is_lost_and_counted(what: "type[contextlib.AbstractContextManager[int]]") -> None:
    with what() as descriptor:
        lines = LinesFromThread(descriptor)
        for _ in range(3):
            lines.msg("a line")
        lines.flush()
        assert lines.lost_total == 3
        assert lines.note_lost(None, "", {}) == {"lines_lost": 3}


def test_a_disk_that_hangs_stops_the_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it is ready, as files always do."""
    monkeypatch.setattr(log_lines, "WAITING_BYTES_MAX", 100)
    goes_on, written = threading.Event(), []

    def slow(descriptor: int, data: bytes) -> int:
        goes_on.wait()
        written.append(data.decode())
        return len(data)

    reading, writing = os.pipe()
    lines = LinesFromThread(writing)
    with monkeypatch.context() as patch:
        patch.setattr(log_lines.os, "write", slow)
        for number in range(30):
            lines.msg(f"line {number:05}")
        assert lines.lost_total == 20
        goes_on.set()
        lines.flush()
        lines.msg(str(lines.note_lost(None, "", {})))
        lines.flush()
    assert written == [f"line {number:05}\n" for number in range(10)] + ["{'lines_lost': 20}\n"]
    assert lines.note_lost(None, "", {}) == {}
    os.close(reading)
    os.close(writing)


def test_a_pipe_that_is_shared_stays_as_it_is_for_the_others() -> None:
    reading, writing = os.pipe()
    shared = os.dup(writing)
    with not_blocking(writing):
        assert not os.get_blocking(writing)
        assert os.get_blocking(shared)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(4096))
    assert os.get_blocking(writing)
    for descriptor in (reading, writing, shared):
        os.close(descriptor)


def test_a_file_that_is_closed_is_left_alone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with not_blocking(writing):
        pass
