"""A trial from its load to its end: stages, reasons, risks; and that nothing comes after the end."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.trials.accuracy import LabelledFrame
from duly.trials.alike import Alike
from duly.trials.comparison import By
from duly.trials.rules import AtLimit, Rules
from duly.trials.switchback import Switchback
from duly.trials.trial import Effect, Entered, Promote, Stage, Trial, TurnChanged

S = 1_000_000_000
RULES = Rules(
    agreement_min=0.95,
    on_time_worse_max=0.02,
    accuracy_worse_max=0.05,
    labels_min=20,
    errors_max=0,
    frames_min=100,
    risk=0.05,
    shadow_ns_max=1000 * S,
    canary_ns_max=500 * S,
    canary_block_ns=S,
)


def new(rules: Rules = RULES) -> Trial:
    """A trial whose streams stay with the candidate, in its canary."""
    return Trial(rules, Alike(rules.on_time_worse_max, "a test"))


def begun(rules: Rules = RULES, no_shadow: str = "") -> Trial:
    trial = new(rules)
    trial.begin(0, no_shadow)
    return trial


def frame(trial: Trial, by: By, on_time: bool) -> None:
    trial.frame(0, by, by is By.CANDIDATE, 2, on_time)


def run(trial: Trial, random: Random, agreement: float, mine: float, others: float, frames: int) -> None:
    """Goes on with the trial until it is over, or after so many frames of each kind."""
    for now_ns in range(1, frames + 1):
        if trial.stage.over:
            return
        effects = trial.compared(now_ns, float(random.random() < agreement))
        if any(isinstance(effect, Entered) and effect.stage is Stage.CANARY for effect in effects):
            trial.canary_began(now_ns)
        frame(trial, By.ACTIVE, random.random() < others)
        if trial.stage is Stage.CANARY:
            frame(trial, By.CANDIDATE, random.random() < mine)
        effects += trial.passed(now_ns)
        if any(isinstance(effect, Promote) for effect in effects):
            trial.activated(now_ns)


def test_a_good_candidate_goes_all_the_way() -> None:
    trial = new()
    assert trial.stage is Stage.LOADED
    (begins,) = trial.begin(0)
    assert isinstance(begins, Entered)
    assert begins.stage is Stage.SHADOW
    entered: list[Effect] = []
    while not entered:
        entered = trial.compared(5 * S, 1.0)
    assert entered == [Entered(Stage.CANARY, trial.reason)]
    assert trial.figures().frames_compared == 100, "as many as it takes, and no fewer than frames_min"
    assert trial.reason.startswith("agreement 1.0000 (0.9"), trial.reason
    assert trial.canary_began(5 * S) == [TurnChanged(True)]
    promote: list[Effect] = []
    while not promote:
        frame(trial, By.ACTIVE, True)
        frame(trial, By.CANDIDATE, True)
        promote = trial.passed(6 * S)
    (effect,) = promote
    assert isinstance(effect, Promote)
    assert effect.reason.endswith("2.0% less is allowed; no labels came")
    assert trial.passed(7 * S) == [], "it is asked for once"
    assert trial.activated(8 * S) == [Entered(Stage.ACTIVE, trial.reason)]
    assert (trial.stage, trial.began_ns) == (Stage.ACTIVE, 8 * S)


def test_another_answer_ends_in_the_shadow() -> None:
    trial = begun()
    run(trial, Random(1), 0.7, 1, 1, 1000)
    assert trial.stage is Stage.ROLLED_BACK
    assert trial.figures().canary_frames == 0
    assert "less than asked for" in trial.reason


def test_a_slow_one_ends_in_the_canary() -> None:
    trial = begun()
    run(trial, Random(1), 1.0, 0.6, 1.0, 3000)
    assert trial.stage is Stage.ROLLED_BACK
    assert "worse than asked for" in trial.reason


def test_one_at_whose_expense_others_are_served_ends_in_the_canary() -> None:
    trial = begun(no_shadow="its model keeps state")
    assert trial.stage is Stage.CANARY
    trial = begun()
    for _ in range(500):
        frame(trial, By.OTHER, True)
    while trial.stage is Stage.SHADOW:
        trial.compared(1, 1.0)
    trial.canary_began(1)
    for nth in range(500):
        frame(trial, By.OTHER, nth % 3 > 0)
    trial.passed(2)
    assert trial.stage is Stage.ROLLED_BACK
    assert trial.reason.startswith("others suffer: 6")


def test_errors_are_counted_and_one_too_many_ends_it() -> None:
    trial = begun(replace(RULES, errors_max=2))
    assert trial.failed(1, "a") == trial.failed(1, "b") == []
    (entered,) = trial.failed(1, "no number")
    assert entered == Entered(Stage.ROLLED_BACK, "3 frames failed, 2 are allowed; the last: no number")


def test_the_limits_of_time() -> None:
    trial = begun()
    assert trial.passed(1000 * S - 1) == []
    (entered,) = trial.passed(1000 * S)
    assert entered == Entered(Stage.ROLLED_BACK, "nothing was proven within 1000 s: no frame was compared")
    trial = begun(replace(RULES, at_limit=AtLimit.GO_ON))
    (entered,) = trial.passed(1000 * S)
    assert isinstance(entered, Entered)
    assert entered.stage is Stage.CANARY
    assert trial.passed(1500 * S - 1) == []
    (promote,) = trial.passed(1500 * S)
    assert isinstance(promote, Promote)
    assert trial.passed(1600 * S) == []
    assert trial.broken(1600 * S, "admission refuses it")[0] == Entered(Stage.ROLLED_BACK, "admission refuses it")


def test_drift_ends_it_where_the_rules_say_so() -> None:
    assert begun().drifted(1, "inputs") == []
    (entered,) = begun(replace(RULES, drift_ends=True)).drifted(1, "inputs")
    assert entered == Entered(Stage.ROLLED_BACK, "drift: inputs")


@pytest.mark.parametrize("stage", [Stage.LOADED, Stage.SHADOW, Stage.CANARY])
def test_a_person_has_the_last_word_at_any_time(stage: Stage) -> None:
    trial = new()
    if stage is not Stage.LOADED:
        trial.begin(0, "its model keeps state" if stage is Stage.CANARY else "")
    assert trial.stage is stage
    (entered,) = trial.vetoed(1, "ann", "not today")
    assert entered == Entered(Stage.VETOED, "vetoed by ann: not today")


def test_no_agreement_is_asked_for_where_it_is_meant_to_answer_otherwise() -> None:
    trial = begun(replace(RULES, agreement_min=0))
    run(trial, Random(1), 0.1, 1.0, 1.0, 1000)
    assert trial.stage is Stage.ACTIVE


@pytest.mark.parametrize("agreement", [0.95, 0.9])
def test_what_breaks_a_rule_is_promoted_no_more_often_than_stated(agreement: float) -> None:
    runs, promoted = 200, 0
    for seed in range(runs):
        trial = begun()
        run(trial, Random(seed), agreement, 1.0, 1.0, 700)
        promoted += trial.stage in (Stage.ACTIVE, Stage.CANARY)
    assert promoted <= RULES.risk * runs


def test_what_keeps_all_rules_is_rolled_back_no_more_often_than_stated() -> None:
    runs, rolled_back = 200, 0
    for seed in range(runs):
        trial = begun()
        run(trial, Random(seed), 0.96, 0.93, 0.94, 700)
        rolled_back += trial.stage is Stage.ROLLED_BACK
    assert rolled_back <= RULES.risk * runs


def test_the_drawn_streams_go_over_in_turns_until_it_is_proven() -> None:
    trial = Trial(RULES, Switchback(RULES.on_time_worse_max, RULES.canary_block_ns, Random(1)))
    trial.begin(0, "its model keeps state")
    assert trial.due_ns == 0, "the canary has not begun"
    (turn,) = trial.canary_began(S)
    assert isinstance(turn, TurnChanged)
    assert trial.due_ns == 2 * S
    now_ns, turns, effects = S, [turn.has_candidate], [*trial.passed(S)]
    assert not effects
    while not any(isinstance(effect, Promote) for effect in effects):
        for nth in range(3):
            at_ns = now_ns + (3 + nth) * S // 10
            trial.frame(at_ns, By.CANDIDATE if turns[-1] else By.ACTIVE, True, 2, True)
        now_ns = trial.due_ns
        effects = trial.passed(now_ns)
        turns += [effect.has_candidate for effect in effects if isinstance(effect, TurnChanged)]
    assert sum(turns[:-2:2]) + sum(turns[1:-2:2]) == len(turns[:-2]) // 2, "half of the time with each"
    assert trial.figures().canary_frames == trial.figures().rest_frames == 3 * trial.figures().canary_pairs
    assert trial.figures().canary_pairs == 242
    effects = trial.passed(trial.due_ns)
    assert [type(effect) for effect in effects] == [TurnChanged], "while admission is asked turns go on"
    trial.activated(now_ns + S)
    assert trial.due_ns == 0


def labelled(trial: Trial, count: int, mine: float, rest: float, seed: int = 1) -> None:
    """So many frames of each version get a label."""
    random = Random(seed)
    for nth in range(count):
        for by_candidate, share in ((False, rest), (True, mine)):
            said = LabelledFrame("m", True, ("s", nth), 1, random.random() < share)
            trial.label(S, said, by_candidate)


def in_canary(rules: Rules = RULES) -> Trial:
    trial = begun(rules, no_shadow="its model keeps state")
    trial.canary_began(0)
    trial.turn(0)
    for _ in range(300):
        frame(trial, By.ACTIVE, True)
        frame(trial, By.CANDIDATE, True)
    return trial


def test_one_that_is_right_less_often_is_rolled_back() -> None:
    trial = in_canary()
    labelled(trial, 60, 0.5, 0.95)
    trial.passed(2 * S)
    assert trial.stage is Stage.ROLLED_BACK
    assert trial.reason.startswith("by labels 5"), trial.reason
    assert trial.reason.endswith("5.0% less is allowed")


def test_where_labels_come_it_is_promoted_once_they_say_that_it_is_right_as_often() -> None:
    trial = in_canary()
    labelled(trial, 20, 1.0, 1.0)
    assert trial.passed(2 * S) == [], "20 labels prove nothing yet"
    labelled(trial, 80, 1.0, 1.0)
    (promote,) = trial.passed(3 * S)
    assert isinstance(promote, Promote)
    assert promote.reason.endswith("by labels 100.0% of 100 answers right, of the active version's 100.0% of 100")


def test_without_labels_or_with_few_they_decide_nothing() -> None:
    (promote,) = in_canary().passed(2 * S)
    assert isinstance(promote, Promote)
    assert promote.reason.endswith("; no labels came")
    trial = in_canary()
    labelled(trial, 19, 0.0, 1.0)
    (promote,) = trial.passed(2 * S)
    assert isinstance(promote, Promote)
    assert promote.reason.endswith("too few to decide (labels_min)")


HAPPENS = st.sampled_from(
    ["compared", "canary", "other", "began", "failed", "broken", "drifted", "vetoed", "activated", "passed"]
)


@given(st.lists(st.tuples(HAPPENS, st.booleans(), st.integers(0, 400 * S)), max_size=60), st.sampled_from(AtLimit))
def test_stages_go_one_way_and_nothing_comes_after_the_end(
    happens: list[tuple[str, bool, int]], at_limit: AtLimit
) -> None:
    trial = begun(replace(RULES, frames_min=5, agreement_min=0.5, at_limit=at_limit, drift_ends=True, errors_max=3))
    now_ns, promotions = 0, 0
    for what, well, later_ns in happens:
        before, now_ns = trial.stage, now_ns + later_ns
        match what:
            case "compared":
                effects = trial.compared(now_ns, float(well))
            case "canary":
                effects = []
                frame(trial, By.CANDIDATE, well)
            case "other":
                effects = []
                frame(trial, By.ACTIVE if well else By.OTHER, well)
            case "began":
                effects = trial.canary_began(now_ns)
            case "failed":
                effects = trial.failed(now_ns, "no number")
            case "broken":
                effects = trial.broken(now_ns, "its worker ended") if well else []
            case "drifted":
                effects = trial.drifted(now_ns, "inputs") if well else []
            case "vetoed":
                effects = trial.vetoed(now_ns, "ann", "") if well else []
            case "activated":
                effects = trial.activated(now_ns, "by hand") if well else []
            case _:
                effects = trial.passed(now_ns)
        assert trial.stage >= before
        assert not effects or not before.over
        entered = [effect.stage for effect in effects if isinstance(effect, Entered)]
        assert entered == ([trial.stage] if trial.stage is not before else [])
        assert trial.reason
        promotions += sum(isinstance(effect, Promote) for effect in effects)
    assert promotions <= 1
    figures = trial.figures()
    assert figures.agreement_low <= figures.agreement <= figures.agreement_high or not figures.frames_compared
