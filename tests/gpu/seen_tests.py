"""A plugin of pytest that notes the outcome of each test in a file as soon as it is known, so that a run which is
stopped leaves what it had: `pytest -p tests.gpu.seen_tests`, with the file in $SEEN_TESTS.
"""

import json
import os

import pytest

REASON_CHARS_MAX = 600


def pytest_collection_finish(session: pytest.Session) -> None:
    _note({"collected": len(session.items)})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test has one outcome: that of its call, or of its set-up or its tear-down where these went otherwise."""
    if report.when == "call" or report.outcome != "passed":
        reason = "" if report.passed else _reason(report)
        name = report.nodeid.removeprefix("tests/")
        _note({"test": name, "outcome": report.outcome, "seconds": round(report.duration, 2), "reason": reason})


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):  # a test that was skipped: file, line, reason
        return report.longrepr[2].removeprefix("Skipped: ")[:REASON_CHARS_MAX]
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr)[:REASON_CHARS_MAX]


def _note(line: dict[str, object]) -> None:
    with open(os.environ["SEEN_TESTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
