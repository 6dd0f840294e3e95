"""A folder of models: what is found, and what is said about what is wrong. No model is loaded: the files are empty."""

import os
from pathlib import Path

import pytest

from duly.models.repository import ModelVersion, Repository, RepositoryProblem
from duly.models.spec import ModelConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def put(root: Path, name: str, *files: str, toml: str | None = None) -> Path:
    for file in files:
        path = root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if toml is not None:
        (root / name).mkdir(exist_ok=True)
        (root / name / "model.toml").write_text(toml)
    return root / name


def reasons(root: Path) -> list[str]:
    return [problem.reason for problem in Repository(root).scan()[1]]


def test_bare_model_needs_no_toml(root: Path) -> None:
    folder = put(root, "mlp", "1/model.onnx")
    versions, problems = Repository(root).scan()
    assert versions == [ModelVersion("mlp", "1", folder / "1", folder, ModelConfig(), ())]
    assert problems == []
    assert versions[0].key == "mlp/1"


def test_single_file_of_another_name_is_the_model(root: Path) -> None:
    put(root, "mlp", "1/mlp_v3.onnx", "1/README.md")
    (version,), _ = Repository(root).scan()
    assert [(variant.name, variant.file) for variant in version.config.variants] == [("default", "mlp_v3.onnx")]


def test_names_in_order_and_newest_version_first(root: Path) -> None:
    put(root, "b", "2/model.onnx", "10/model.onnx", "9/model.onnx")
    put(root, "a", "1/model.onnx")
    put(root, ".cache", "1/nothing.txt")
    (root / "README.md").touch()
    (root / "b" / ".git").mkdir()
    assert [version.key for version in Repository(root).scan()[0]] == ["a/1", "b/10", "b/9", "b/2"]


def test_toml_is_read(root: Path) -> None:
    put(
        root,
        "yolo",
        "1/fp32.onnx",
        "1/int8.onnx",
        toml="""
        default_budget_ms = 50
        labels = "coco.txt"
        batch_sizes = [1, 4]
        [[input]]
        name = "image"
        encodings = ["JPEG"]
        preprocess = [{ op = "resize", width = 416, height = 416 }, { op = "layout" }]
        [[variant]]
        name = "fp32"
        file = "fp32.onnx"
        accuracy = 0.4
        [[variant]]
        name = "int8"
        file = "int8.onnx"
        [constants]
        rate = 16000
        """,
    )
    (root / "yolo/coco.txt").write_text("person\nbicycle \r\ntraffic light\n\n")
    (version,), problems = Repository(root).scan()
    assert problems == []
    assert version.labels == ("person", "bicycle", "traffic light")
    assert version.config.default_budget_ms == 50
    assert version.config.batch_sizes == (1, 4)
    assert [step.op for step in version.config.inputs[0].preprocess] == ["resize", "layout"]
    assert [variant.name for variant in version.config.variants] == ["fp32", "int8"]
    assert version.config.constants == {"rate": 16000}


def test_broken_models_do_not_hide_the_others(root: Path) -> None:
    put(root, "a", "1/model.onnx", toml="typo = 1")
    put(root, "b", "1/model.onnx", "2/weights.bin")
    put(root, "c", "1/model.onnx", "latest/model.onnx")
    put(root, "d")
    (root / "d").mkdir()
    put(root, "é", "1/model.onnx")
    versions, problems = Repository(root).scan()
    assert [version.key for version in versions] == ["b/1", "c/1"]
    assert problems == [
        RepositoryProblem("a", "", "a/model.toml: typo: there is no such key"),
        RepositoryProblem("b", "2", "b/2: there is no model.onnx in b/2, where no .onnx file is"),
        RepositoryProblem(
            "c",
            "latest",
            "c/latest: a version is a positive whole number; rename the folder to 2 for it to be one",
            harmless=True,
        ),
        RepositoryProblem("d", "", "d: no version is there; put the model's file to d/1/model.onnx"),
        RepositoryProblem(
            "é",
            "",
            "é: a model's name has letters, digits, '_', '.' and '-' alone, begins with a letter or digit and has at "
            "most 64 of them; rename the folder, such as to model",
        ),
    ]


