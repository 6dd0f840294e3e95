"""Prints what variants are worth under overload, on live servers, with the figures of docs/optimize.md:

    python docs/measure_overload.py [ecg] [yolo] [--rounds 5] [--out FOLDER]

`ecg` is a network of convolutions over two leads of an ECG, trained here, from a seed, on a real recording; `yolo` is
the demo's detector. `duly models optimize` makes their variant of 8 bits. One server has the version without it, and
another the version with it; `duly-load compare` offers them in turn half as much again as the first can serve. Rounds
are added to those of earlier calls, so that a shared machine may be asked at several times; `--anew` forgets these. It
needs the extras demo, learn and load.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from measure_optimize import Layers, beat_windows, trained, yolo

from duly_load.protocols.address import Address
from duly_load.targets.duly_and_floor import running
from duly_load.targets.server_process import free_ports

LOAD = 1.5
"""What is offered, in terms of what the server without variants can answer in time."""
WARM_S = 3
"""Does not count: the scheduler has moved streams by then."""
STREAMS = 6
PROBE_SECONDS = 8
PROBE_PER_S = 10.0
"""The first rate that is offered to find the capacity, which is doubled as long as nearly all is answered in time."""
HELD = 0.95
CLOSE = 1.2
"""A run with up to so many times what it was meant to offer says what the capacity is."""
TRIES_MAX = 16

Results = dict[str, Any]


def ecg(models: Path) -> list[Path]:
    """Normal and ectopic heartbeats, by a network three times as wide as that of `measure_optimize.beats`."""
    rows, truth = beat_windows()
    layers = Layers("ecg", 2)
    for width in (192, 384, 384, 384):
        layers.conv(width, 7, stride=2)
    layers.classes(2, "scores")
    half = len(rows) // 2
    model = trained(layers.model("ecg", list(rows.shape[1:]), "scores", 2), "ecg", rows[:half], truth[:half], 150)
    (models / "ecg/1").mkdir(parents=True)
    onnx.save(model, str(models / "ecg/1/model.onnx"))
    (models / "ecg/labels.txt").write_text("normal\nectopic\n")
    (models / "ecg/model.toml").write_text('labels = "labels.txt"\nbatch_sizes = [1]\n')
    frames = models.parent / "ecg.npy"
    np.save(frames, rows)
    return [frames]


@dataclass(frozen=True, slots=True)
class Case:
    make: Callable[[Path], list[Path]]
    """Writes the model into a repository, and returns where its frames are."""
    tolerance: float
    budget_ms: float


CASES = {"ecg": Case(ecg, 0.01, 100), "yolo": Case(yolo, 0.1, 250)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="Models; none: all.")
    parser.add_argument("--out", type=Path, default=Path("build/overload"), help="Folder for models and results.")
    parser.add_argument("--rounds", type=int, default=5, help="How many are run now.")
    parser.add_argument("--seconds", type=float, default=12, help="Of each run, that count.")
    parser.add_argument("--anew", action="store_true", help="Forgets models and rounds of earlier calls.")
    given = parser.parse_args()
    for name in given.names or CASES:
        folder = given.out / name
        if given.anew:
            shutil.rmtree(folder, ignore_errors=True)
        if not (folder / "frames.json").exists():
            prepare(name, folder)
        measure(name, folder, given.rounds, given.seconds)
        print(row(name, folder), flush=True)


def prepare(name: str, folder: Path) -> None:
    """Makes a repository with the model as it is, and one with its variant."""
    case = CASES[name]
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "without").mkdir(parents=True)
    places = [str(place.absolute()) for place in case.make(folder / "without")]
    shutil.copytree(folder / "without", folder / "with")
    command = [sys.executable, "-m", "duly.cli", "models", "optimize", str(folder / "with"), name]
    command += ["--steps", "int8-static", "--judge", "mean", "--tolerance", str(case.tolerance)]
    command += [word for place in places for word in ("--frames", place)]
    subprocess.run([*command, "--report", str(folder / "report.html")], check=True)
    (folder / "frames.json").write_text(json.dumps(places))


def measure(name: str, folder: Path, rounds: int, seconds: float) -> None:
    """Adds rounds to overload.json. Each begins with what the server without variants can do in that minute."""
    kept = folder / "overload.json"
    found: list[dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else []
    with ExitStack() as servers:
        targets = {each: servers.enter_context(serving(name, folder / each)) for each in ("without", "with")}
        per_s = found[-1]["per_s"] if found else None
        for seed in range(len(found), len(found) + rounds):
            per_s = capacity(name, folder, targets["without"], seed, per_s)
            scenario = write_scenario(name, folder, LOAD * per_s, WARM_S + seconds)
            order = [*targets] if seed % 2 else [*reversed(targets)]
            named = [word for each in order for word in ("--target", targets[each])]
            runs = load("compare", scenario, *named, "--rounds", "1", "--seed", str(seed))["runs"]
            results = {run["target"]: run["results"]["on_time_ratio"] for run in runs if run["valid"]}
            if len(results) == len(targets):
                found.append({"per_s": per_s} | {each: results[target] for each, target in targets.items()})
                kept.write_text(json.dumps(found, indent=2))


@contextmanager
def serving(name: str, models: Path) -> Iterator[str]:
    """A server of these models on one lane; gives its address."""
    command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(models.absolute())]
    command += ["--lanes", "cpu:0", "--threads", "1", "--admission", "advise"]
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    with running(f"{name} {models.name}", command, models.parent, Address("duly", endpoint), [name]):
        yield f"duly://{endpoint}"


def capacity(name: str, folder: Path, target: str, seed: int, before_per_s: float | None) -> float:
    """Returns how many frames a second the server answers in time where half as much again is sent: each run offers
    that much more than the one before has come to. `before_per_s`: what it was before; None: nothing is known.
    """
    offered_per_s = PROBE_PER_S if before_per_s is None else LOAD * before_per_s
    for _ in range(TRIES_MAX):
        scenario = write_scenario(name, folder, offered_per_s, WARM_S + PROBE_SECONDS)
        run = load("run", scenario, "--target", target, "--seed", str(seed))["results"]
        held, per_s = run["on_time_ratio"], run["goodput_per_s"]
        if not run["problems"] and 1 / CLOSE < offered_per_s / (LOAD * per_s) < CLOSE:
            return float(per_s)
        offered_per_s = 2 * offered_per_s if held > HELD else LOAD * per_s
    sys.exit(f"{name}: no run of {TRIES_MAX} was valid; the machine has to be quieter")


def write_scenario(name: str, folder: Path, per_s: float, seconds: float) -> Path:
    """Sensors that send so many frames a second together."""
    path = folder / "overload.toml"
    (recording, *_) = json.loads((folder / "frames.json").read_text())
    path.write_text(f"""name = "overload of {name}"
