"""`duly demo network`: a gateway scores each website that is asked for, and turns the phishing ones away."""

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duly.demo import training
from duly.demo.clips import Clip
from duly.demo.description import Demo, Files
from duly.demo.judgement import Verdicts, Words
from duly.demo.sensors import Sensor
from duly.demo.summary import milliseconds, perceived
from duly_client import Client

LEARNT_ROWS = 700
"""The first rows, from which the model learns; the others are the ground truth."""
RATE_HZ = 25
BUDGET_MS = 50.0
PHISHING_MIN = 0.5

_WORDS = Words(yes="TURNED AWAY", no="let through", things="phishing sites", others="honest sites")


def read_sites(path: Path) -> tuple[training.Floats, npt.NDArray[np.bool_]]:
    """Reads nine traits of each website, [N, 9], and whether it is there for phishing, [N]."""
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.float32)
    return table[:, :-1], table[:, -1] > 0


def _make(files: Files, models: Path) -> None:
    rows, phishing = read_sites(files["phishing.csv.gz"])
    training.write_forest(models / "sites/1/model.onnx", rows[:LEARNT_ROWS], phishing[:LEARNT_ROWS])


async def _sensors(client: Client, files: Files) -> list[Sensor]:
    rows, phishing = read_sites(files["phishing.csv.gz"])
    period_ns = 1_000_000_000 // RATE_HZ
    clip = Clip(list(rows[LEARNT_ROWS:]), period_ns)
    verdicts = Verdicts(phishing[LEARNT_ROWS:].tolist(), _WORDS, PHISHING_MIN)
    return [Sensor("gateway", "sites", clip, period_ns, 0, BUDGET_MS, "CRITICAL", "ALL", verdicts)]


def _words(sensors: list[Sensor], seconds: float) -> str:
    (gateway,) = sensors
    return (
        f"Streaming for {seconds:g} s: {gateway.rate_hz:g} websites a second are asked for, and each is scored within "
        f"{gateway.budget_ms:g} ms or the visitor waits. No package was found that ships recorded intrusions "
        "with ground truth, so this is what comes nearest: 1,250 real websites, of which people found out who is there "
        f"for phishing. The model learnt from {LEARNT_ROWS}; the others are asked for."
    )


def _summary(sensors: list[Sensor]) -> dict[str, str]:
    (gateway,) = sensors
    tally = gateway.tally
    slow_ns = tally.latency_ns(99)
    slow = f", 99 of 100 within {milliseconds(slow_ns)}" if slow_ns is not None else ""
    return {
        "gateway": f"{tally.on_time:,} of {tally.sent:,} websites were scored in time{slow}.",
        "truth": perceived(gateway),
    }


DEMO = Demo(
    name="network",
    assets=("phishing.csv.gz",),
    models=("sites",),
    made_by=(Path(__file__),),
    make=_make,
    sensors=_sensors,
    words=_words,
    summary=_summary,
)
