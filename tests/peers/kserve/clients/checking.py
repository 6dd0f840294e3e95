"""A script of checks: each function `check_…` is one, is given the server, and fails by an exception.

    python SCRIPT.py HOST:PORT duly|triton FOLDER CHECK...

runs the named ones in this order and prints a line of JSON for each. It imports nothing of this project,
as scripts run in the environments of others' clients.
"""

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
"""How long an answer may take that is sure to come."""


@dataclass(frozen=True)
class Server:
    address: str
    kind: str
    """`duly` or `triton`."""
    folder: Path
    """Where its certificates are, if it has any."""


def only(kind: str, why: str) -> Callable[[Any], Any]:
    """Marks a check that is for this kind of server alone, and why. The tests read it out of the script's text."""
    del kind, why
    return lambda check: check


def run(checks: dict[str, Any]) -> None:
    """`checks`: the script's globals."""
    address, kind, folder, *names = sys.argv[1:]
    server = Server(address, kind, Path(folder))
    for name in names:
        try:
            checks[name](server)
            failed = ""
        except Exception:
            failed = traceback.format_exc()
        print(json.dumps({"check": name, "failed": failed}), flush=True)