duration_s = {seconds}
warm_s = {WARM_S}
[[stream]]
name = "sensor"
count = {STREAMS}
model = "{name}"
budget_ms = {CASES[name].budget_ms}
backlog = "ALL"
payloads = {{ recording = "{recording}" }}
arrivals = {{ kind = "periodic", rate_hz = {per_s / STREAMS:.4f}, jitter_ms = 1, drift_ppm = 50 }}
""")
    return path


def load(command: str, scenario: Path, *options: str) -> Results:
    """Runs a command of duly-load, and returns what it wrote. A wider --lag-share than usual: the load runs on the same
    machine as the servers.
    """
    out = scenario.parent / command
    words = [sys.executable, "-m", "duly_load.cli.main", command, str(scenario), "--lag-share", "0.15", *options]
    # Status 1: a run was invalid, and says so itself.
    subprocess.run([*words, "--out", str(out)], check=False, stdout=sys.stdout if command == "compare" else sys.stderr)
    return json.loads((out / "results.json").read_text())


def row(name: str, folder: Path) -> str:
    """Returns a row of Markdown: medians over the rounds, least and greatest."""
    kept = folder / "overload.json"
    found = json.loads(kept.read_text()) if kept.exists() else []
    if not found:
        return f"{name}: no round is valid"
    made = json.loads(next((folder / "with").glob("*/2/optimize.json")).read_text())["candidates"][-1]
    ratios = [each["with"] / each["without"] for each in found]
    without, with_variants = (_spread([each[way] for each in found], ".1%") for way in ("without", "with"))
    return (
        f"| `{name}` | {_spread([each['per_s'] for each in found], '.0f')} | `{made['name']}`: agreement "
        f"{made['agreement']['mean']:.3f}, {made['times_as_fast']['1']:.2f} times as fast | {without} | "
        f"{with_variants} | {_spread(ratios, '.2f')}, {len(found)} rounds |"
    )


def _spread(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
