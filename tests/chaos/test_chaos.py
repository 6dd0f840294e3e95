"""The chaos run itself: it finds what it is there to find, and says so."""

from pathlib import Path

import pytest

from duly.runtime.outcome import Outcome
from duly.streams.stream import Stream
from tests.chaos import __main__ as command
from tests.chaos.attacks import ATTACKS
from tests.chaos.interleaved import Broken, worlds
from tests.chaos.verdict import Finding, told


def test_interleavings_of_cancel_and_close_keep_the_law() -> None:
    did = worlds(seed=1, wanted=1500)
    assert did["cancels"] > 500
    assert did["closes"] > 100
    assert did["ended well"] > 50


@pytest.mark.parametrize("fault", ["lost", "twice"])
def test_a_frame_that_is_lost_or_answered_twice_is_found(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    whole, seen = Stream.deliver, 0

    def deliver(self: Stream, outcome: Outcome) -> None:
        nonlocal seen
        seen += 1
        if seen % 200 or fault == "twice":
            whole(self, outcome)
        if not seen % 200 and fault == "twice":
            self.outbox.put(outcome)

    monkeypatch.setattr(Stream, "deliver", deliver)
    with pytest.raises((Broken, RuntimeError)):
        worlds(seed=1, wanted=3000)


def test_the_table_names_every_failure() -> None:
    held, failed = Finding("one", {"faults": 1000}), Finding("other", {"frames": 3}, ["a frame was lost"], ["no root"])
    text = told([held, failed])
    assert "one    held     1,000 faults" in text
    assert "other  FAILED   3 frames" in text
    assert "! a frame was lost" in text
    assert "not shown: no root" in text


def test_every_row_is_there() -> None:
    for name in command.ROWS:
        assert (Path(command.__file__).parent / f"row_{name}.py").is_file()
    assert len(ATTACKS) >= 25
