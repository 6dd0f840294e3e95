"""Real processes of a robot: a duly server, the node, sensors and a listener, each with its own interpreter."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENT = Path(__file__).parents[3] / "build" / "peers" / "ros2"
PYTHON = ENVIRONMENT / "bin" / "python"
WAIT_S_MAX = 60.0
"""How long anything may take; the machine may be busy with other things."""
WARM_UP = "warm-up"
"""The coordinate frame of messages that tests do not count."""


class Process:
    """A process whose lines on stdout are read as they come."""

    def __init__(self, *command: object, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.lines: list[str] = []
        self._new: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._new.put(line.rstrip("\n"))
        self._new.put(None)

    def until(self, wanted: Callable[[str], Any], what: str) -> Any:
        """Returns the first true answer of `wanted` to a line that has not been read yet."""
        until_s = time.monotonic() + WAIT_S_MAX
        while True:
            try:
                line = self._new.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"no {what}; it said:\n" + "\n".join(line[:600] for line in self.lines[-8:])
                ) from None
            if line is None:
                raise AssertionError(
                    f"it ended before {what}; it said:\n" + "\n".join(line[:600] for line in self.lines[-8:])
                )
            self.lines.append(line)
            if found := wanted(line):
                return found

    def tell(self, told: object) -> None:
        """Writes a line of JSON to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends it, and returns its exit status."""
        self._process.send_signal(how)
        return self._process.wait(WAIT_S_MAX)

    def close(self) -> None:
        """Ends it, whatever it is at."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close() if stream is not None else None


class Sensors(Process):
    """Publishes what it is told to."""

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__(PYTHON, HERE / "sensor.py", environment=environment)
        self.until(lambda line: line == '"ready"', "sensors")

    def publish(self, topic: str, kind: str, **told: Any) -> None:
        """Publishes one message; returns when it is published."""
        self.do({"topic": topic, "type": kind, **told})

    def do(self, told: dict[str, Any]) -> Any:
        """Has it do something, waits until that is done, and returns what it says of it."""
        self.tell(told)
        return self.until(lambda line: line.startswith('{"done"') and json.loads(line), f"end of {told}")["done"]

    def until_heard(self, listener: "Listener", topic: str, kind: str, fields: dict[str, Any], before: int) -> None:
        """Publishes messages until more than `before` messages with tensors have come."""
        for _ in range(round(WAIT_S_MAX)):
            self.publish(topic, kind, fields=fields, waits=False)
            listener.next_diagnostics()
            if len(listener.all("/duly/tensors")) > before:
                return
        raise AssertionError(f"nothing came of messages on {topic}")


class Listener(Process):
    """Hears what is published on topics."""

    def __init__(self, environment: dict[str, str], **topics: str) -> None:
        self._messages: dict[str, list[dict[str, Any]]] = {}
        arguments = [f"{topic}={kind}" for topic, kind in topics.items()]
        super().__init__(PYTHON, HERE / "listener.py", *arguments, environment=environment)
        self.until(lambda line: line == '"ready"', "listener")

    def hear(self, topic: str, wanted: Callable[[dict[str, Any]], Any], what: str) -> Any:
        """Returns the first true answer of `wanted` to a message of the topic, also to one that came before."""
        for message in self.all(topic):
            if found := wanted(message):
                return found

        def heard(line: str) -> Any:
            return self._heard(line) == topic and wanted(self._messages[topic][-1])

        return self.until(heard, what)

    def all(self, topic: str) -> list[dict[str, Any]]:
        """Returns all messages of a topic that were read, without those of a warm-up."""
        heard = self._messages.setdefault(topic, [])
        return [message for message in heard if message.get("header", {}).get("frame_id") != WARM_UP]

    def warm_up(self, sensors: Sensors, topic: str, kind: str, fields: dict[str, Any], *further: str) -> None:
        """Publishes messages until the outcome of one is heard, and what comes on `further` topics: only then do all
        readers and writers know each other, before that messages are lost.
        """
        awaited = {"/duly/outcomes", *further}
        before = {name: len(self._messages.get(name, ())) for name in awaited}
        for _ in range(round(WAIT_S_MAX)):
            sensors.publish(topic, kind, fields=fields | {"header": {"frame_id": WARM_UP}}, stamp_ms=0, waits=False)
            self.next_diagnostics()
            if all(len(self._messages.get(name, ())) > count for name, count in before.items()):
                return
        raise AssertionError(f"nothing came of messages on {topic}")

    def count(self, topic: str, count: int) -> list[dict[str, Any]]:
        """Returns the messages of a topic once there are so many."""
        if len(self.all(topic)) < count:
            self.until(lambda line: self._heard(line) and len(self.all(topic)) >= count, f"{count} messages on {topic}")
        return self.all(topic)

    def diagnosis(self, wanted: str) -> dict[str, Any]:
        """Returns the first status in diagnostics with these words in its message or values."""

        def found(message: dict[str, Any]) -> Any:
            return next((status for status in message["status"] if wanted in json.dumps(status)), None)

        status: dict[str, Any] = self.hear("/diagnostics", found, f"diagnostics with {wanted!r}")
        return status

    def next_diagnostics(self) -> None:
        """Returns when the node says again how it does, a second later at most."""
        self.until(lambda line: self._heard(line) == "/diagnostics", "diagnostics")

    def _heard(self, line: str) -> str:
        if not line.startswith("{"):
            return ""
        told = json.loads(line)
        self._messages.setdefault(told["topic"], []).append(told["message"])
        return str(told["topic"])


@contextlib.contextmanager
def server(models: Path, port: int = 0) -> Iterator[tuple[Process, str]]:
    """A server of the models and its address."""
    settings = ["--models", models, "--listen", f"127.0.0.1:{port}", "--threads", 1]
    process = Process(sys.executable, "-m", "duly.cli", "serve", *settings, environment=dict(os.environ))
    try:
        told = process.until(lambda line: "serving" in line and "address" in line and json.loads(line), "server")
        yield process, told["address"]
    finally:
        process.close()


@contextlib.contextmanager
def closing(*processes: Process) -> Iterator[None]:
    """Ends processes in the end."""
    try:
        yield
    finally:
        for process in processes:
            process.close()
