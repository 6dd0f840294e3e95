"""Models of a Triton repository as the scan finds them; no model is loaded: the files are empty."""

from pathlib import Path

import pytest

from duly.models.contents import changed_settings
from duly.models.repository import Repository
from duly.models.triton.origin import in_pbtxt, with_line


def put(root: Path, name: str, pbtxt: str, *files: str) -> Path:
    for file in files:
        path = root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / name / "config.pbtxt").write_text(pbtxt)
    return root / name


def scan(root: Path) -> tuple[list[str], list[str], list[str]]:
    """The versions, what is wrong, and what is worth knowing."""
    versions, problems = Repository(root).scan()
    return (
        [version.key for version in versions],
        [problem.reason for problem in problems if not problem.harmless],
        [problem.reason for problem in problems if problem.harmless],
    )


def test_settings_and_their_lines_are_read(tmp_path: Path) -> None:
    put(tmp_path, "m", "\nmax_batch_size: 2\ndefault_model_filename: 'net.onnx'", "1/net.onnx", "1/other.onnx")
    (version,), problems = Repository(tmp_path).scan()
    assert problems == []
    assert version.config.batch_sizes == (1, 2)
    assert [variant.file for variant in version.config.variants] == ["net.onnx"]
    assert list(version.digests) == ["config.pbtxt"]
    assert version.told("m/model.toml: batch_sizes: too many") == "m/config.pbtxt: line 2: batch_sizes: too many"


def test_the_file_may_be_a_folder_with_the_graph_and_its_weights(tmp_path: Path) -> None:
    put(tmp_path, "m", "", "1/model.onnx/model.onnx", "1/model.onnx/weights")
    (version,), problems = Repository(tmp_path).scan()
    assert problems == []
    assert [variant.file for variant in version.config.variants] == ["model.onnx/model.onnx"]


def test_an_empty_file_is_a_model_whose_graph_says_all(tmp_path: Path) -> None:
    put(tmp_path, "m", "", "1/model.onnx")
    (version,), _ = Repository(tmp_path).scan()
    assert version.config.model_fields_set == set()
    assert version.told("m/model.toml: x: y") == "m/config.pbtxt: x: y"


@pytest.mark.parametrize(
    ("pbtxt", "reason"),
    [
        ("\nmax_batch: 4", "m/config.pbtxt: line 2: max_batch: there is no such field; did you mean max_batch_size?"),
        ("\nplatform: 'tensorrt_plan'", "m/config.pbtxt: line 2: platform: 'tensorrt_plan' is not served; duly serves"),
        (
            "\n\ndefault_model_filename: 'n.onnx'",
            "m/config.pbtxt: line 3: variant[0].file: there is no n.onnx in m/1, ",
        ),
        ("\ndefault_model_filename: '../n.onnx'", 'm/config.pbtxt: line 2: variant[0].file: "../n.onnx" leaves the'),
        ("output { name: 'y'\n label_filename: 'l' }", "m/config.pbtxt: line 2: labels: there is no file l beside it"),
        ("\xff", "m/config.pbtxt: line 1: 'ÿ' is no part of protobuf's text format"),
    ],
)
def test_what_is_wrong_hides_no_other_model(tmp_path: Path, pbtxt: str, reason: str) -> None:
    put(tmp_path, "m", pbtxt, "1/model.onnx")
    put(tmp_path, "other", "", "1/model.onnx")
    versions, wrong, _ = scan(tmp_path)
    assert versions == ["other/1"]
    assert len(wrong) == 1
    assert wrong[0].startswith(reason)


def test_files_that_are_no_text_or_too_large_are_named(tmp_path: Path) -> None:
    folder = put(tmp_path, "m", "", "1/model.onnx")
    (folder / "config.pbtxt").write_bytes(b"name: '\xff'")
    assert scan(tmp_path)[1] == [
        "m/config.pbtxt: line 1: byte 0xFF is not UTF-8; save it as UTF-8, such as by: iconv -f LATIN1 -t UTF-8"
    ]
    (folder / "config.pbtxt").write_text("#" * (1 << 20))
    assert scan(tmp_path)[1] == ["m/config.pbtxt: 1,048,576 bytes; at most 262,144 are read"]
    (folder / "config.pbtxt").unlink()
    (folder / "config.pbtxt").mkdir()
    assert scan(tmp_path)[1] == ["m/config.pbtxt: is a folder; a file is expected there"]


def test_versions_that_the_policy_leaves_out_are_passed_over(tmp_path: Path) -> None:
    pbtxt = "version_policy { specific { versions: [ 2, 9 ] } }"
    put(tmp_path, "m", pbtxt, "1/model.onnx", "2/model.onnx", "3/model.onnx")
    said = "is passed over, as the settings name the versions that serve: 2, 9"
    assert scan(tmp_path) == (["m/2"], [], [f"m/1: {said}", f"m/3: {said}"])


def test_a_changed_setting_is_said_of_the_file_that_has_it(tmp_path: Path) -> None:
    folder = put(tmp_path, "m", "max_batch_size: 2", "1/model.onnx")
    (before,), _ = Repository(tmp_path).scan()
    put(tmp_path, "m", "\nmax_batch_size: 4", "1/model.onnx")
    (now,), _ = Repository(tmp_path).scan()
    assert changed_settings(before, now)[0] == "m/config.pbtxt: line 2: batch_sizes was [1, 2], is [1, 2, 4]"
    (folder / "model.toml").write_text("batch_sizes = [1]\n")
    (now,), _ = Repository(tmp_path).scan()
    assert changed_settings(before, now)[0] == "m/model.toml: batch_sizes was [1, 2], is [1]"


def test_the_line_is_that_of_the_place_or_of_what_it_is_in() -> None:
    lines = {"input": 3, "input[1]": 7, "input[1].shape": 9, "batch_sizes": 2}
    assert with_line("input[1].shape: wrong", lines) == "line 9: input[1].shape: wrong"
    assert with_line("input[1].name: wrong", lines) == "line 7: input[1].name: wrong"
    assert with_line("input[1]: wrong", lines) == "line 7: input[1]: wrong"
    assert with_line("input[5].name: wrong", lines) == "line 3: input[5].name: wrong"
    assert with_line("output: wrong", lines) == "output: wrong"
    assert with_line("Wrong: input", lines) == "Wrong: input"
    assert in_pbtxt("m/model.toml for b.onnx: input: wrong", lines) == "m/config.pbtxt: line 3: input: wrong"
    assert in_pbtxt("m/1/model.onnx: input: wrong", lines) == "m/1/model.onnx: input: wrong"
    assert in_pbtxt("m/model.toml: input: wrong", {}) == "m/model.toml: input: wrong"
