"""Since when errors are others, and that an episode that passes is no regime."""

import numpy as np

from duly_learn.learner.regimes import Change, Regimes


def errors(seed: int, *parts: tuple[int, float]) -> list[bool]:
    """So many labels with such a share of errors, part by part."""
    random = np.random.default_rng(seed)
    return [bool(wrong) for count, share in parts for wrong in random.random(count) < share]


def run(regimes: Regimes, wrong: list[bool], version: str = "1", first: int = 0) -> list[Change]:
    changes = [regimes.update(number, each, version) for number, each in enumerate(wrong, start=first)]
    return [change for change in changes if change is not None]


def test_a_change_is_seen_soon_and_its_place_is_found() -> None:
    for seed in range(10):
        regimes = Regimes(0.002)
        (change,) = run(regimes, errors(seed, (1000, 0.02), (300, 0.35)))
        assert not change.episode
        assert abs(change.at - 1000) <= 15
        assert change.seen_at - 1000 <= 100
        assert regimes.start == change.at
        assert regimes.within(change.at)
        assert not regimes.within(change.at - 1)


def test_errors_that_stay_as_they_are_change_nothing() -> None:
    found = [change for seed in range(20) for change in run(Regimes(0.002), errors(seed, (5000, 0.05)))]
    assert len(found) <= 1, found


def test_an_episode_is_cut_out_and_the_regime_before_it_goes_on() -> None:
    regimes = Regimes(0.002)
    begins, passes = run(regimes, errors(1, (600, 0.02), (200, 0.6), (400, 0.02)))
    assert (begins.episode, passes.episode) == (False, True)
    assert regimes.start == 0
    assert regimes.within(500)
    assert not regimes.within(700)
    assert regimes.within(1100)


def test_a_regime_that_was_learnt_from_is_no_episode() -> None:
    regimes = Regimes(0.002)
    run(regimes, errors(1, (600, 0.02), (200, 0.6)))
    started = regimes.start
    regimes.confirmed()
    (back,) = run(regimes, errors(2, (400, 0.02)), first=800)
    assert not back.episode
    assert regimes.start == back.at > started


def test_errors_of_another_version_are_watched_anew() -> None:
    regimes = Regimes(0.002)
    assert run(regimes, errors(1, (600, 0.02))) == []
    assert run(regimes, errors(1, (600, 0.4)), version="2", first=600) == []


def test_a_change_before_a_version_began_to_serve_is_seen_in_what_is_known_of_it() -> None:
    regimes = Regimes(0.002)
    run(regimes, errors(1, (600, 0.02)))
    regimes.expect("2", list(enumerate(errors(3, (500, 0.02)), start=100)))
    (change,) = run(regimes, errors(1, (100, 0.4)), version="2", first=600)
    assert 590 <= change.at <= 610
