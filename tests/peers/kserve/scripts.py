"""The scripts of checks in `clients/`, read as text: they are run by interpreters that have other packages."""

import ast
import functools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.peers.environments import plain, python_of
from tests.peers.kserve.servers import Served

CLIENTS = Path(__file__).parent / "clients"
ENDED_S = 300
"""A script that takes so long hangs."""


@functools.cache
def checks_of(script: str, kind: str) -> Sequence[str]:
    """The names of a script's checks for a kind of server, in their order."""
    functions = [node for node in ast.parse((CLIENTS / script).read_text()).body if isinstance(node, ast.FunctionDef)]
    return [each.name for each in functions if each.name.startswith("check_") and kind in _kinds(each, kind)]


def _kinds(function: ast.FunctionDef, kind: str) -> Sequence[str]:
    """For which kinds it is; `kind` itself where it does not say."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "only":
            return [ast.literal_eval(decorator.args[0])]
    return [kind]


class Ran:
    """What the checks of scripts came to. Each script is run once for each server, when the first of its checks is
    asked for.
    """

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str], dict[str, str]] = {}

    def failure(self, environment: str, script: str, check: str, server: Served) -> str:
        """Why a check failed; empty: it holds."""
        key = (script, server.address)
        if key not in self._failures:
            self._failures[key] = self._run(environment, script, server)
        return self._failures[key][check]

    def _run(self, environment: str, script: str, server: Served) -> dict[str, str]:
        names = checks_of(script, server.kind)
        command = [python_of(environment), CLIENTS / script, server.address, server.kind, server.folder, *names]
        try:
            done = subprocess.run(command, env=plain(), capture_output=True, text=True, timeout=ENDED_S, check=False)
            out, told = done.stdout, f"it ended with {done.returncode}: {done.stderr}"
        except subprocess.TimeoutExpired as hung:
            out, told = (hung.stdout or b"").decode(), f"it hangs after {ENDED_S} s"
        said = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return dict.fromkeys(names, f"it was not reached, {told}") | {each["check"]: each["failed"] for each in said}
