"""Overload as in load_tests/scenarios/overload.toml, of a model that makes the lane the limit and not what carries
frames to it: first what is served in time, then `duly-load compare` of duly and the floor at several times that, one
load after the other. It is shorter than `make compare`, and of one round.

The model is a chain of dense layers, as many as keep the lane busy for some ms with a batch, whatever the device. Its
frames are small: of pictures, duly and its clients carry fewer on one machine than a large GPU computes.
"""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from duly_load.protocols.address import Address
from duly_load.targets.duly_and_floor import running
from duly_load.targets.server_process import free_ports
from tests.gpu.models import bare_session, dense_layers
from tests.gpu.stages import Asked, own_seconds

MODEL = "dense"
WIDTH = 2048
"""Of each layer, and of a frame: 8 KB."""
LAYERS_TRIED = 32
LAYERS = range(1, 2001)
RUNS_TRIED = 5
BATCH_MS = 10.0
"""How long a batch shall take."""
BATCH_SIZES = (1, 2, 4)
SCENARIO = f"""name = "overload"
duration_s = 22
warm_s = 1

[[serve.model]]  # which the server has already; the floor has to know that there is one
name = "{MODEL}"
dense = {{ width = {WIDTH} }}

[[stream]]
name = "camera"
count = 4
model = "{MODEL}"
budget_ms = 100
payloads = {{ shape = [{WIDTH}] }}
backlog = "ALL"
arrivals = {{ kind = "periodic", rate_hz = 30, drift_ppm = 50 }}
"""
SCENARIO_PER_S = 4 * 30
AROUND_SECONDS = 3.5
"""What a run takes more, with starting its senders and waiting for answers."""
ENDING_SECONDS = 5.0
"""What the stage takes to end the server and to write what it has found."""
OVER = 1.5
"""How much more than is known is offered to find out what can be served."""
HELD = 0.95
"""Where more than this is answered in time, it can serve more than was offered."""
SIDES = ("duly", "floor")
LAG_SHARE = ("--lag-share", "0.15")
"""Wider than usual, as the load runs on the server's machine."""


@dataclass(frozen=True, slots=True)
class Effort:
    loads: tuple[float, ...]
    """Times what can be served, what is most telling first: as many are held as there is time for."""
    seconds: float
    """Of each run, its warm-up included."""
    probes_max: int
    repeats: int
    """Of a run that is invalid, where there is time."""


FULL = Effort((1.5, 0.5, 3.0, 1.0), 5.0, 3, 1)
REHEARSED = Effort((1.5, 0.5), 2.5, 1, 0)


def run(asked: Asked) -> None:
    effort = REHEARSED if asked.rehearsal else FULL
    until_s = time.monotonic() + own_seconds(asked.seconds) - ENDING_SECONDS
    scenario = asked.scratch / "overload.toml"
    scenario.write_text(SCENARIO, encoding="utf-8")
    layers, batch_ms = fitted(asked.lane)
    models = asked.scratch / "models-overload"
    _write_model(models, layers, asked.rehearsal)
    rows: list[dict[str, Any]] = []
    results: dict[str, object] = {"lane": asked.lane, "layers": layers, "width": WIDTH, "batch": BATCH_SIZES[-1]}
    results |= {"batch_ms": batch_ms, "rows": rows, "not held": [*effort.loads]}
    ports = free_ports(2)
    endpoint, metrics = (f"127.0.0.1:{port}" for port in ports)
    command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(models), "--lanes", asked.lane]
    command += ["--threads", "1", "--admission", "advise", "--streams-max", "1024", "--metrics", metrics]
    with running("duly", command, asked.scratch, Address("duly", endpoint), [MODEL]):
        target = f"duly://{endpoint}"
        per_s = BATCH_SIZES[-1] / batch_ms * 1e3
        for nth in range(effort.probes_max):
            before_s = busy_seconds(metrics)
            probe = _offered(scenario, target, OVER * per_s / SCENARIO_PER_S, asked.scratch / f"probe-{nth}", effort)
            # Batches that are still to be run when nothing is offered any more count, too.
            busy = min((busy_seconds(metrics) - before_s) / effort.seconds, 1.0)
            held, per_s = probe["on_time_ratio"], max(probe["goodput_per_s"], 1.0)
            results |= {"capacity_per_s": round(per_s, 1), "capacity_problems": probe["problems"]}
            results |= {"busy": round(busy, 3)}
            asked.write(results)
            if held <= HELD:
                break
        run_seconds = len(SIDES) * (effort.seconds + AROUND_SECONDS)
        for nth, load in enumerate(effort.loads):
            left_s = until_s - time.monotonic()
            if rows and left_s < run_seconds:
                break
            repeats = effort.repeats if left_s > run_seconds * (1 + effort.repeats) else 0
            out = asked.scratch / f"compare-{nth}"
            found = _compared(scenario, target, per_s, load, repeats, out, effort)
            rows += [_row(row, target) for row in found["rows"]]
            results["not held"] = [*effort.loads[nth + 1 :]]
            asked.write(results)
    if not asked.rehearsal and not any(row["valid"] for row in rows if row["target"] == SIDES[0]):
        raise SystemExit("no run against duly was valid: the machine has to be quieter")


