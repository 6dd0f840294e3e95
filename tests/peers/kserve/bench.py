"""duly beside Triton under closed-loop load over KServe's protocol: `make bench-kserve`.

Both serve the same graphs on one thread of ONNX Runtime: the MLP 256 -> 64 -> 10, and SqueezeNet, in batches of up to
16 and 4. Triton's run in its Python backend, since its own backend for ONNX is on no registry of packages. Load comes
from perf_analyzer where there is one (`perf_analyzer.tool`), else from tritonclient in Python, which is too slow to
tell fast servers apart and uses no shared memory.

Runs alternate: in each round all cases, in each case one server after the other, and the other one first in the next
round. Ratios are taken within rounds.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from duly_load.graphs import GRAPHS
from duly_load.scenario.scenario import Scenario, parse_scenario
from duly_load.targets.all_peers import PEERS
from tests.peers.environments import plain, python_of
from tests.peers.kserve import perf_analyzer
from tests.peers.kserve.scripts import CLIENTS

SERVERS = ("duly-kserve", "triton")
OUTPUT_BYTES = 8192
"""Room for the outputs of a row in shared memory."""
BATCHES = {"mlp": [1, 2, 4, 8, 16], "squeezenet": [1, 2, 4]}
CONCURRENCIES = {"mlp": (1, 16, 64), "squeezenet": (1, 8, 16, 64)}
WINDOWS = 3
"""perf_analyzer's results are of so many windows of time."""
TRIES = 3


@dataclass(frozen=True, slots=True)
class Case:
    model: str
    concurrency: int
    way: str
    """`unary` or `streaming`."""
    shared_memory: bool

    def __str__(self) -> str:
        memory = ", shared memory" if self.shared_memory else ""
        return f"{self.model}, {self.concurrency} {self.way}{memory}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run came to."""

    per_s: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Aim:
    """What is asked of a ratio duly/Triton."""

    model: str
    concurrencies: tuple[int, ...]
    figure: str
    least: float = 0.0
    most: float = float("inf")
    shared_memory: bool = False


AIMS = (
    Aim("mlp", (16, 64), "per_s", least=2.0),
    Aim("mlp", (16, 64), "p99_us", most=0.5),
    Aim("mlp", (1,), "p50_us", most=0.7),
    Aim("squeezenet", (8,), "per_s", least=1.0),
    Aim("squeezenet", (8,), "p99_us", most=1.0),
    Aim("squeezenet", (8,), "per_s", least=1.0, shared_memory=True),
)
Runs = dict[Case, dict[str, list[Figures]]]
"""The figures of each case and server, one a round."""


def scenario() -> Scenario:
    """What the servers are given to serve. Nothing is sent by it."""
    models = [{"name": name, "graph": name, "batch_sizes": sizes} for name, sizes in BATCHES.items()]
    arrivals = {"kind": "periodic", "rate_hz": 1}
    stream = {"name": "camera", "model": "mlp", "budget_ms": 100, "count": 64, "arrivals": arrivals}
    content = {"name": "bench", "duration_s": 1.0, "serve": {"model": models}, "stream": [stream]}
    return parse_scenario(content, "bench", Path())


