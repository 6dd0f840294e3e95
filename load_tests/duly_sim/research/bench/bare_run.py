"""The other floor: ONNX Runtime alone, in a process of its own, running batches of one as fast as it can.

    python -m duly_sim.research.bench.bare_run mlp/1/model.onnx --threads 1 --seconds 2

Prints one JSON object: `runs`, `p50_ms`, `p99_ms`.
"""

import json
import os
import time
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported
import onnxruntime

SEED = 1
WARMUP_RUNS = 50
RUNS_MAX = 1_000_000


def open_session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """A CPU session with `threads` intra-op threads that do not spin while idle."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def run_times_ns(session: onnxruntime.InferenceSession, seconds: float) -> npt.NDArray[np.int64]:
    """Times of runs on one random frame, ns, after a warm-up; at least one run, at most `RUNS_MAX`."""
    model_input = session.get_inputs()[0]
    shape = [1, *model_input.shape[1:]]
    frame = np.random.default_rng(SEED).uniform(-1, 1, shape).astype(np.float32)
    feed = {model_input.name: frame}
    for _ in range(WARMUP_RUNS):
        session.run(None, feed)
    times_ns: list[int] = []
    stop_ns = time.monotonic_ns() + int(seconds * 1e9)
    started_ns = finished_ns = time.monotonic_ns()
    while not times_ns or (finished_ns < stop_ns and len(times_ns) < RUNS_MAX):
        started_ns = time.monotonic_ns()
        session.run(None, feed)
        finished_ns = time.monotonic_ns()
        times_ns.append(finished_ns - started_ns)
    return np.array(times_ns)


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Intra-op threads.")
@click.option("--seconds", type=click.FloatRange(0, 3600), default=2.0, show_default=True)
def main(model: Path, threads: int, seconds: float) -> None:
    """Measure ONNX Runtime alone on MODEL, a graph with one FP32 input."""
    times_ms = run_times_ns(open_session(model, threads), seconds) / 1e6
    p50_ms, p99_ms = (float(np.quantile(times_ms, quantile)) for quantile in (0.5, 0.99))
    click.echo(json.dumps({"runs": len(times_ms), "p50_ms": p50_ms, "p99_ms": p99_ms}))


if __name__ == "__main__":
    main()