STEPS = '[[input]]\nname = "x"\npreprocess = [{ op = "normalise" }, '


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        (
            STEPS + '{ op = "resize", width = -3, height = 4 }]',
            "input[0].preprocess[1].width: should be greater than 0, got -3",
        ),
        (
            STEPS + '{ op = "resize", width = 4, height = "4" }]',
            'input[0].preprocess[1].height: should be a whole number, got "4"',
        ),
        (STEPS + '{ op = "resize", width = 4 }]', "input[0].preprocess[1].height: is missing"),
        (
            '[[variant]]\nname = "a"\n[[variant]]\nname = "b"\n[[state]]\ninput = "s"\noutput = "t"\n',
            "variant: a model that keeps state of its streams has one variant, got 2; one can't go on with another's "
            "state",
        ),
        (
            '[[variant]]\nname = "a"\naccuracy = 0.7\n[[variant]]\nname = "b"\naccuracy = 0.8\n',
            "variant[1].accuracy: 0.8 is above 0.7 of the one before it; put the most accurate first",
        ),
        (
            '[[variant]]\nname = "a"\n[[variant]]\nname = "b"\n',
            'variant[1].file: "model.onnx" is the file of variant "a" already; variants are different graphs, each '
            "with its file, or one graph with and without int8_calibration",
        ),
        (
            "".join(f'[[variant]]\nname = "v{nth}"\n' for nth in range(17)),
            "variant: at most 16 can be served, got 17",
        ),
        (
            STEPS + '{ op = "resize", width = 4, height = 4, hight = 4 }]',
            "input[0].preprocess[1].hight: there is no such key; did you mean height?",
        ),
        (
            STEPS + '{ op = "frob" }]',
            'input[0].preprocess[1].op: there is no operation "frob"; the operations are gray, resize, window, '
            "normalise, layout",
        ),
        ("[[input]]\n", "input[0].name: is missing"),
        ("warmup_runs = 2.5", "warmup_runs: should be a whole number, got 2.5"),
        ("default_budget_ms = nan", "default_budget_ms: should be less than or equal to 600000, got NaN"),
        ("batch_sizes = [4, 1]", "batch_sizes must rise without repeats, got [4, 1]"),
        ("batch_sizes = [1, 300]", "batch_sizes[1]: should be less than or equal to 256, got 300"),
        (
            'default_class = "URGENT"',
            'default_class: should be one of CRITICAL, STANDARD, BEST_EFFORT, got "URGENT"',
        ),
        ('[constants]\nsr = "16k"', 'constants.sr: should be a whole number, got "16k"'),
        ('[input]\nname = "x"', "input: should be [[input]], in double brackets, since there may be several"),
        ("a = 1\nb = 2", "a: there is no such key; b: there is no such key"),
        ("warmup_runs = 1979-05-27", 'warmup_runs: should be a whole number, got "1979-05-27"'),
        (
            "a = ",
            "not TOML: Invalid value (at end of document): a =; texts stand in quotes, and true and false are "
            "lower case",
        ),
        (
            "a = 1\nb = = 2",
            "not TOML: Invalid value (at line 2, column 5): b = = 2; texts stand in quotes, and true and false are "
            "lower case",
        ),
    ],
)
def test_what_is_wrong_in_a_toml_is_said_with_its_place(root: Path, toml: str, reason: str) -> None:
    put(root, "m", "1/model.onnx", toml=toml)
    assert reasons(root) == [f"m/model.toml: {reason}"]


def test_many_errors_are_counted(root: Path) -> None:
    put(root, "m", "1/model.onnx", toml="\n".join(f"key{index} = 1" for index in range(9)))
    assert reasons(root)[0].endswith("key4: there is no such key; and 4 more")