def fitted(lane: str) -> tuple[int, float]:
    """Returns of how many layers a batch of the largest size takes BATCH_MS on the lane, as far as LAYERS go, and how
    many ms that many take, as measured of LAYERS_TRIED.
    """
    session = bare_session(dense_layers(WIDTH, LAYERS_TRIED).SerializeToString(), lane)
    batch = np.random.default_rng(0).standard_normal((BATCH_SIZES[-1], WIDTH), np.float32)
    took_ms = []
    for nth in range(RUNS_TRIED + 1):
        began_s = time.perf_counter()
        session.run(None, {"x": batch})
        if nth:  # in the first one kernels are chosen
            took_ms.append((time.perf_counter() - began_s) * 1e3)
    layer_ms = median(took_ms) / LAYERS_TRIED
    layers = min(max(round(BATCH_MS / layer_ms), LAYERS.start), LAYERS.stop - 1)
    return layers, float(f"{layers * layer_ms:.3g}")


def busy_seconds(metrics: str) -> float:
    """Returns for how long the server's lane has run batches. `metrics`: the address of its metrics."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("duly_lane_busy_seconds_total{"))


def _write_model(root: Path, layers: int, rehearsal: bool) -> None:
    folder = root / MODEL
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.onnx").write_bytes(dense_layers(WIDTH, layers).SerializeToString())
    lines = [f"batch_sizes = {[*BATCH_SIZES]}", *(["warmup_runs = 3"] if rehearsal else [])]
    (folder / "model.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _offered(scenario: Path, target: str, load: float, out: Path, effort: Effort) -> dict[str, Any]:
    options = ("--target", target, "--load", f"{load:.3f}", "--seconds", str(effort.seconds), *LAG_SHARE)
    found: dict[str, Any] = _load("run", scenario, options, out)["results"]
    return found


def _compared(
    scenario: Path, target: str, per_s: float, load: float, repeats: int, out: Path, effort: Effort
) -> dict[str, Any]:
    options = ["--target", target, "--target", SIDES[1], "--capacity", f"{per_s:.1f}", "--load", f"{load:g}"]
    options += ["--rounds", "1", "--repeats", str(repeats), "--seconds", str(effort.seconds), *LAG_SHARE]
    return _load("compare", scenario, tuple(options), out)


def _load(command: str, scenario: Path, options: tuple[str, ...], out: Path) -> dict[str, Any]:
    words = [sys.executable, "-P", "-m", "duly_load.cli.main", command, str(scenario), *options, "--out", str(out)]
    status = subprocess.run(words, check=False).returncode  # 1: a run was invalid, and says so itself
    try:
        found: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # it is made before anything is found out, and stays empty
        raise SystemExit(f"duly-load {command} ended with status {status} and without results") from None
    return found


def _row(row: Mapping[str, Any], target: str) -> dict[str, Any]:
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
