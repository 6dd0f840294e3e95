"""`duly demo network`: gateways score each website that is asked for, and turn the phishing ones away."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duly.demo import training
from duly.demo.changing import Scoring, learnt, scored
from duly.demo.clips import Clip
from duly.demo.description import Demo, Files
from duly.demo.judgement import Words
from duly.demo.sensors import Labels, Sensor
from duly.demo.serving import Event
from duly_client import Client

LEARNT_SITES = 3000
"""The first sites, from which the model learns; the others stream."""
GATEWAYS = 4
RATE_HZ = 33
"""Sites a second at each gateway. In a minute each that the model has not learnt from is asked for once."""
BUDGET_MS = 50.0
PHISHING_MIN = 0.5
LABEL_AFTER_S = 1.0
"""So long after a site was asked for it is known what it is. In a real network it is hours."""
CHANGES_S = (2.0, 30.0)
"""The software that measures traits is updated so long after the start, and the update is taken back."""
TOLD_THE_OTHER_WAY = (7, 13)
"""Traits that the update tells the other way round: whether the certificate is trusted, and where links lead."""

_WORDS = Words(yes="TURNED AWAY", no="let through", things="phishing sites", others="honest sites")


def read_sites(path: Path) -> tuple[training.Floats, npt.NDArray[np.bool_]]:
    """Reads 23 traits of each website, [N, 23], each -1, 0 or 1, and whether it is there for phishing, [N]."""
    table = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32)
    return table[:, 1:-1], table[:, -1] < 0


def updated(sites: training.Floats) -> training.Floats:
    """Returns the traits as the updated software tells them."""
    told = sites.copy()
    told[:, TOLD_THE_OTHER_WAY] *= -1
    return told


def _make(files: Files, models: Path) -> None:
    sites, phishing = read_sites(files["phishing.csv"])
    training.write_forest(models / "sites/1/model.onnx", sites[:LEARNT_SITES], phishing[:LEARNT_SITES])


async def _sensors(client: Client, files: Files) -> list[Sensor]:
    sites, phishing = read_sites(files["phishing.csv"])
    sites, phishing = sites[LEARNT_SITES:], phishing[LEARNT_SITES:]
    each = len(sites) // GATEWAYS
    changes = [round(change_s * RATE_HZ) for change_s in CHANGES_S]
    period_ns = 1_000_000_000 // RATE_HZ
    sensors = []
    for gateway in range(GATEWAYS):
        part = slice(gateway * each, (gateway + 1) * each)
        truth = phishing[part]
        told = (sites[part], updated(sites[part]), sites[part])
        asked = [
            site
            for number, (start, stop) in enumerate(pairwise([0, *changes, each]))
            for site in told[number][start:stop]
        ]
        sensor = Sensor(
            f"gateway {gateway + 1}",
            "sites",
            Clip(asked, period_ns),
            period_ns,
            period_ns * gateway // GATEWAYS,
            BUDGET_MS,
            "CRITICAL",
            "ALL",
            Scoring(truth.tolist(), changes, _WORDS, PHISHING_MIN),
            Labels(truth.astype(int).tolist(), round(LABEL_AFTER_S * 1e9)),
        )
        sensors.append(sensor)
    return sensors


def _words(sensors: list[Sensor], seconds: float) -> str:
    rate_hz = sum(sensor.rate_hz for sensor in sensors)
    return (
        f"Streaming for {seconds:g} s: {rate_hz:.0f} websites a second are asked for at {len(sensors)} gateways, and "
        f"each is scored within {BUDGET_MS:g} ms or the visitor waits. No package was found that ships recorded "
        "intrusions with ground truth, so this is what comes nearest: 11,055 real websites, of which people found out "
        f"who is there for phishing (UCI). The model learnt from {LEARNT_SITES:,}; the others are asked for. After "
        f"{CHANGES_S[0]:g} s the software that measures their traits is updated, and tells two of 23 the other way "
        f"round; after {CHANGES_S[1]:g} s that is taken back. What a site is, is known {LABEL_AFTER_S:g} s after it, "
        "and told to the server, which learns from it."
    )


def _summary(sensors: list[Sensor]) -> dict[str, str]:
    return {"gateways": scored(sensors)}


def _learnt(sensors: list[Sensor], events: Sequence[Event]) -> dict[str, str]:
    return learnt(sensors, events, ("as learnt", "updated", "taken back"))


DEMO = Demo(
    name="network",
    assets=("phishing.csv",),
    models=("sites",),
    made_by=(Path(__file__),),
    make=_make,
    sensors=_sensors,
    words=_words,
    summary=_summary,
    learnt=_learnt,
)
