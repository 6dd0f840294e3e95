"""Clients of others, unmodified, each in its own environment and process, against duly and against the real Triton.

What a check says therefore is Triton's behaviour, and duly's; where the two differ, the check says whose it is.
"""

from collections.abc import Callable

import pytest

from tests.peers.kserve.scripts import Ran, checks_of
from tests.peers.kserve.servers import KINDS, Served

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400)]

SCRIPTS = (
    ("tritonclient", "infer.py", "plain"),
    ("tritonclient", "together.py", "plain"),
    ("tritonclient", "sequences.py", "plain"),
    ("tritonclient", "aio.py", "plain"),
    ("tritonclient", "bad_requests.py", "plain"),
    ("tritonclient", "shared_memory.py", "plain"),
    ("tritonclient", "no_control.py", "plain"),
    ("tritonclient", "control.py", "control"),
    ("tritonclient", "tls.py", "tls"),
    ("tritonclient", "mutual_tls.py", "mutual_tls"),
    ("tritonclient", "qa.py", "plain"),
    ("kserve", "kserve_python.py", "plain"),
    ("mlserver", "mlserver_stubs.py", "plain"),
)
"""The environment that runs a script, the script, and the flavour of server that it is for."""
CHECKS = [
    pytest.param(kind, environment, script, flavour, check, id=f"{kind}-{script[:-3]}-{check.removeprefix('check_')}")
    for kind in KINDS
    for environment, script, flavour in SCRIPTS
    for check in checks_of(script, kind)
]


@pytest.mark.parametrize(("kind", "environment", "script", "flavour", "check"), CHECKS)
def test_check(
    served: Callable[[str, str], Served], ran: Ran, kind: str, environment: str, script: str, flavour: str, check: str
) -> None:
    failure = ran.failure(environment, script, check, served(kind, flavour))
    assert not failure, failure
