"""A version's own model.toml, laid over that of its model."""

from dataclasses import replace
from pathlib import Path

import pytest

from duly.models.contents import changed_settings
from duly.models.repository import ModelVersion, Repository
from duly.models.stamps import read_stamps

FP32 = '[[variant]]\nname = "fp32"\nfile = "model.onnx"\n'
INT8 = '[[variant]]\nname = "int8"\nfile = "int8.onnx"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("m/1/model.onnx", "m/2/model.onnx", "m/2/int8.onnx"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    (tmp_path / "m/model.toml").write_text('description = "of all"\ndefault_budget_ms = 50\n' + FP32)
    (tmp_path / "m/2/model.toml").write_text("default_budget_ms = 20\n" + FP32 + INT8)
    return tmp_path


def scan(root: Path) -> dict[str, ModelVersion]:
    versions, problems = Repository(root).scan()
    assert problems == []
    return {version.version: version for version in versions}


def problem(root: Path) -> str:
    (found,) = Repository(root).scan()[1]
    return found.reason


def test_it_takes_the_place_of_the_models_key_by_key(root: Path) -> None:
    versions = scan(root)
    assert versions["1"].config.variant_names == ["fp32"]
    assert versions["2"].config.variant_names == ["fp32", "int8"]
    assert [versions[number].config.default_budget_ms for number in "12"] == [50, 20]
    assert [versions[number].config.description for number in "12"] == ["of all", "of all"]
    assert versions["2"].own == {"default_budget_ms", "variant"}
    assert versions["2"].digests.keys() == {"model.toml", "2/model.toml"}
    assert versions["1"].digests.keys() == {"model.toml"}


def test_a_model_needs_no_file_for_a_version_to_have_one(root: Path) -> None:
    (root / "m/model.toml").unlink()
    assert scan(root)["2"].config.variant_names == ["fp32", "int8"]


def test_it_is_laid_over_what_triton_reads_too(root: Path) -> None:
    (root / "m/model.toml").unlink()
    (root / "m/config.pbtxt").write_text('name: "m"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 4\n')
    versions = scan(root)
    assert versions["2"].config.variant_names == ["fp32", "int8"]
    assert versions["1"].config.variant_names == ["default"]


def test_labels_of_a_version_are_its_own(root: Path) -> None:
    (root / "m/a.txt").write_text("cat\n")
    (root / "m/b.txt").write_text("dog\n")
    (root / "m/model.toml").write_text('labels = "a.txt"\n')
    (root / "m/2/model.toml").write_text('labels = "b.txt"\n')
    versions = scan(root)
    assert [versions[number].labels for number in "12"] == [("cat",), ("dog",)]
    assert versions["2"].digests.keys() == {"model.toml", "2/model.toml", "b.txt"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("default_budget_ms = 'x'", 'm/2/model.toml: default_budget_ms: should be a number, got "x"'),
        ("varient = 1", "m/2/model.toml: varient: there is no such key; did you mean variant?"),
        ("[versions]\nloaded = 2", "m/2/model.toml: versions: is said for all versions, in model.toml of the model"),
        ("a = ", "m/2/model.toml: not TOML: "),
        (FP32 + FP32.replace("fp32", "b"), 'm/2/model.toml: variant[1].file: "model.onnx" is the file of variant'),
        (INT8.replace("int8.onnx", "int4.onnx"), "m/2/model.toml: variant[0].file: there is no int4.onnx"),
        ('labels = "gone.txt"', "m/2/model.toml: labels: there is no file gone.txt beside it"),
    ],
)
def test_what_is_wrong_in_it_is_named_and_the_other_versions_serve(root: Path, text: str, reason: str) -> None:
    (root / "m/2/model.toml").write_text(text)
    versions, problems = Repository(root).scan()
    assert [version.key for version in versions] == ["m/1"]
    assert [found.version for found in problems] == ["2"]
    assert problems[0].reason.startswith(reason)


def test_what_a_worker_says_of_a_setting_names_the_file_that_it_is_from(root: Path) -> None:
    two = scan(root)["2"]
    assert two.told("m/model.toml: default_budget_ms: no") == "m/2/model.toml: default_budget_ms: no"
    assert two.told("m/model.toml for int8.onnx: variant[1]: no") == "m/2/model.toml for int8.onnx: variant[1]: no"
    assert two.told("m/model.toml: description: no") == "m/model.toml: description: no"
    assert scan(root)["1"].told("m/model.toml: default_budget_ms: no") == "m/model.toml: default_budget_ms: no"


def test_a_change_of_it_is_a_change_of_the_version_and_of_no_other(root: Path) -> None:
    before, stamps = scan(root), read_stamps(root)["m"]
    (root / "m/2/model.toml").write_text("default_budget_ms = 10\n" + FP32 + INT8)
    now, later = scan(root), read_stamps(root)["m"]
    assert changed_settings(before["2"], now["2"]) == ["m/2/model.toml: default_budget_ms was 20, is 10"]
    assert changed_settings(before["1"], now["1"]) == []
    assert (stamps["2"] != later["2"], stamps["1"] != later["1"]) == (True, False)
    (root / "m/2/model.toml").unlink()
    gone = scan(root)["2"]
    assert "m/2/model.toml: default_budget_ms was 20, is 50" in changed_settings(before["2"], gone)
    assert replace(gone, version="1").told("m/model.toml: variant: x") == "m/model.toml: variant: x"
