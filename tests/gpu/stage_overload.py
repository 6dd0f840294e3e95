"""The table of load_tests/scenarios/overload.toml on the lane: first what the lane can serve in time, then `duly-load
compare` of duly and the floor at several times that. It is shorter than `make compare`, and of one round.
"""

import json
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duly_load.protocols.address import Address
from duly_load.targets.duly_and_floor import running
from duly_load.targets.server_process import free_ports
from tests.gpu.models import Measured, write_model
from tests.gpu.requirements import CHECKOUT
from tests.gpu.stages import STOP_SECONDS, Asked

SCENARIO = CHECKOUT / "load_tests/scenarios/overload.toml"
BATCH_SIZES = (1, 2, 4, 8, 16)
WARM_S = 1
AROUND_SECONDS = 2.5
"""What a run takes more, with starting its senders and waiting for answers."""
OVER = 1.5
"""How much more than is known is offered to find out what can be served."""
HELD = 0.95
"""Where more than this is answered in time, it can serve more than was offered."""
GUESS_PER_S = 60.0
TRANSPORT_PER_S_MAX = 800.0
"""First guesses are not above what gRPC carries of such frames, whatever the device computes."""
SIDES = ("duly", "floor")
LAG_SHARE = ("--lag-share", "0.15")
"""Wider than usual, as the load runs on the server's machine."""


@dataclass(frozen=True, slots=True)
class Effort:
    loads: tuple[float, ...]
    """Times what the lane can serve, what is most telling first: as many are held as there is time for."""
    seconds: float
    """Of each run, its warm-up included."""
    probes_max: int
    repeats: int
    """Of a run that is invalid."""


FULL = Effort((1.5, 0.5, 3.0, 1.0), 6.0, 3, 1)
REHEARSED = Effort((1.5,), 2.5, 1, 0)


def run(asked: Asked) -> None:
    effort = REHEARSED if asked.rehearsal else FULL
    until_s = time.monotonic() + asked.seconds - 2 * STOP_SECONDS
    models = asked.scratch / "models-overload"
    scenario = asked.scratch / "overload.toml"
    content = tomllib.loads(SCENARIO.read_text(encoding="utf-8"))
    (served,) = content["serve"]["model"]
    (sensor,) = content["stream"]
    per_s = sensor["count"] * sensor["arrivals"]["rate_hz"]
    text = SCENARIO.read_text(encoding="utf-8").replace(f"warm_s = {content['warm_s']}", f"warm_s = {WARM_S}")
    scenario.write_text(text, encoding="utf-8")
    _write_models(models, served["name"], served["graph"], asked.rehearsal)
    results: dict[str, object] = {"lane": asked.lane, "seconds": effort.seconds - WARM_S}
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(models), "--lanes", asked.lane]
    command += ["--threads", "1", "--admission", "advise", "--streams-max", "1024"]
    with running("duly", command, asked.scratch, Address("duly", endpoint), [served["name"]]):
        target = f"duly://{endpoint}"
        capacity_per_s = _guess(asked.out)
        for _ in range(effort.probes_max):
            probe = _offered(scenario, target, OVER * capacity_per_s / per_s, asked.scratch / "probe", effort)
            held, capacity_per_s = probe["on_time_ratio"], max(probe["goodput_per_s"], 1.0)
            results |= {"capacity_per_s": round(capacity_per_s, 1), "capacity_problems": probe["problems"]}
            asked.write(results)
            if held <= HELD:
                break
        # A run of each side at each load; that some are repeated is what the stage's time has left over for.
        fit = max(int((until_s - time.monotonic()) / (len(SIDES) * (effort.seconds + AROUND_SECONDS))), 1)
        loads = effort.loads[:fit]
        compared = _compared(scenario, target, capacity_per_s, loads, asked.scratch / "compare", effort)
    results["rows"] = [_row(row, target) for row in compared["rows"]]
    results["not held"] = [*effort.loads[fit:]]
    asked.write(results)
    if not asked.rehearsal and not any(row["rounds_valid"] for row in compared["rows"] if row["target"] == target):
        raise SystemExit("no run against duly was valid: the machine has to be quieter")


def _write_models(root: Path, name: str, graph: str, rehearsal: bool) -> None:
    write_model(root, Measured(graph), "", BATCH_SIZES, rehearsal)
    (root / Measured(graph).name).rename(root / name)


def _guess(out: Path) -> float:
    """What the stage before has found of SqueezeNet; else what a processor's core does."""
    try:
        rows = json.loads((out / "throughput.json").read_text())["rows"]
    except (OSError, ValueError, KeyError):
        return GUESS_PER_S
    found = [row["duly"]["frames_per_s"][0] for row in rows if row["model"] == "squeezenet-fp32"]
    return min(max(found, default=GUESS_PER_S), TRANSPORT_PER_S_MAX)


def _offered(scenario: Path, target: str, load: float, out: Path, effort: Effort) -> dict[str, Any]:
    options = ("--target", target, "--load", f"{load:.3f}", "--seconds", str(effort.seconds), *LAG_SHARE)
    found: dict[str, Any] = _load("run", scenario, options, out)["results"]
    return found


def _compared(
    scenario: Path, target: str, capacity_per_s: float, loads: tuple[float, ...], out: Path, effort: Effort
) -> dict[str, Any]:
    options = ["--target", target, "--target", SIDES[1], "--capacity", f"{capacity_per_s:.1f}", "--rounds", "1"]
    options += ["--repeats", str(effort.repeats), "--seconds", str(effort.seconds), *LAG_SHARE]
    for load in loads:
        options += ["--load", f"{load:g}"]
    return _load("compare", scenario, tuple(options), out)


def _load(command: str, scenario: Path, options: tuple[str, ...], out: Path) -> dict[str, Any]:
    words = [sys.executable, "-P", "-m", "duly_load.cli.main", command, str(scenario), *options, "--out", str(out)]
    status = subprocess.run(words, check=False).returncode  # 1: a run was invalid, and says so itself
    try:
        found: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SystemExit(f"duly-load {command} ended with status {status} and without results") from None
    return found


def _row(row: dict[str, Any], target: str) -> dict[str, Any]:
    """What the record keeps of a row, without the address."""
    kept = {name: spread["median"] for name, spread in row["figures"].items() if spread is not None}
    side = SIDES[0] if row["target"] == target else SIDES[1]
    invalid = [reason.replace(target, side) for reason in row["invalid"]]
    return {
        "load": row["load"],
        "target": side,
        "valid": bool(row["rounds_valid"]),
        "invalid": invalid,
        "figures": kept,
    }
