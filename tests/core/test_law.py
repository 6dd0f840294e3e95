"""The law of the core under random events of every kind, in every order, faults included."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duly.core.events import FramesArrived, FramesCancelled, LaneUp, ModelReady, ResolveFrame, StreamOpened
from duly.core.fates import FATES, State
from duly.core.scheduler import Scheduler
from duly.core.types import BacklogPolicy, Frame, GapPolicy, StreamClass, StreamTerms
from tests.core.law import row
from tests.core.law_run import MS, command, run

SEEDS, SEEDS_FUSING = range(200), range(125)
RARE = (
    "probes",
    "risks",
    "holds",
    "warm-ups",
    "less accurate",
    "gives way",
    "critical turns",
    "alone",
    "tried again",
    "overload: passed over for a batch that serves more",
    "overload: the lane was given to more critical frames",
    "SLOW_DOWN",
    "SPEED_UP",
    "large",
    "guesses tried",
    "read apart",
    "demoted",
    "told of its period",
    "state moves",
    "joint frames",
    "pieces",
    "parted",
    "spare frames",
    "spare runs",
    "limited",
    "foreseen",
    "came as foreseen",
)
BY_SCHEDULER = (State.ARRIVING, State.WAITING, State.RUNNING)
"""Where the scheduler answers frames; each row of these states must be met."""


def test_the_law_holds_and_every_rule_was_put_to_the_test() -> None:
    seen: Counter[str] = Counter()
    for seed, fusing in [*[(seed, False) for seed in SEEDS], *[(seed, True) for seed in SEEDS_FUSING]]:
        try:
            seen += run(Random(seed), fusing=fusing).seen
        except BaseException as error:
            error.add_note(f"to see it again: {command(seed, fusing=fusing)}")
            raise
    assert [rule for rule in RARE if not seen[rule]] == []
    assert [row(fate) for fate in FATES if fate.state in BY_SCHEDULER and not seen[row(fate)]] == []


@given(random=st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_the_law_holds_in_short_runs(random: Random) -> None:
    """Hypothesis finds the shortest run that breaks it; the notes of the error show what went in."""
    run(random, turns_max=6)


@given(random=st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_the_law_holds_in_short_runs_of_fusion_groups(random: Random) -> None:
    run(random, turns_max=6, fusing=True)


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = run(Random(7)), run(Random(7))
    assert (first.log, first.answers) == (second.log, second.answers)


def test_a_broken_law_shows_what_went_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "frames_waiting_by_model", lambda self: {"none": -1})
    with pytest.raises(AssertionError, match="frames should wait") as broken:
        run(Random(0))
    assert any("LaneUp" in note for note in broken.value.__notes__)


def test_a_gap_skips_a_long_queue_at_once() -> None:
    """However many frames wait behind the gap, each is answered."""
    scheduler = Scheduler()
    scheduler.step(0, LaneUp("cpu:0"))
    scheduler.step(0, ModelReady("speech/1", "cpu:0", "default", {1: (MS,)}, any_size=True, stateful=True))
    scheduler.step(
        0, StreamOpened(1, StreamTerms(StreamClass.STANDARD, BacklogPolicy.ALL, 0, MS, 5000, GapPolicy.SKIP))
    )
    for frame_id in range(4000):
        scheduler.step(0, FramesArrived([Frame(frame_id, 1, frame_id, "speech/1", 10_000 * MS)]))
    actions = scheduler.step(0, FramesCancelled(1, (1,)))
    answered = [action.frame.frame_id for action in actions if isinstance(action, ResolveFrame)]
    assert answered == list(range(1, 4000))
