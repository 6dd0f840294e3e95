"""Old frames: drawn evenly, whole or not there after a crash, and sorted by what is known now."""

from pathlib import Path

import numpy as np

from duly_learn.learner.old import Old, OldFrames, sort_out
from tests.sampling.made import sample


def test_old_frames_are_drawn_evenly_and_bounded(tmp_path: Path) -> None:
    counts = np.zeros(200)
    for seed in range(60):
        old = OldFrames(tmp_path / str(seed), 20, seed, 1 << 20)
        offered = 0
        for low in range(0, 200, 50):
            offered = old.add(offered, [sample(at) for at in range(low, low + 50)])
        assert offered == 200
        kept = [each.frame_id for each in old.read()]
        assert len(kept) == len(set(kept)) == 20
        counts[kept] += 1
    parts = counts.reshape(4, 50).sum(axis=1)  # 300 expected in each
    assert parts.min() > 230, parts
    assert parts.max() < 370, parts


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    kept = []
    for name in ("a", "b"):
        old = OldFrames(tmp_path / name, 5, 1, 1 << 20)
        old.add(0, [sample(at) for at in range(50)])
        kept.append([each.frame_id for each in old.read()])
    assert kept[0] == kept[1]


def test_what_a_learner_left_that_ended_between_two_renames_is_found(tmp_path: Path) -> None:
    old = OldFrames(tmp_path / "old", 5, 1, 1 << 20)
    old.add(0, [sample(at) for at in range(5)])
    (tmp_path / "old").rename(tmp_path / ".old.gone")
    assert len(OldFrames(tmp_path / "old", 5, 1, 1 << 20).read()) == 5
    (tmp_path / ".old.half").mkdir()
    assert old.add(5, [sample(at) for at in range(5, 9)]) == 9


def test_frames_are_let_go_by_stream_and_id(tmp_path: Path) -> None:
    old = OldFrames(tmp_path / "old", 5, 1, 1 << 20)
    old.add(0, [sample(at) for at in range(5)])
    old.let_go({(sample(1).stream, 1), (sample(3).stream, 3), ("another", 4)})
    assert [each.frame_id for each in old.read()] == [0, 2, 4]


def test_old_frames_are_sorted_by_their_neighbours_now() -> None:
    random = np.random.default_rng(1)
    numbers = random.normal(size=(400, 2))
    labels = (numbers[:, 0] > 0).astype(np.int64)  # what is true now

    def old(x: float, y: float, label: int, came_ns: int = 0) -> Old:
        return Old(sample(1), label, np.array([x, y]), came_ns)

    agrees, over, far, of_now = old(1.0, 0.0, 1), old(1.0, 0.0, 0), old(90.0, -90.0, 0), old(1.0, 0.0, 0, 10)
    found = sort_out([agrees, over, far, of_now], numbers, labels, since_ns=5)
    true, unknown = ([id(each) for each in kind] for kind in (found.true, found.unknown))
    assert true == [id(agrees), id(of_now)]
    # Ranks know no distance beyond the ends: what is far out lies at a corner, where hardly anybody is.
    assert unknown in ([], [id(far)])
    assert id(over) not in unknown
    assert sort_out([], numbers, labels, 5).true == ()


def test_frames_are_let_go_by_age_also_those_of_a_writing_that_broke_off(tmp_path: Path) -> None:
    old = OldFrames(tmp_path / "old", 5, 1, 1 << 20)
    old.add(0, [sample(at) for at in range(5)])
    (tmp_path / ".old.half").mkdir()
    (tmp_path / ".old.half" / "000000.npz").touch()
    old.let_go_before(sample(2).received_unix_ns)
    assert [each.frame_id for each in old.read()] == [2, 3, 4]
    old.let_go_before(sample(4).received_unix_ns + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert list((tmp_path / "old").iterdir()) == []


def test_old_frames_take_no_more_than_they_may(tmp_path: Path) -> None:
    one = sum(array.nbytes for array in sample(1).arrays.values())
    old = OldFrames(tmp_path / "old", 100, 1, 10 * one)
    old.add(0, [sample(at) for at in range(50)])
    assert len(old.read()) == 10
