"""A real server in a process of its own, which a case may stop and start again at the same address."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self


class Server:
    """`duly serve` with `settings`, started by entering and whenever it does not run."""

    def __init__(self, models: Path, settings: Mapping[str, object]) -> None:
        self.address = "127.0.0.1:0"
        self._models = models
        self._options = [
            text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))
        ]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when it serves."""
        command = [sys.executable, "-m", "duly.cli", "serve", "--models", str(self._models), "--listen", self.address]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [*command, "--threads", "1", "--log-format", "json", *self._options],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        said = []
        assert self._process.stderr is not None
        for line in self._process.stderr:
            said.append(line)
            entry = json.loads(line)
            if entry["event"] == "serving":
                self.address = entry["address"]
                break
        else:
            raise AssertionError(f"the server ended before it served: {said}")
        self._reader = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """Ends it at once, as a loss of power does."""
        assert self._process is not None
        self._process.kill()
        self._ended()

    def drain(self) -> None:
        """Returns when it has answered what it had, and ended."""
        assert self._process is not None
        self._process.terminate()
        self._ended()

    def _ended(self) -> None:
        assert self._process is not None
        self._reader.join()
        with self._process:  # closes its pipe
            pass
