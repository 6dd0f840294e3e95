"""The servers that clients are let loose on: duly, and the real Triton beside it, so that the checks say what is so.

Each comes in flavours: `plain`; `principal`, where connections of one user share regions of memory; `control`, whose
models clients may load and unload; `tls`; and `mutual_tls`, where clients have to show certificates, too.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from duly.access.dev_certificates import write_dev_certificates
from duly_load.targets.tritonserver import ENVIRONMENT, running_triton
from tests.peers.environments import ROOT, own_path
from tests.peers.kserve import repository

KINDS = ("duly", "triton")
SHARING = {"plain": "own", "principal": "principal"}
TLS = ("tls", "mutual_tls")


@dataclass(frozen=True, slots=True)
class Served:
    address: str
    kind: str
    folder: Path
    """Has its certificates in `certs`, where it has any."""


@contextmanager
def serving(kind: str, flavour: str, folder: Path) -> Iterator[Served]:
    """A server with the models of `repository`, for as long as the block. `folder` is empty, and its own."""
    start = _duly if kind == "duly" else _triton
    with start(flavour, folder) as address:
        yield Served(address, kind, folder)


def why_not(kind: str) -> str:
    """Why it can't be run here; empty: it can."""
    return ENVIRONMENT.missing() if kind == "triton" else ""


@contextmanager
def _duly(flavour: str, folder: Path) -> Iterator[str]:
    """Its own process, since tests of one event loop would wait for clients that wait for it."""
    models = folder / "models"
    repository.write_for_duly(models)
    settings: dict[str, object] = {"models": str(models), "lanes": ["cpu:0"], "threads": 1}
    if flavour in SHARING:  # both are off unless they are asked for
        settings |= {"kserve_shared_memory": SHARING[flavour], "compression": True}
    if flavour != "control":
        settings["admin_listen"] = "127.0.0.1:0"  # so that nobody at the public address may load anything
    if flavour in TLS:
        write_dev_certificates(folder / "certs", "", 1)
        settings |= {"tls_cert": str(folder / "certs/server.pem"), "tls_key": str(folder / "certs/server.key")}
    if flavour == "mutual_tls":
        settings["tls_client_ca"] = str(folder / "certs/ca.pem")
    with (folder / "duly.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.peers.kserve.run_duly", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=own_path(),
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, f"duly did not start: {(folder / 'duly.log').read_text()}"
            yield address
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


@contextmanager
def _triton(flavour: str, folder: Path) -> Iterator[str]:
    models = folder / "models"
    names = repository.write_for_triton(models)
    options: list[str] = []
    if flavour == "control":
        options = ["--model-control-mode=explicit", *(f"--load-model={name}" for name in names)]
    elif flavour in TLS:
        certs = folder / "certs"
        write_dev_certificates(certs, "", 1)
        options = [
            f"--grpc-use-ssl{'-mutual' if flavour == 'mutual_tls' else ''}=true",
            f"--grpc-server-cert={certs / 'server.pem'}",
        ]
        options += [f"--grpc-server-key={certs / 'server.key'}", f"--grpc-root-cert={certs / 'ca.pem'}"]
    with running_triton("triton", models, folder, names, options) as triton:
        yield triton.grpc
