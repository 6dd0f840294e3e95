"""A client of C++, made with grpc++ from the messages in protos/inference alone; `make peers-kserve` builds it."""

import subprocess
from collections.abc import Callable

import pytest

from tests.peers.environments import PEERS
from tests.peers.kserve.servers import KINDS, Served

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400)]

STUB = PEERS / "kserve-cpp" / "kserve_stub"


@pytest.mark.skipif(not STUB.exists(), reason="grpc++ is not installed here, so there is no client of C++")
@pytest.mark.parametrize("kind", KINDS)
def test_cpp(served: Callable[[str, str], Served], kind: str) -> None:
    done = subprocess.run([STUB, served(kind, "plain").address], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