@pytest.mark.parametrize("file", ["../1/model.onnx", "/etc/passwd", "a/../../model.onnx", ""])
def test_files_outside_of_the_folder_are_refused(root: Path, file: str) -> None:
    put(root, "m", "1/model.onnx", toml=f'[[variant]]\nname = "a"\nfile = "{file}"\n')
    assert reasons(root) == [f'm/model.toml: variant[0].file: "{file}" leaves the folder; name a file in it']
    if file:
        put(root, "m", toml=f'labels = "{file}"\n')
        assert reasons(root) == [f'm/model.toml: labels: "{file}" leaves the folder; name a file in it']


def test_missing_files_are_named_with_what_is_there(root: Path) -> None:
    put(root, "m", "1/b.onnx", "1/a.onnx")
    assert reasons(root) == [
        "m/1: there is no model.onnx in m/1, which has a.onnx, b.onnx; name it in model.toml: "
        'variant = [{ name = "default", file = "a.onnx" }]'
    ]
    put(root, "m", toml='[[variant]]\nname = "a"\nfile = "a.onnx"\n[[variant]]\nname = "c"\nfile = "c.onnx"\n')
    assert reasons(root) == ["m/model.toml: variant[1].file: there is no c.onnx in m/1, which has a.onnx, b.onnx"]
    put(root, "m", toml='labels = "names.txt"\n[[variant]]\nname = "a"\nfile = "a.onnx"\n')
    assert reasons(root) == ["m/model.toml: labels: there is no file names.txt beside it"]
    put(
        root,
        "m",
        toml='providers = [{ name = "Acme", library = "acme.so" }]\n[[variant]]\nname = "a"\nfile = "a.onnx"\n',
    )
    assert reasons(root) == ["m/model.toml: providers[0].library: there is no file acme.so"]


def test_text_files_must_be_small_utf8_and_say_something(root: Path) -> None:
    folder = put(root, "m", "1/model.onnx", toml='labels = "names.txt"\n')
    (folder / "names.txt").write_text("\n\n")
    assert reasons(root) == ["m/names.txt: no label is in it; write one class name a line"]
    (folder / "names.txt").write_bytes(b"caf\xe9\n")
    assert reasons(root) == [
        "m/names.txt: line 1: byte 0xE9 is not UTF-8; save it as UTF-8, such as by: iconv -f LATIN1 -t UTF-8"
    ]
    (folder / "names.txt").touch()
    os.truncate(folder / "names.txt", 2_000_000)
    assert reasons(root) == ["m/names.txt: 2,000,000 bytes; at most 1,048,576 are read"]


@pytest.mark.parametrize(
    ("version", "better"), [("0", "1"), ("-3", "3"), ("1.0", "1"), ("v12", "12"), ("1" * 19, "1 for it to be one")]
)
def test_version_is_a_positive_integer(root: Path, version: str, better: str) -> None:
    put(root, "m", f"{version}/model.onnx")
    (reason,) = reasons(root)
    assert reason.startswith(f"m/{version}: a version is a positive whole number; rename the folder to {better}")


@pytest.mark.parametrize("name", ["a b", "-a", "_a", "a" * 65, "a:b", "a%2f"])
def test_name_is_plain(root: Path, name: str) -> None:
    put(root, name, "1/model.onnx")
    assert reasons(root)[0].startswith(f"{name}: a model's name has letters")


def test_models_may_be_links(root: Path, tmp_path: Path) -> None:
    store = put(tmp_path, "store", "blob", "1/model.onnx")
    (root / "m/1").mkdir(parents=True)
    (root / "m/1/model.onnx").symlink_to(store / "blob")
    (root / "linked").symlink_to(store)
    assert [version.key for version in Repository(root).scan()[0]] == ["linked/1", "m/1"]


def test_repository_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"model repository .*/nowhere is not a folder"):
        Repository(tmp_path / "nowhere").scan()
