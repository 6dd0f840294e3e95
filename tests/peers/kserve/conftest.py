"""One server of each kind and flavour for all tests of a session, started when the first asks for it."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.peers.kserve.scripts import Ran
from tests.peers.kserve.servers import Served, serving, why_not


@pytest.fixture(scope="session")
def ran() -> Ran:
    return Ran()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Served]]:
    """Returns the server of a kind and a flavour; skips where there is none of it here."""
    with contextlib.ExitStack() as running:
        servers: dict[tuple[str, str], Served] = {}

        def of(kind: str, flavour: str) -> Served:
            if missing := why_not(kind):
                pytest.skip(f"{kind}: {missing}")
            if (kind, flavour) not in servers:
                folder = tmp_path_factory.mktemp(f"{kind}-{flavour}")
                servers[kind, flavour] = running.enter_context(serving(kind, flavour, folder))
            return servers[kind, flavour]

        yield of