class Servers:
    """Both servers, each of which can be started anew. A context that stops them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, contextlib.ExitStack] = {}
        self.addresses: dict[str, str] = {}
        """HOST:PORT of each."""

    def __enter__(self) -> "Servers":
        for name in SERVERS:
            self.start(name)
        return self

    def start(self, name: str) -> None:
        """Starts a server. One that runs is stopped before."""
        if name in self._running:
            self._running.pop(name).close()
        print(f"starting {name}", flush=True)
        running = self._running[name] = contextlib.ExitStack()
        own = Path(tempfile.mkdtemp(dir=self._folder))
        self.addresses[name] = running.enter_context(PEERS[name].start(scenario(), own)).address.endpoint

    def __exit__(self, *_: object) -> None:
        for running in self._running.values():
            running.close()


def write_inputs(folder: Path) -> None:
    """A row of numbers for the input of each model, as perf_analyzer reads them. Its own are bytes by chance, NaN among
    them, which duly refuses.
    """
    random = np.random.default_rng(0)
    for name in BATCHES:
        graph = GRAPHS[name]
        own = folder / "inputs" / name
        own.mkdir(parents=True)
        row = random.random(graph.input_shape, dtype=np.float32)
        (own / graph.build().graph.input[0].name).write_bytes(row.tobytes())


def run_perf_analyzer(address: str, case: Case, seconds: float, folder: Path) -> Figures:
    options = ["--input-data", str(folder / "inputs" / case.model)]
    options += ["--measurement-mode", "time_windows", "--measurement-interval", str(round(seconds * 1000 / WINDOWS))]
    options += [*perf_analyzer.STEADY, "--concurrency-range", str(case.concurrency)]
    if case.way == "streaming":
        options += ["--streaming", "--async"]
    if case.shared_memory:
        options += ["--output-shared-memory-size", str(OUTPUT_BYTES)]
    ended_s = 60 + 3 * seconds
    (row,) = perf_analyzer.measure(address, case.model, *options, shared_memory=case.shared_memory, ended_s=ended_s)
    return Figures(row.inferences_per_s, row.p50_us, row.p99_us)


def run_tritonclient(address: str, case: Case, seconds: float, _: Path) -> Figures:
    script = [python_of("tritonclient"), CLIENTS / "closed_loop.py", address, case.model]
    command = [*map(str, script), str(case.concurrency), str(seconds), case.way]
    done = subprocess.run(command, env=plain(), capture_output=True, text=True, timeout=60 + 10 * seconds, check=False)
    if done.returncode:
        sys.exit(f"{case}: {done.stderr}")
    return Figures(**json.loads(done.stdout))


def measure(asked: argparse.Namespace, cases: Sequence[Case], run: Callable[[str, Case, float, Path], Figures]) -> Runs:
    runs: Runs = {case: {name: [] for name in SERVERS} for case in cases}
    with tempfile.TemporaryDirectory(prefix="duly-") as made, Servers(folder := Path(made)) as servers:
        write_inputs(folder)
        for nth in range(asked.rounds):
            for case in cases:
                for name in SERVERS if nth % 2 == 0 else SERVERS[::-1]:
                    figures = tried(servers, name, lambda at, case=case: run(at, case, asked.seconds, folder))
                    runs[case][name].append(figures)
                    print(
                        f"round {nth + 1}: {case}: {name} {figures.per_s:.0f}/s, p99 {figures.p99_us:.0f} us",
                        flush=True,
                    )
    return runs


def tried(servers: Servers, name: str, run: Callable[[str], Figures]) -> Figures:
    """Returns the figures of a run on a server, which is started anew where the run fails: under many streams Triton
    2.51 now and then dies of a fault of its own (in TRITONSERVER_InferenceRequestDelete).
    """
    for _ in range(TRIES - 1):
        try:
            return run(servers.addresses[name])
        except perf_analyzer.PerfAnalyzerError as error:
            print(f"again, since {error}", flush=True)
            servers.start(name)
    return run(servers.addresses[name])


def ratios(of: dict[str, list[Figures]], figure: str) -> list[float]:
    """duly's over Triton's, in each round."""
    pairs = zip(*(of[name] for name in SERVERS), strict=True)
    return [getattr(duly, figure) / getattr(triton, figure) for duly, triton in pairs]


def spread(values: Sequence[float], digits: int) -> str:
    """The median, with the least and the greatest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(runs: Runs) -> list[str]:
    lines = [
        "| case | | answers/s | p50 ms | p99 ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case, of in runs.items():
        for name in SERVERS:
            rate = spread([each.per_s for each in of[name]], 0)
            p50, p99 = (spread([getattr(each, what) / 1e3 for each in of[name]], 2) for what in ("p50_us", "p99_us"))
            lines.append(f"| {case} | {name} | {rate} | {p50} | {p99} |")
        found = (spread(ratios(of, figure), 2) for figure in ("per_s", "p50_us", "p99_us"))
        lines.append(f"| | duly/Triton | {' | '.join(found)} |")
    return lines


def verdicts(runs: Runs) -> list[str]:
    """A line for each case that an aim is about."""
    lines = []
    for case, of in runs.items():
        for aim in AIMS:
            if (aim.model, aim.shared_memory) != (case.model, case.shared_memory):
                continue
            if case.concurrency not in aim.concurrencies:
                continue
            found = ratios(of, aim.figure)
            held = aim.least <= statistics.median(found) <= aim.most
            wanted = f"at least {aim.least}" if aim.least else f"at most {aim.most}"
            lines.append(f"{'holds' if held else 'MISSED'}: {case}: {aim.figure} {spread(found, 2)}, {wanted}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=9.0, help="of each run")
    parser.add_argument("--model", choices=[*CONCURRENCIES], action="append", help="one of them; again for more")
    parser.add_argument("--concurrency", type=int, action="append", help="one of them; again for more")
    parser.add_argument("--way", choices=["unary", "streaming"], action="append", help="one of them")
    parser.add_argument("--no-shared-memory", action="store_true", help="leave those cases out")
    parser.add_argument("--out", type=Path, help="a file for all figures, as JSON")
    asked = parser.parse_args()
    for name in SERVERS:
        if missing := PEERS[name].missing():
            sys.exit(f"{name}: {missing}")
    by_tool = bool(perf_analyzer.tool())
    shared = [False, True] if by_tool and perf_analyzer.cuda_runtime() and not asked.no_shared_memory else [False]
    cases = [
        Case(model, concurrency, way, memory)
        for model in asked.model or CONCURRENCIES
        for concurrency in asked.concurrency or CONCURRENCIES[model]
        for way in asked.way or ("unary", "streaming")
        for memory in shared
    ]
    print(f"load comes from {'perf_analyzer' if by_tool else 'tritonclient in Python'}", flush=True)
    runs = measure(asked, cases, run_perf_analyzer if by_tool else run_tritonclient)
    if asked.out:
        found = [
            {**asdict(case), name: [asdict(each) for each in of[name]]} for case, of in runs.items() for name in of
        ]
        asked.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(*table(runs), "", *verdicts(runs), sep="\n")


if __name__ == "__main__":
    main()
