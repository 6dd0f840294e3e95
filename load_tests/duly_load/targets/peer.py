"""What a peer is: a server that the harness installs, starts and stops by itself, to be compared with the others."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from duly_load.protocols.address import Address
from duly_load.scenario.scenario import Scenario


class PeerError(Exception):
    """A peer is not installed, did not start, or ended by itself: says which, why, and what to do about it."""


class Server(Protocol):
    """A peer that runs and has its models ready."""

    address: Address
    """The address, with the options that it needs."""
    version: str
    """Name and version for people: `Triton 2.51.0`."""

    metrics: str
    """URL of its metrics for Prometheus, which have the lag of duly's event loop; empty: it has none."""
    pid: int
    """The id of its first process; all others descend from it."""

    def cpu_s(self) -> float:
        """CPU time of the server and all its processes since it began. Raises PeerError where it is gone."""
        ...

    def workers(self) -> dict[str, int]:
        """Process id of the worker on each lane; empty where the peer has none."""
        ...

    def died(self) -> str:
        """How it ended, with the end of its log; empty while it runs."""
        ...


class Peer(Protocol):
    """One kind of server."""

    name: str
    """The name for `--target NAME`."""
    about: str
    """What it is, in one line for people."""

    def missing(self) -> str:
        """What it lacks, in words; empty: it can be started."""
        ...

    def install(self, say: Callable[[str], None]) -> None:
        """Installs it into an environment of its own, below the user's cache folder. Raises PeerError."""
        ...

    def start(self, scenario: Scenario, folder: Path) -> AbstractContextManager[Server]:
        """Serves the scenario's models, each on one thread, until the block is left. Its files and its log go into
        `folder`, which exists and is empty. Raises PeerError, also where the scenario has models that it can't serve.
        """
        ...
