"""Of models that keep state runs of neighbours are kept, and of each frame it is known what its state had seen."""

from collections import Counter
from random import Random

import pytest
from scipy.stats import chisquare

from duly.sampling.reservoir import Reservoir
from duly.sampling.runs import Runs, State, States


def offered(places: int, run_frames: int, begins: list[bool], random: Random) -> dict[int, int]:
    """The number of the frame in each place, after all of them were offered."""
    runs = Runs(Reservoir(places, random), run_frames)
    kept = {}
    for number, first in enumerate(begins):
        place = runs.offer(first)
        if place is not None:
            assert 0 <= place < places * run_frames
            kept[place] = number
    return kept


@pytest.mark.parametrize("seed", range(60))
def test_runs_are_of_neighbours_and_go_over_no_beginning_of_a_state(seed: int) -> None:
    random = Random(seed)
    places, run_frames = random.randint(1, 4), random.randint(1, 6)
    begins = [number == 0 or random.random() < 0.05 for number in range(random.randint(1, 300))]
    runs = Runs(Reservoir(places, random), run_frames)
    before: int | None = None
    for number, first in enumerate(begins):
        place = runs.offer(first)
        if first and place is not None:
            assert place % run_frames == 0, "a state's first frame is the first of its run"
        if number and not first and place is not None and place % run_frames:
            assert before == place - 1, "the one before it is kept, and beside it"
        if number and not first and place is None and before is not None:
            assert before % run_frames == run_frames - 1, "a run that has begun is kept to its end"
        before = place


def test_every_run_is_as_likely_to_be_kept() -> None:
    random, rounds, count = Random(5), 8_000, 30
    kept: Counter[int] = Counter()
    for _ in range(rounds):
        there = offered(3, 4, [number == 0 for number in range(4 * count)], random)
        assert len(there) == 12
        for place in range(0, 12, 4):
            run = [there[place + nth] for nth in range(4)]
            assert run == list(range(run[0], run[0] + 4))
            kept[run[0] // 4] += 1
    assert chisquare([kept[number] for number in range(count)]).pvalue > 0.01


def test_what_is_drawn_follows_from_the_seed() -> None:
    begins = [number % 50 == 0 for number in range(1000)]
    first, again, other = (offered(4, 8, begins, Random(seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("seed", range(60))
def test_a_state_that_is_told_is_the_one_there_was(seed: int) -> None:
    """Whatever comes: streams beyond those that there is room for are unknown, and never told wrongly."""
    random = Random(seed)
    states = States(random.randint(1, 4))
    truth: dict[int, State] = {}
    newest, known = 0, 0
    open_streams: list[int] = []
    for step in range(400):
        what = random.random()
        if what < 0.05 or not open_streams:
            newest += random.randint(1, 3)
            open_streams.append(newest)
        elif what < 0.08:
            open_streams.remove(random.choice(open_streams))
            states.forget(lambda stream_id: stream_id not in open_streams)
        else:
            stream_id = random.choice(open_streams)
            anew = random.random() < 0.05
            if anew or stream_id not in truth:
                truth[stream_id] = State(step, 0)
            told = states.ran(stream_id, step, anew)
            assert told in (None, truth[stream_id])
            assert told is not None or not anew, "the beginning of a state is always seen"
            known += told is not None
            truth[stream_id] = truth[stream_id]._replace(age=truth[stream_id].age + 1)
        assert len(states) <= 4
    assert known


def test_with_room_for_all_every_state_is_known() -> None:
    states = States(2)
    assert [states.ran(7, frame_id, anew=False) for frame_id in (3, 5, 6)] == [State(3, 0), State(3, 1), State(3, 2)]
    assert states.ran(7, 9, anew=True) == State(9, 0)
    assert states.ran(7, 10, anew=False) == State(9, 1)
    assert states.ran(8, 1, anew=False) == State(1, 0)
    states.forget(lambda stream_id: stream_id == 7)
    assert len(states) == 1
