"""A server's certificate is replaced under open streams, expires, and is put right again, and no stream of those who
were there breaks.
"""

import asyncio
from pathlib import Path

import numpy as np

from duly_client import Client, Status, Tls
from duly_client.errors import DulyError
from tests.access.credentials import ca, issue, policy, write_pair
from tests.chaos.rig import Rig
from tests.chaos.verdict import Finding, Plan

FRAME = np.ones(4, np.float32)
READ_S = 0.3
"""What a new connection may take to meet the new files."""


async def show(plan: Plan, finding: Finding, models: Path, folder: Path) -> None:
    policy(folder)
    write_pair(folder, issue("ca", "localhost", "127.0.0.1"))
    write_pair(folder, issue("ca", "spiffe://vehicle/camera/front"), "camera")
    write_pair(folder, issue("ca", "spiffe://vehicle/camera/late", expired=True), "expired")
    (folder / "ca.pem").write_bytes(ca("ca").certificate)
    options = ["--policy", str(folder / "policy.toml"), "--tls-cert", str(folder / "server.pem")]
    options += ["--tls-key", str(folder / "server.key"), "--tls-client-ca", str(folder / "ca.pem")]
    tls = Tls(folder / "ca.pem", folder / "camera.pem", folder / "camera.key")
    async with Rig(models, folder / "server", *options) as rig:
        async with Client(rig.address, tls=tls) as client, client.stream("double", budget_ms=5000) as stream:
            turns = plan.of(6, 60)
            for turn in range(turns):
                # Good, expired, good by the same CA, and a file that is none: the stream that is open sees none of it.
                kind = turn % 3
                write_pair(folder, issue("ca", "localhost", "127.0.0.1", expired=kind == 1))
                if kind == 2:
                    (folder / "server.pem").write_bytes(b"-----BEGIN NOTHING-----\n")
                for _ in range(20):
                    await stream.send(FRAME)
                    outcome = await anext(stream)
                    finding.count("frames")
                    finding.check(outcome.status is Status.ON_TIME, f"{outcome.status.name}: {outcome.reason}")
                finding.count("certificates")
                await asyncio.sleep(READ_S)
            write_pair(folder, issue("ca", "localhost", "127.0.0.1"))
            await asyncio.sleep(READ_S)
            async with Client(rig.address, tls=tls) as fresh:
                await fresh.infer("double", FRAME)
            wrong = Tls(folder / "ca.pem", folder / "expired.pem", folder / "expired.key")
            try:
                async with Client(rig.address, tls=wrong, reconnect=False, open_timeout_s=5) as late:
                    await late.infer("double", FRAME)
                finding.failures.append("a client with an expired certificate was let in")
            except DulyError:
                finding.count("refused")
    finding.check(rig.status == 0, f"the server ended with status {rig.status}")
