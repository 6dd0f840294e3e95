"""How fast the Python client is beside a bare grpc.aio client that speaks the same protocol to the same server.

Both run in processes of their own (`duly_load.protocols.python_clients` says what each does), one after the other, in
alternating rounds. Where client and server share the machine, a ratio of frames a second holds what the server takes of
it, too; the CPU time of the client's process for each frame does not.
"""

import json
import subprocess
import sys

from duly_load.targets.duly_and_floor import OwnServer
from duly_sim.research.bench.client import ClientError
from duly_sim.research.bench.parts import BUSY_STREAMS, BUSY_WINDOW, Part, Setup
from duly_sim.research.bench.servers import SMALL

TOGETHER = 16
"""The number of frames in a message where several go together."""
GRACE_S = 60.0
"""The time that a run may take beyond its own."""


def python_client(setup: Setup) -> Part:
    """Frames a second and CPU time a frame of each client, at the null echo and at duly."""
    part = Part("client", f"Python client, 1 KB, {BUSY_STREAMS} streams")
    for _ in range(setup.effort.rounds):
        for window in (1, BUSY_WINDOW):
            _at_the_echo(setup, part, window)
        _at_duly(setup, part)
    return part


STEPS_A_ROUND = 2 * 4 + 3


def _at_the_echo(setup: Setup, part: Part, window: int) -> None:
    load = f"{window} in flight"
    bare = _run(setup, part, setup.null_echo, "bare", window)
    floor = _run(setup, part, setup.null_echo, "bare-bytes", window)
    one = _run(setup, part, setup.null_echo, "duly", window)
    many = _run(setup, part, setup.null_echo, "duly-many", window, TOGETHER)
    part.add(f"{load}: bare grpc.aio", "frames/s", bare["frames_per_s"])
    part.add(f"{load}: the same, one message made before", "frames/s", floor["frames_per_s"])
    part.add(f"{load}: duly's client", "frames/s", one["frames_per_s"])
    part.add(f"{load}: duly's client / bare", "ratio", one["frames_per_s"] / bare["frames_per_s"])
    part.add(f"{load}: duly's client / made before", "ratio", one["frames_per_s"] / floor["frames_per_s"])
    part.add(f"{load}: send_many, {TOGETHER} a message / bare", "ratio", many["frames_per_s"] / bare["frames_per_s"])
    part.add(f"{load}: bare grpc.aio, CPU a frame", "µs", bare["cpu_us"])
    part.add(f"{load}: duly's client, CPU a frame", "µs", one["cpu_us"])
    part.add(f"{load}: send_many, CPU a frame", "µs", many["cpu_us"])


def _at_duly(setup: Setup, part: Part) -> None:
    bare = _run(setup, part, setup.duly, "bare", BUSY_WINDOW)
    one = _run(setup, part, setup.duly, "duly", BUSY_WINDOW)
    many = _run(setup, part, setup.duly, "duly-many", BUSY_WINDOW, TOGETHER)
    part.add("duly serves: bare grpc.aio", "frames/s", bare["frames_per_s"])
    part.add("duly serves: duly's client / bare", "ratio", one["frames_per_s"] / bare["frames_per_s"])
    part.add(
        f"duly serves: send_many, {TOGETHER} a message / bare", "ratio", many["frames_per_s"] / bare["frames_per_s"]
    )


def _run(setup: Setup, part: Part, server: OwnServer, client: str, window: int, together: int = 1) -> dict[str, float]:
    """One run of a client. Raises ClientError with its own words where it fails."""
    setup.advance(f"Python client: {client}, {window} in flight, {server.version}")
    command = [sys.executable, "-P", "-m", "duly_load.protocols.python_clients", client]
    command += ["--target", server.address.endpoint, "--model", SMALL.name, "--frame-bytes", str(SMALL.frame_bytes)]
    command += ["--streams", str(BUSY_STREAMS), "--window", str(window), "--together", str(together)]
    command += ["--seconds", str(setup.effort.warmup_seconds + setup.effort.seconds)]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=setup.effort.warmup_seconds + setup.effort.seconds + GRACE_S,
        check=False,
        start_new_session=True,
    )
    if run.returncode != 0:
        raise ClientError(f"{' '.join(command)}: status {run.returncode}: {run.stderr.strip()[-2000:]}")
    figures: dict[str, float] = json.loads(run.stdout)
    part.runs.append({"name": f"{client} {window}x{together} {server.version}", "outcomes": {}, **figures})
    return figures
