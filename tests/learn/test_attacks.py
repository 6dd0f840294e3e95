"""Attacks on a linear model, of which it is known how far the worst input within a ball can bring it: its margin falls
by epsilon times the sum of the magnitudes of its weights, and not a bit more.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from duly.agreement.boxes import BoxesF1
from duly.agreement.measures import Binary, Closeness, Outputs, TopOne
from duly.models.spec import Signature, TensorSpec
from duly_learn.frames.frame import Array, LearnFrame
from duly_learn.robustness.attack import Effort, attack_row
from duly_learn.robustness.attacks.ball import Ball, ball
from duly_learn.robustness.attacks.objective import LOSS_LEAST, objective_of
from duly_learn.robustness.attacks.search import Search
from duly_learn.robustness.attacks.spsa import Spsa
from duly_learn.robustness.attacks.square import Square
from duly_learn.robustness.bench import Bench, Deadline
from duly_learn.robustness.inputs import plain
from duly_learn.robustness.kinds import Kind, extent_of
from duly_learn.robustness.result import Level, Row
from duly_learn.robustness.result import Tested as Version  # pytest would take the name for a test
from duly_learn.robustness.run import compared

WIDE = (10, 10, 3)


def weights(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(1).normal(size=shape)


def ball_of(centre: Array, epsilon: float, kind: Kind) -> Ball:
    """A ball whose epsilon is that of the elements themselves."""
    low_high = np.zeros_like(centre), np.ones_like(centre)
    extent = extent_of(kind, centre, low_high)
    return ball(centre, epsilon / (extent.spreads if kind is Kind.TABLE else 1.0), kind, extent)  # type: ignore[arg-type]


def centre_of(kind: Kind) -> Array:
    shape = {Kind.PICTURE: WIDE, Kind.SIGNAL: (200,), Kind.TABLE: (40,)}[kind]
    return np.full(shape, 0.5)


def run(search: Search, loss: Callable[[Array], float], queries: int) -> tuple[float, Array]:
    """Attacks with at most so many queries; returns the least loss, and the input that has it."""
    best_loss, best = math.inf, np.zeros(0)
    for _ in range(queries // search.asks):
        inputs = search.ask()
        assert len(inputs) == search.asks
        losses = [loss(each) for each in inputs]
        least = int(np.argmin(losses))
        if losses[least] < best_loss:
            best_loss, best = losses[least], inputs[least]
        search.tell(losses)
    return best_loss, best


def searches(kind: Kind, around: Ball, queries: int, seed: int) -> dict[str, Search]:
    return {"square": Square(around, kind, queries, (seed,)), "spsa": Spsa(around, (seed,))}


@pytest.mark.parametrize("kind", [Kind.PICTURE, Kind.SIGNAL, Kind.TABLE])
@pytest.mark.parametrize(("attack", "queries", "share"), [("square", 3000, 0.85), ("spsa", 3300, 0.85)])
def test_the_worst_case_of_a_linear_model_is_approached_and_never_passed(
    kind: Kind, attack: str, queries: int, share: float
) -> None:
    centre, epsilon = centre_of(kind), 0.1
    w = weights(centre.shape)
    worst = float((w * centre).sum() - epsilon * np.abs(w).sum())
    for seed in range(2):
        around = ball_of(centre, epsilon, kind)
        search = searches(kind, around, queries, seed)[attack]
        best_loss, best = run(search, lambda x: float((w * x).sum()), queries)
        fallen = ((w * centre).sum() - best_loss) / (epsilon * np.abs(w).sum())
        assert share < fallen <= 1 + 1e-9, f"{fallen:.3f} of what is possible"
        assert best_loss >= worst - 1e-9
        assert np.abs(best - centre).max() <= epsilon + 1e-9


@pytest.mark.parametrize("attack", ["square", "spsa"])
def test_everything_asked_for_lies_in_the_ball_and_in_what_can_be_sent(attack: str) -> None:
    centre = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    extent = extent_of(Kind.PICTURE, centre, [centre])
    around = ball(centre, 8 / 255, Kind.PICTURE, extent)
    search = searches(Kind.PICTURE, around, 200, 0)[attack]
    chance = np.random.default_rng(0)
    for _ in range(200 if attack == "square" else 6):
        inputs = search.ask()
        for each in inputs:
            assert each.dtype == np.uint8
            assert np.abs(each.astype(int) - centre).max() <= 8
        search.tell(chance.random(len(inputs)).tolist())


def test_a_ball_less_than_one_step_and_what_is_not_finite_stay_as_they_are() -> None:
    picture = np.full((8, 8, 3), 7, np.uint8)
    extent = extent_of(Kind.PICTURE, picture, [picture])
    assert not ball(picture, 0.9 / 255, Kind.PICTURE, extent).radius.any()
    assert ball(picture, 1.9 / 255, Kind.PICTURE, extent).radius.max() == 1
    row = np.float32([1, np.nan, 3])
    around = ball(row, 0.5, Kind.TABLE, extent_of(Kind.TABLE, row, [row, np.float32([0, 0, 0])]))
    assert around.radius[1] == 0
    assert np.isnan(around.around(np.ones(3))[1])


def test_the_same_seed_asks_for_the_same() -> None:
    def asked(seed: int) -> list[Array]:
        search = Square(ball_of(centre_of(Kind.PICTURE), 0.1, Kind.PICTURE), Kind.PICTURE, 50, (seed,))
        found = []
        for nth in range(50):
            found += search.ask()
            search.tell([float(nth % 7)])
        return found

    assert all(map(np.array_equal, asked(4), asked(4)))
    assert not all(map(np.array_equal, asked(4), asked(5)))


def test_squares_become_smaller_and_begin_as_stripes() -> None:
    search = Square(ball_of(np.full((50, 50, 1), 0.5), 0.1, Kind.PICTURE), Kind.PICTURE, 1000, (0,))
    stripes = search.ask()[0]
    assert (stripes == stripes[:1]).all()
    search.tell([0.0])
    moved = []
    for _ in range(999):
        moved.append(int((search.ask()[0] != stripes).sum()))
        search.tell([1.0])  # nothing is kept
    assert moved[0] == round((0.05 * 2500) ** 0.5) ** 2 or moved[0] <= 121
    assert max(moved[:5]) > 20
    assert set(moved[-100:]) <= {0, 1, 4}


# ---- what is made less ----


def signature(*outputs: tuple[str, str, tuple[int, ...]], stateful: bool = False) -> Signature:
    specs = tuple(TensorSpec(name=name, datatype=kind, shape=shape) for name, kind, shape in outputs)  # type: ignore[arg-type]
    return Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(40,)),),
        outputs=specs,
        batch_sizes=(1, 8),
        any_size=True,
        stateful=stateful,
    )


def test_margins_sides_and_boxes() -> None:
    scores = signature(("y", "FP32", (3,)))
    margin = objective_of(TopOne("y"), scores)
    right = {"y": np.float32([0, 1, 0])}
    assert margin.loss(right, {"y": np.float32([0.2, 0.7, 0.1])}) == pytest.approx(0.5)
    assert margin.loss(right, {"y": np.float32([0.6, 0.3, 0.1])}) == pytest.approx(-0.3)
    assert margin.loss(right, {"y": np.float32([np.nan, 0.3, 0.1])}) == LOSS_LEAST
    side = objective_of(Binary("y", 0.5), signature(("y", "FP32", (1,))))
    assert side.loss({"y": np.float32([0.1])}, {"y": np.float32([0.4])}) == pytest.approx(0.1)
    assert side.loss({"y": np.float32([0.9])}, {"y": np.float32([0.4])}) == pytest.approx(-0.1)
    detector = signature(("boxes", "FP32", (-1, 4)), ("scores", "FP32", (-1,)), ("classes", "INT64", (-1,)))
    found = objective_of(BoxesF1(), detector)
    box = np.float32([[0, 0, 10, 10]])
    expected = {"boxes": box, "scores": np.float32([0.9]), "classes": np.int64([3])}
    assert found.loss(expected, expected) == pytest.approx(0.9)
    assert found.loss(expected, expected | {"classes": np.int64([4])}) == 0
    none = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "classes": np.zeros(0)}
    assert found.loss(expected, none) == 0
    assert found.loss(none, expected) == pytest.approx(-0.9)
    beside = objective_of(TopOne("y"), signature(("y", "INT64", (1,)), ("p", "FP32", (3,))))
    scored = {"y": np.int64([1]), "p": np.float32([0.2, 0.7, 0.1])}
    assert beside.loss(scored, {"y": np.int64([0]), "p": np.float32([0.7, 0.2, 0.1])}) == pytest.approx(-0.5)
    whole = objective_of(TopOne("y"), signature(("y", "INT64", (1,))))
    assert whole.loss({"y": np.int64([1])}, {"y": np.int64([1])}) == 1
    assert objective_of(Closeness("y"), scores).loss(right, right) == 1


# ---- frames side by side ----


class Linear:
    """A model of two classes with a known worst case, which counts what it was asked."""

    def __init__(self, w: Array, stateful: bool = False) -> None:
        self.signature = signature(("y", "FP32", (2,)), stateful=stateful)
        self._w = w
        self.asked = self.flagged = 0

    def outcomes(self, frames: Sequence[LearnFrame], batch: int = 1) -> list[Outputs | str]:
        self.asked += len(frames)
        given: list[Outputs | str] = []
        for frame in frames:
            margin = float((self._w * np.asarray(frame.inputs["x"], np.float64)).sum())
            given.append({"y": np.array([margin, -margin])})
        return given


def bench_of(model: Linear, frames: Sequence[LearnFrame], seed: int = 0) -> Bench:
    found = plain(frames, model.signature, stated={"x": Kind.TABLE})
    expected = [{"y": np.array([1.0, 0.0])}] * len(frames)
    return Bench(model, found, expected, expected, TopOne("y"), 8, seed, lambda count: None)


def linear_frames(w: Array, margins: Sequence[float]) -> list[LearnFrame]:
    """Frames whose margins are so many times the most that epsilon = 1 can take away, in deviations of columns."""
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(len(margins), w.size))
    spread = rows.std(axis=0)
    for row, margin in zip(rows, margins, strict=True):
        row += w * (margin * (np.abs(w) * spread).sum() - (w * row).sum()) / (w * w).sum()
    return [LearnFrame({"x": row.astype(np.float32)}, "s", nth) for nth, row in enumerate(rows)]


def attack(
    model: Linear,
    frames: Sequence[LearnFrame],
    epsilons: Sequence[float],
    queries: int,
    name: str,
    seconds: float = 1e9,
) -> Row:
    bench = bench_of(model, frames)
    scores = tuple(bench.score(nth, each) for nth, each in enumerate(model.outcomes(frames)))
    effort = Effort(name, range(len(frames)), queries, Deadline(seconds, lambda: 0.0))
    return attack_row(bench, Level("clean", None, scores), bench.plain.harmable[0], epsilons, effort, name)


@pytest.mark.parametrize("name", ["square", "spsa"])
def test_epsilon_0_changes_nothing_and_asks_nothing(name: str) -> None:
    w = weights((40,))
    model, frames = Linear(w), linear_frames(w, [0.5, 1.0, -1.0])
    (level,) = attack(model, frames, [0.0], 500, name).levels
    assert level.scores == (1, 1, 0)
    assert (level.queries, level.at_limit, model.asked) == (0, 0, 3)


@pytest.mark.parametrize("name", ["square", "spsa"])
def test_what_can_be_broken_is_and_what_cannot_be_is_not(name: str) -> None:
    """The spreads are those of the frames after their margins were set: bounds hold with those."""
    w = weights((40,))
    frames = linear_frames(w, [0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
    arrays = np.stack([np.asarray(frame.inputs["x"], np.float64) for frame in frames])
    most = (np.abs(w) * arrays.std(axis=0)).sum()
    reach = (arrays @ w) / most
    row = attack(Linear(w), frames, [0.3, 0.1], 1500, name)
    assert [level.amount for level in row.levels] == [0.1, 0.3]
    for level in row.levels:
        for ratio, score in zip(reach / level.amount, level.scores, strict=True):
            if ratio > 1:
                assert score == 1, "no input within the ball breaks it"
            elif ratio < 0.8:
                assert score == 0, f"an input at {ratio:.2f} of the worst case was not found"
    broken = row.levels[1].scores.count(0)
    assert 0 < broken < 6
    assert row.levels[1].at_limit == 6 - broken


def test_queries_are_bounded_and_what_is_broken_is_left_alone() -> None:
    w = weights((40,))
    model = Linear(w)
    row = attack(model, linear_frames(w, [9.0, 9.0, -1.0]), [0.1], 70, "spsa")
    assert row.levels[0].queries == 2 * 66, "a third step would be beyond the limit"
    assert row.levels[0].scores == (1, 1, 0)
    assert attack(model, linear_frames(w, [9.0, 9.0]), [0.1], 70, "square").levels[0].queries == 2 * 70


def test_not_even_the_first_step_is_beyond_the_limit() -> None:
    w = weights((40,))
    model = Linear(w)
    (level,) = attack(model, linear_frames(w, [9.0, 9.0, -1.0]), [0.1], 32, "spsa").levels
    assert (level.queries, level.at_limit, level.out_of_time, model.asked) == (0, 2, 0, 3)


def test_each_ball_has_its_share_of_the_time() -> None:
    w = weights((40,))
    frames = linear_frames(w, [9.0, 9.0])
    bench, now = bench_of(Linear(w), frames), 0.0

    def clock() -> float:
        return now

    class Slow(Linear):
        def outcomes(self, frames: Sequence[LearnFrame], batch: int = 1) -> list[Outputs | str]:
            nonlocal now
            now += 1.0
            return super().outcomes(frames, batch)

    bench = replace(bench, model=Slow(w))
    effort = Effort("square", range(2), 1000, Deadline(30.0, clock))
    row = attack_row(bench, Level("clean", None, (1, 1)), bench.plain.harmable[0], [0.1, 0.2, 0.3], effort, "square")
    assert [level.queries for level in row.levels] == [20, 20, 20]
    assert [level.at_limit for level in row.levels] == [2, 2, 2]
    assert [level.out_of_time for level in row.levels] == [2, 2, 2]
    enough = Effort("square", range(2), 20, Deadline(61.0, clock))
    row = attack_row(bench, Level("clean", None, (1, 1)), bench.plain.harmable[0], [0.1, 0.2, 0.3], enough, "square")
    assert [(level.queries, level.at_limit, level.out_of_time) for level in row.levels] == [(40, 2, 0)] * 3


def test_without_time_there_is_no_level() -> None:
    w = weights((40,))
    row = attack(Linear(w), linear_frames(w, [9.0]), [0.1, 0.2], 70, "square", seconds=0)
    assert (row.levels, row.left_out) == ((), 2)


def test_what_was_cut_short_is_not_compared() -> None:
    def tested(*out_of_time: int) -> Version:
        levels = tuple(Level(f"{nth}", nth, (1.0, 0.0), out_of_time=each) for nth, each in enumerate(out_of_time))
        return Version("m/1", Level("clean", None, (1.0, 1.0)), (Row("square", "attack", ("x",), "", "", levels),))

    def labels(first: Version, second: Version) -> list[str]:
        return [each.label for each in compared(first, second, 0)]

    assert labels(tested(0, 0, 0), tested(0, 0, 0)) == ["clean", "0", "1", "2"]
    assert labels(tested(0, 0, 0), tested(0, 1, 0)) == ["clean", "0"], "within a larger ball one goes on from there"
    assert labels(tested(1, 0, 0), tested(0, 0, 0)) == ["clean"]
    assert labels(tested(0, 0, 0), tested(0)) == ["clean", "0"]
    assert tested(0, 1).is_cut
    assert not tested(0, 0).is_cut


def test_what_the_model_refuses_is_no_success() -> None:
    w = weights((40,))
    frames = linear_frames(w, [0.1, 0.1, 0.1])
    assert attack(Linear(w), frames, [0.5], 300, "square").levels[0].scores == (0, 0, 0)
    true = [np.asarray(frame.inputs["x"]) for frame in frames]

    class Guarded(Linear):
        def outcomes(self, frames: Sequence[LearnFrame], batch: int = 1) -> list[Outputs | str]:
            given = super().outcomes(frames, batch)
            known = [any(np.array_equal(np.asarray(frame.inputs["x"]), each) for each in true) for frame in frames]
            return [outcome if is_true else "looks odd" for outcome, is_true in zip(given, known, strict=True)]

    row = attack(Guarded(w), frames, [0.5], 40, "square")
    assert row.levels[0].scores == (1, 1, 1)
    assert row.levels[0].at_limit == 3


def test_a_model_with_state_runs_all_frames_for_each_query() -> None:
    w = weights((40,))
    model = Linear(w, stateful=True)
    row = attack(model, linear_frames(w, [9.0, 9.0, 9.0]), [0.1], 20, "square")
    assert model.asked == 3 + 20 * 3
    assert row.levels[0].scores == (1, 1, 1)
