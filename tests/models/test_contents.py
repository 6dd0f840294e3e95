"""What has changed since a version was loaded, in words that name it."""

from pathlib import Path
from typing import Any

import pytest

from duly.models.contents import (
    FileDigest,
    changed_files,
    changed_settings,
    changed_signature,
    digest_files,
    how_to_publish,
    in_words,
)
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig, Signature, TensorSpec


def version(root: Path = Path(), names: tuple[str, ...] = (), **config: Any) -> ModelVersion:
    return ModelVersion("m", "9", root / "m/9", root / "m", ModelConfig.model_validate(config), names)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m/9/parts").mkdir(parents=True)
    (tmp_path / "m/9/model.onnx").write_bytes(b"graph")
    (tmp_path / "m/9/parts/w.bin").write_bytes(b"weights")
    (tmp_path / "m/provider.so").write_bytes(b"library")
    return tmp_path


NAMES = ("m/9/model.onnx", "m/9/parts/w.bin", "m/provider.so")


def test_files_are_found_in_their_folders_and_told_apart(folder: Path) -> None:
    before = digest_files(version(folder), NAMES)
    assert {name: digest.size_bytes for name, digest in before.items()} == dict(zip(NAMES, (5, 7, 7), strict=True))
    assert not changed_files(before, digest_files(version(folder), NAMES))
    (folder / "m/9/model.onnx").write_bytes(b"another graph")
    (folder / "m/9/parts/w.bin").unlink()
    (folder / "m/9/parts/w.bin").mkdir()
    (folder / "m/provider.so").unlink()
    assert changed_files(before, digest_files(version(folder), NAMES)) == [
        "m/9/model.onnx has 13 bytes, it had 5 when it was loaded",
        "m/9/parts/w.bin is a folder; a file is expected there",
        "m/provider.so is gone",
    ]
    assert str(folder) not in str(digest_files(version(folder), NAMES))


def test_equal_sizes_are_told_apart_by_digests() -> None:
    before, now = FileDigest("a" * 64, 5), FileDigest("b" * 64, 5)
    assert changed_files({"m/9/w": before}, {"m/9/w": now, "m/9/more": now}) == [
        "m/9/w has other contents than when it was loaded (SHA-256 bbbbbbbbbbbb, was aaaaaaaaaaaa)"
    ]


@pytest.mark.parametrize(
    ("before", "now", "changes"),
    [
        ({}, {}, []),
        ({}, {"default_budget_ms": 100}, []),
        ({}, {"default_budget_ms": 12.5}, ["default_budget_ms was 100, is 12.5"]),
        ({"batch_sizes": [1, 2]}, {}, ["batch_sizes was [1, 2], is not stated"]),
        ({}, {"spinning": True, "gap": "SKIP"}, ['gap was "CONTINUE", is "SKIP"', "spinning was false, is true"]),
        ({}, {"variant": [{"name": "a", "file": "a.onnx"}]}, ["variant has changed"]),
        ({}, {"input": [{"name": "x"}]}, ["input has changed"]),
        ({"description": "a" * 41}, {"description": "b"}, ["description has changed"]),
    ],
)
def test_settings(before: dict[str, Any], now: dict[str, Any], changes: list[str]) -> None:
    assert changed_settings(version(**before), version(**now)) == [f"m/model.toml: {change}" for change in changes]


def test_labels() -> None:
    before = version(names=("cat", "dog"), labels="names.txt")
    for names, change in ((("cat", "fox"), 'label 1 was "dog", is "fox"'), (("cat",), "has 1 labels, had 2")):
        assert changed_settings(before, version(names=names, labels="names.txt")) == [f"m/names.txt: {change}"]
    moved = version(names=("cat",), labels="other.txt")
    assert changed_settings(before, moved) == ['m/model.toml: labels was "names.txt", is "other.txt"']


def signature(*outputs: TensorSpec, stateful: bool = False, sizes: tuple[int, ...] = (1,)) -> Signature:
    x = TensorSpec(name="x", datatype="FP32", shape=(4,), bytes_max=16)
    return Signature(inputs=(x,), outputs=outputs, batch_sizes=sizes, any_size=True, stateful=stateful)


def test_signatures() -> None:
    y, z = (TensorSpec(name=name, datatype="FP32", shape=(4,), bytes_max=16) for name in "yz")
    wide = y.model_copy(update={"shape": (8,), "bytes_max": 32})
    assert not changed_signature(signature(y), signature(y, sizes=(1, 2)))
    assert changed_signature(signature(y), signature(y, z, stateful=True)) == [
        "its outputs are y, z, they were y",
        "it keeps state of its streams",
    ]
    assert changed_signature(signature(y), signature(wide)) == [
        "its output 'y' is FP32[8] of at most 32 bytes, it was FP32[4] of at most 16 bytes"
    ]


def test_many_changes_are_counted() -> None:
    assert in_words([str(number) for number in range(8)]) == "0; 1; 2; 3; 4; and 3 more"


def test_how_to_publish(folder: Path) -> None:
    assert how_to_publish(version(folder)) == (
        "a version never changes once it is loaded: put the new files into m/10, moved in whole"
    )
    for name in ("3", "0010", "notes"):
        (folder / "m" / name).mkdir()
    assert "put the new files into m/11," in how_to_publish(version(folder)), "10 is there already"
