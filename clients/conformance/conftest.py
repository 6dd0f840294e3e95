"""Which clients are tested, and the servers that they share."""

import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from clients.conformance.models import NAMES, write_models
from clients.conformance.serving import Server
from clients.conformance.table import CASES, SERVERS
from duly.access.tokens import new_token, policy_lines

ROOT = Path(__file__).parents[2]
TOKEN = new_token()
JAVA_PATH = os.pathsep.join(str(ROOT / "clients/java/target" / part) for part in ("classes", "test-classes", "lib/*"))
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-cp", JAVA_PATH]
COMMANDS = {
    "python": [sys.executable, str(ROOT / "clients/python/conformance.py")],
    "cpp": [str(ROOT / "build/clients/cpp/examples/conformance")],
    "rust": [str(ROOT / "build/clients/rust/debug/examples/conformance")],
    "go": [str(ROOT / "build/clients/go/conformance")],
    "node": ["node", str(ROOT / "clients/node/dist/conformance.js")],
    "java": [*JAVA, "duly.client.conformance.Conformance"],
}
"""How the program of each language is started."""
EXAMPLES = {
    "cpp": [str(ROOT / "build/clients/cpp/examples/picture")],
    "rust": [str(ROOT / "build/clients/rust/debug/examples/picture")],
    "go": [str(ROOT / "build/clients/go/picture")],
    "node": ["node", str(ROOT / "clients/node/dist/examples/picture.js")],
    "java": [*JAVA, "duly.client.examples.StreamPicture"],
}
"""The example of each language that streams a picture: TARGET, MODEL and FILE.jpg are added."""
CANNOT = {"python": {"try_send"}}
"""What a client does not offer; cases that need it are skipped."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--subject", default="python", help=f"the client under test: one of {', '.join(COMMANDS)}")
    parser.addoption("--command", default="", help="how its program is started, if not as usual")


@pytest.fixture(scope="session")
def command(request: pytest.FixtureRequest) -> list[str]:
    stated = request.config.getoption("--command")
    return shlex.split(stated) if stated else COMMANDS[request.config.getoption("--subject")]


@pytest.fixture(scope="session")
def cannot(request: pytest.FixtureRequest) -> set[str]:
    return CANNOT.get(request.config.getoption("--subject"), set())


NewServer = Callable[[str, Collection[str]], Server]


@pytest.fixture(scope="session")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> NewServer:
    """Makes a server by the name of its settings in the table, and by what models it has."""
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text(f'[[principal]]\nname = "sensor"\nmodels = ["double"]\n{policy_lines(TOKEN)}\n', encoding="utf-8")

    def make(name: str, models: Collection[str]) -> Server:
        folder = tmp_path_factory.mktemp("models")
        write_models(folder, models)
        given = {"$POLICY": policy, "$FOLDER": tmp_path_factory.mktemp("samples")}
        settings: dict[str, Any] = {
            key: given.get(value, value) if isinstance(value, str) else value for key, value in SERVERS[name].items()
        }
        return Server(folder, settings)

    return make


@pytest.fixture(scope="session")
def shared_server(new_server: NewServer) -> Iterator[Callable[[str], Server]]:
    """Gives the servers of cases that leave them as they were; each starts when it is first asked for."""
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def give(name: str) -> Server:
            if name not in running:
                models = NAMES if name == "plain" else {open_of(case) for case in CASES if case.get("server") == name}
                running[name] = stack.enter_context(new_server(name, models))
            return running[name]

        yield give


def open_of(case: dict[str, Any]) -> str:
    """The model that the case opens a stream to; empty: none."""
    return next((step["model"] for step in case["steps"] if step.get("do") == "open"), "")
