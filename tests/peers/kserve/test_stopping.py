"""A server that stops while clients wait: all of them hear what became of their requests, and it ends."""

import subprocess
from pathlib import Path

import pytest

from tests.peers.environments import plain, python_of
from tests.peers.kserve.scripts import CLIENTS
from tests.peers.kserve.servers import KINDS, serving, why_not

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["unary", "streaming"])
def test_nobody_is_left_waiting(tmp_path: Path, kind: str, way: str) -> None:
    if missing := why_not(kind):
        pytest.skip(f"{kind}: {missing}")
    with serving(kind, "plain", tmp_path) as server:
        command = [python_of("tritonclient"), CLIENTS / "leaving.py", server.address, way]
        client = subprocess.Popen(command, env=plain(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert client.stdout is not None
        assert client.stdout.readline() == "sent\n"
    out, told = client.communicate(timeout=100)
    assert client.returncode == 0, told
    lines = out.splitlines()
    assert lines
    assert all(line == "answered" or line.startswith("refused ") for line in lines), lines
