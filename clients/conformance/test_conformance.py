"""Runs each case of cases.toml: a real server, the program of one language, and what it says compared step by step."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from clients.conformance.conftest import TOKEN, NewServer, open_of
from clients.conformance.matching import fits
from clients.conformance.serving import Server
from clients.conformance.subject import PATIENCE_S, Subject
from clients.conformance.table import CASES

NOBODY = "127.0.0.1:1"
OPEN_TIMEOUT_MS = 120_000
"""How long a stream may take to open where the case states nothing: nothing depends on how busy the machine is."""
FLOOD_PAUSE_S = 0.001
"""Between two frames of a flood; the slow model takes several times as long."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(
    case: dict[str, Any],
    command: list[str],
    cannot: set[str],
    new_server: NewServer,
    shared_server: Callable[[str], Server],
) -> None:
    if case.get("needs") in cannot:
        pytest.skip(f"this client has no {case['needs']}")
    with ExitStack() as stack:
        server = None
        name = case.get("server", "plain")
        if case.get("server_of_its_own"):
            server = stack.enter_context(new_server(name, [open_of(case)]))
        elif name != "none":
            server = shared_server(name)
        subject = stack.enter_context(Subject(command))
        for step in case["steps"]:
            take(step, subject, server)
        if subject.open:
            subject.tell({"do": "finish"})
            assert fits({"reason": "", "message": ""}, subject.until("ended")) == ""
        closed = any(step.get("do") == "close" for step in case["steps"])
        subject.end()
        unanswered = set(subject.sent) - subject.outcomes.keys()
        assert closed or not unanswered, f"frames without an outcome: {sorted(unanswered)}"
        assert subject.outcomes.keys() <= set(subject.sent), "outcomes of frames that were not sent"


def take(step: dict[str, Any], subject: Subject, server: Server | None) -> None:
    """Takes one step of a case."""
    rest = dict(step)
    if kind := rest.pop("do", ""):
        address = NOBODY if server is None else server.address
        if kind == "open":
            rest = {"target": address, "open_timeout_ms": OPEN_TIMEOUT_MS, **rest}
        if rest.get("token") == "$TOKEN":
            rest["token"] = TOKEN
        subject.tell({"do": kind, **rest})
    elif kind := rest.pop("expect", ""):
        problem = expect(kind, rest, subject)
        assert not problem, f"{step}: {problem}"
    elif items := rest.pop("label", []):
        problem = label(items, rest, subject)
        assert not problem, f"{step}: {problem}"
    elif kind := rest.pop("server", ""):
        assert server is not None
        {"kill": server.kill, "start": server.start, "drain": server.drain}[kind]()
    else:
        flood(step["flood"], step["until"], subject)


def label(items: list[dict[str, Any]], wanted: dict[str, Any], subject: Subject) -> str:
    """Has labels sent, again as long as what becomes of them is not known yet; returns what does not fit."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        subject.tell({"do": "feedback", "items": items})
        event = subject.until("labelled")
        if "PENDING" not in event["statuses"] and event["reason"] != "FEEDBACK_UNAVAILABLE":
            return fits({"reason": "", **wanted}, event)
        assert time.monotonic() < give_up_s, f"it is not known what became of {items}"


def expect(kind: str, wanted: dict[str, Any], subject: Subject) -> str:
    """Waits for what the step wants; returns what does not fit."""
    if kind == "outcome":
        return fits({key: value for key, value in wanted.items() if key != "id"}, subject.outcome(wanted["id"]))
    if kind == "outcomes":
        return expect_outcomes(wanted, subject)
    event = subject.until(kind)
    if kind == "opened" and "outputs" in wanted:
        event["outputs"] = [output["name"] for output in event["outputs"]]
    if kind == "tried":
        event |= {"sent": len(event["ids"])}
    if "holds_ns" in wanted:  # the true offset lies in the interval that the client states
        wanted = dict(wanted)
        event["error_ns"] = abs(event["offset_ns"] - wanted.pop("holds_ns"))
        wanted["error_ns_max"] = event["uncertainty_ns"]
    return fits(wanted, event)


def expect_outcomes(wanted: dict[str, Any], subject: Subject) -> str:
    """Waits for the outcomes of frames `first` to `last`, by default of all that were sent."""
    ids = list(range(wanted["first"], wanted["last"] + 1)) if "first" in wanted else list(subject.sent)
    outcomes = [subject.outcome(frame_id) for frame_id in ids]
    for outcome in outcomes:
        says = wanted.get("reasons", {}).get(outcome["status"])
        each = {"status": wanted["status"]} | ({"reason_says": says} if says else {})
        if problem := fits(each, outcome):
            return problem
    for status, least in wanted.get("at_least", {}).items():
        count = sum(outcome["status"] == status for outcome in outcomes)
        if count < least:
            return f"expected at least {least} {status}, got {count} of {len(ids)}"
    if wanted.get("in_order") and list(subject.outcomes) != sorted(subject.outcomes):
        return f"the outcomes came in the order {list(subject.outcomes)}"
    return ""


def flood(command: dict[str, Any], until: dict[str, Any], subject: Subject) -> None:
    """Gives the command again and again until there is an outcome as wanted."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not subject.has_outcome(until):
        assert time.monotonic() < give_up_s, f"no outcome came with {until}"
        subject.tell(command)
        time.sleep(FLOOD_PAUSE_S)
