"""What the server makes of what a learner says, whatever that is."""

import json
from pathlib import Path

import pytest

from duly.rpc.duly_v1.learning import learning
from duly.runtime.catalogue import Catalogue
from duly.runtime.learning import (
    DRIFTS_MAX,
    MODELS_MAX,
    SIGNALS_MAX,
    Drift,
    LearnerSettings,
    Learning,
    missing_packages,
)


class Said:
    """A server's side of a learner, and a pipe to speak into."""

    def __init__(self) -> None:
        self.drifted: list[tuple[str, Drift]] = []
        settings = LearnerSettings(Path("models"), Path("store"), False, 1 << 30, 1 << 30, 86_400.0)
        self.learning = Learning(
            settings,
            Catalogue(("cpu:0",)),
            lambda name, version: True,
            lambda name, why: self.drifted.append((name, why)),
        )

    def say(self, *lines: object) -> None:
        for line in lines:
            data = line if isinstance(line, bytes) else json.dumps(line).encode()
            self.learning.heard(data + b"\n")


DRIFT = {
    "event": "drift", "model": "fraud", "signal": "errors", "at": 812, "text": "it drifts", "unix_ns": 17 * 10**17,
    "stream": "desk",
}  # fmt: skip
ATTEMPT = {"event": "attempt", "model": "fraud", "result": "published", "version": "2", "text": "", "figures": {"a": 1}}
STATE = {
    "event": "state", "model": "fraud", "phase": "watching", "version": "1", "published": "", "frames": 900,
    "labels": 812, "unusable_labels": 3, "labels_of_regime": 812, "drifts": 1,
}  # fmt: skip


async def test_what_is_said_is_counted_and_told_on() -> None:
    said = Said()
    said.say(STATE, DRIFT, DRIFT, ATTEMPT, {"event": "problem", "model": "fraud", "text": "the disk is full"})
    learned = said.learning.models["fraud"]
    assert (learned.frames, learned.labels, learned.unusable_labels) == (900, 812, 3)
    assert learned.problem == "the disk is full"
    drift = Drift("errors", 17 * 10**17, "desk", "it drifts")
    assert said.drifted == [("fraud", drift)] * 2
    (told,) = learning("fraud", learned).last_drifts[1:]
    assert (told.signal, told.seen_unix_nano, told.stream, told.text) == ("errors", 17 * 10**17, "desk", "it drifts")
    counts = said.learning.counts()
    assert counts.drifts == {("fraud", "errors"): 2}
    assert counts.attempts == {("fraud", "published"): 1}


async def test_a_line_may_come_in_pieces() -> None:
    said = Said()
    data = json.dumps(STATE).encode() + b"\n"
    for at in range(len(data)):
        said.learning.heard(data[at : at + 1])
    assert said.learning.models["fraud"].frames == 900


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 60_000, {"event": "drift"}, {"event": "attempt", "model": "x"},
        {"event": "drift", "model": "x", "signal": 3, "at": "soon"}, {"event": "state", "model": "x", "phase": []},
        {"event": "attempt", "model": "x", "result": "won", "figures": {"a": "much"}}, {"model": "x"},
        DRIFT | {"at": float("inf")}, DRIFT | {"unix_ns": -1}, DRIFT | {"unix_ns": 1 << 63},
        STATE | {"labels": float("inf")},
    ],
)  # fmt: skip
async def test_what_is_no_event_changes_nothing(line: object) -> None:
    said = Said()
    said.say(line, STATE)
    assert said.learning.models["fraud"].frames == 900
    assert said.learning.counts().attempts == {}


async def test_names_and_lines_are_bounded() -> None:
    said = Said()
    for at in range(SIGNALS_MAX + 50):
        said.say(DRIFT | {"signal": f"input.x[{at}]"})
    assert len(said.learning.models["fraud"].drifts) == SIGNALS_MAX + 1
    assert said.learning.models["fraud"].drifts["(others)"] == 50
    assert len(said.learning.models["fraud"].last_drifts) == DRIFTS_MAX
    for at in range(MODELS_MAX + 10):
        said.say(STATE | {"model": f"m{at}"})
    assert len(said.learning.models) == MODELS_MAX
    said.learning.heard(b"x" * 1_000_000)
    said.say(b"", STATE | {"frames": 1000})
    assert said.learning.models["fraud"].frames == 1000


def test_the_package_that_is_missing_is_named() -> None:
    assert missing_packages(lambda name: None if name == "river" else name) == "river"
    assert missing_packages(lambda name: name) == ""
