"""tritonclient beside the server's own code in one process: two copies of the package `inference` that do not clash."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.environments import own_path, python_of

pytestmark = pytest.mark.peers

SCRIPT = """
import sys

sys.path.append({packages!r})
import {first}
import {second}
import tritonclient.grpc
from duly.rpc.kserve import messages

theirs = tritonclient.grpc.service_pb2.ModelInferRequest(model_name="m", id="1")
theirs.parameters["timeout"].int64_param = 5
ours = messages.ModelInferRequest.FromString(theirs.SerializeToString())
assert ours.parameters["timeout"].int64_param == 5
assert type(ours) is not type(theirs)
print(tritonclient.grpc.service_pb2.ModelInferRequest.FromString(ours.SerializeToString()).id)
"""
"""In the interpreter of the tests, which has the server's packages, with tritonclient's folder behind them."""


@pytest.mark.parametrize(
    ("first", "second"),
    [("duly.app", "tritonclient.grpc"), ("tritonclient.grpc", "duly.app")],
    ids=["server_first", "client_first"],
)
def test_both_in_one_process(first: str, second: str) -> None:
    code = SCRIPT.format(first=first, second=second, packages=str(packages_of("tritonclient")))
    done = subprocess.run([sys.executable, "-c", code], env=own_path(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def packages_of(environment: str) -> Path:
    return next((python_of(environment).parents[1] / "lib").glob("python3.*")) / "site-packages"
