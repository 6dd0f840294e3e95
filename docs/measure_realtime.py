"""Measures how long the slowest frames take while other programs want all processors, without and with real time:

    python docs/measure_realtime.py [--rounds 5] [--seconds 22] [--hogs 2] [--load 1] [--file FILE]

Each round starts a server of each kind, one after the other and in turned order, loads the machine with --hogs busy
programs for each processor, and sends it the scenario beside_others by duly-load. What comes of each is appended to the
file, by default build/realtime.jsonl; the table at the end is of all that the file has of that load and so many
programs, so that rounds may be run at different times. --rounds 0 only prints it. It needs root, or the rights of
docs/realtime.md and CAP_SYS_NICE.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from duly_load.scenario.scenario import load_scenario
from duly_load.targets.models import write_repository

SCENARIO = Path(__file__).parent.parent / "load_tests/scenarios/beside_others.toml"
FIGURES = ("p50", "p99", "p99_9", "max")
PLAIN = "plain"


def sides() -> dict[str, tuple[str, ...]]:
    """The options of each kind of server. The last processor is the lane's own in one of them."""
    last = max(os.sched_getaffinity(0))
    return {PLAIN: (), "realtime": ("--realtime",), "realtime, cpus": ("--realtime", "--cpus", str(last))}


@contextmanager
def server(models: Path, options: Sequence[str]) -> Iterator[str]:
    """Runs a server. Gives its address."""
    command = [sys.executable, "-P", "-m", "duly.cli", "serve", "--models", str(models), "--listen", "127.0.0.1:0"]
    command += ["--threads", "1", "--admission", "advise", "--log-format", "json", *options]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            address = ""
            while not address:
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"the server ended: {log.read()}")
                log.seek(0)
                entries = [json.loads(line) for line in log if line.endswith("\n") and line.startswith("{")]
                address = next((entry["address"] for entry in entries if entry["event"] == "serving"), "")
                os.sched_yield()
            yield address
        finally:
            process.terminate()
            process.wait()


@contextmanager
def hogs(count: int) -> Iterator[None]:
    """Runs programs that want a processor each."""
    running = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def before_others() -> None:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def measured(address: str, seconds: float, load: float, seed: int, folder: Path) -> dict[str, float]:
    """Sends the scenario. Returns latencies in ms. Raises SystemExit where the run is not valid."""
    command = [sys.executable, "-P", "-m", "duly_load.cli.main", "run", str(SCENARIO), "--target", f"duly://{address}"]
    command += ["--seconds", str(seconds), "--load", str(load), "--seed", str(seed), "--out", str(folder)]
    # All of the harness runs before the busy programs, so that what it sees of stalls is the machine's.
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=before_others)
    if done.returncode:
        raise SystemExit(f"duly-load: {done.stdout}{done.stderr}")
    results = json.loads((folder / "results.json").read_text("utf-8"))
    latency = results["results"]["latency_ms"]
    return {name: latency[name] for name in FIGURES}


def ranged(values: Sequence[float]) -> str:
    return f"{median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=22.0)
    parser.add_argument("--hogs", type=int, default=2)
    parser.add_argument("--load", type=float, default=1.0)
    parser.add_argument("--file", type=Path, default=Path("build/realtime.jsonl"))
    given = parser.parse_args()
    given.file.parent.mkdir(parents=True, exist_ok=True)
    asked = {"hogs": given.hogs, "load": given.load}
    kept = [json.loads(line) for line in given.file.read_text().splitlines()] if given.file.exists() else []
    rounds = [each["found"] for each in kept if each["asked"] == asked]
    kinds = sides()
    for _ in range(given.rounds):
        turn = len(rounds) % len(kinds)
        order, found = [*kinds][turn:] + [*kinds][:turn], {}
        with tempfile.TemporaryDirectory() as folder:
            write_repository(Path(folder) / "models", load_scenario(SCENARIO).serve.model)
            for kind in order:
                options, out = kinds[kind], Path(folder) / kind
                with (
                    server(Path(folder) / "models", options) as address,
                    hogs(given.hogs * len(os.sched_getaffinity(0))),
                ):
                    found[kind] = measured(address, given.seconds, given.load, len(rounds), out)
        rounds.append(found)
        with given.file.open("a") as file:
            file.write(json.dumps({"asked": asked, "found": found}) + "\n")
    if rounds:
        show(kinds, rounds, given.hogs)


def show(kinds: Iterable[str], rounds: Sequence[dict[str, dict[str, float]]], hogs: int) -> None:
    print(f"latency in ms beside {hogs} busy programs a processor, median and range of {len(rounds)} rounds\n")
    print(f"| | {' | '.join(FIGURES)} |\n| --- | {' | '.join('---' for _ in FIGURES)} |")
    for kind in kinds:
        print(f"| {kind} | {' | '.join(ranged([each[kind][name] for each in rounds]) for name in FIGURES)} |")
    for kind in kinds:
        if kind != PLAIN:
            ratios = [ranged([each[PLAIN][name] / each[kind][name] for each in rounds]) for name in FIGURES]
            print(f"| {PLAIN} over {kind} | {' | '.join(ratios)} |")


if __name__ == "__main__":
    main()
