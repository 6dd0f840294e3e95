"""A version comes into the repository in whole or not at all."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from duly.models.manifest import parse_manifest
from duly_learn.learner.publish import NotPublished, prune, publish
from tests.learn.learner.made import versions_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(b"old")
    (folder / "model.toml").write_text("[learning]\n")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"new" * 10_000)
    return folder


def step(what: str) -> None:
    """Nobody is told."""


@contextmanager
def no_file_larger_than(bytes_max: int) -> Iterator[None]:
    """As on a disk that is full: writes beyond it fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_next_number_is_taken_and_nothing_is_left_over(model: Path, out: Path) -> None:
    assert publish(model, out, {"from": "1"}, False, step) == "2"
    assert sorted(path.name for path in model.iterdir()) == ["1", "2", "model.toml"]
    assert json.loads((model / "2" / "learned.json").read_text()) == {"from": "1"}
    assert (model / "2" / "model.onnx").read_bytes() == b"new" * 10_000


def test_a_number_that_others_take_meanwhile_is_left_to_them(model: Path, out: Path) -> None:
    def others(what: str) -> None:
        if what == "rename":
            (model / "2").mkdir()
            (model / "2" / "model.onnx").write_bytes(b"theirs")

    assert publish(model, out, {}, False, others) == "3"
    assert (model / "2" / "model.onnx").read_bytes() == b"theirs"


def test_a_full_disk_is_named_and_leaves_nothing(model: Path, out: Path) -> None:
    with no_file_larger_than(1000), pytest.raises(NotPublished, match="m: the repository cannot be written to: "):
        publish(model, out, {}, False, step)
    assert sorted(path.name for path in model.iterdir()) == ["1", "model.toml"]
    assert publish(model, out, {}, False, step) == "2"


def test_what_is_left_of_one_that_broke_off_is_cleared_away(model: Path, out: Path) -> None:
    (model / ".learning-77" / "sub").mkdir(parents=True)
    publish(model, out, {}, False, step)
    assert sorted(path.name for path in model.iterdir()) == ["1", "2", "model.toml"]


def test_a_manifest_lists_what_is_there(model: Path, out: Path) -> None:
    publish(model, out, {}, True, step)
    listed = parse_manifest((model / "2" / "sha256sums").read_bytes())
    assert listed.keys() == {"model.onnx", "learned.json", "../model.toml"}


def test_the_oldest_of_its_own_versions_go_and_no_others(model: Path, out: Path) -> None:
    for _ in range(4):
        publish(model, out, {}, False, step)
    assert prune(model, 2, {"2"}) == ["3"]
    assert versions_of(model) == [1, 2, 4, 5]
