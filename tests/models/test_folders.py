"""Repositories as file systems, desktops, copies and other servers leave them, and folders that are none."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from duly.models.repository import NotARepository, Repository


def put(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def scan(root: Path) -> tuple[list[str], list[str], list[str]]:
    """The keys of the versions, the reasons of what is broken, and those of what is harmless."""
    versions, problems = Repository(root).scan()
    broken = [problem.reason for problem in problems if not problem.harmless]
    return [version.key for version in versions], broken, [problem.reason for problem in problems if problem.harmless]


@pytest.mark.parametrize(
    "name",
    [
        "lost+found",
        "__pycache__",
        ".git",
        "._radar",
        ".DS_Store",
        ".ipynb_checkpoints",
        "@eaDir",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "__MACOSX",
        "..2031_05_06",
        ".1.tmp",
        ".~tmp~",
        "2.part",
        "radar.tmp",
        "radar~",
    ],
)
def test_folders_of_file_systems_tools_and_copies_are_passed_over_wherever_they_lie(tmp_path: Path, name: str) -> None:
    put(tmp_path, "radar/1/model.onnx", f"{name}/x.bin", f"radar/{name}/x.bin", f"radar/1/{name}/x.bin")
    assert scan(tmp_path) == (["radar/1"], [], [])


@pytest.mark.parametrize("file", ["Thumbs.db", "desktop.ini", "._model.onnx", ".model.onnx.swp", "model.onnx.part"])
def test_files_of_the_same_kind_are_no_models(tmp_path: Path, file: str) -> None:
    put(tmp_path, "radar/1/radar.onnx", f"radar/1/{file}", f"radar/{file}", file)
    (tmp_path / "radar/model.toml~").write_text("nonsense")
    assert scan(tmp_path) == (["radar/1"], [], [])


def test_folders_without_a_model_are_named_and_harmless(tmp_path: Path) -> None:
    put(tmp_path, "radar/1/model.onnx", "docs/README.md", "scripts/old/convert.py", "my notes/today.txt")
    put(tmp_path, "camera.onnx", "radar/old.onnx")
    passed_over = "holds neither a version nor a model's file, and is passed over"
    assert scan(tmp_path) == (
        ["radar/1"],
        [],
        [
            "camera.onnx: lies beside the models and is not served; move it to camera/1/model.onnx",
            f"docs: {passed_over}",
            "radar/old.onnx: lies beside the versions and is not served; put it into a version's folder",
            f"scripts: {passed_over}",
        ],
    )


def test_mounted_config_maps_and_secrets_are_links_through_hidden_folders(tmp_path: Path) -> None:
    data = put(tmp_path / "mounted/radar/..2031_05_06", "1/model.onnx")
    (data / "model.toml").write_text("default_budget_ms = 20")
    (tmp_path / "mounted/radar/..data").symlink_to(data.name)
    for name in ("1", "model.toml"):
        (tmp_path / "mounted/radar" / name).symlink_to(f"..data/{name}")
    (tmp_path / "current").symlink_to("mounted")
    (version,), problems = Repository(tmp_path / "current").scan()
    assert (version.key, version.config.default_budget_ms, problems) == ("radar/1", 20, [])


def test_versions_as_tensorflow_writes_them(tmp_path: Path) -> None:
    put(tmp_path, "a/0001/model.onnx", "a/0012/model.onnx", "b/1700000000/model.onnx", "b/20310506123000/model.onnx")
    versions, problems = Repository(tmp_path).scan()
    assert [version.key for version in versions] == ["a/12", "a/1", "b/20310506123000", "b/1700000000"]
    assert [version.folder.name for version in versions[:2]] == ["0012", "0001"]
    assert problems == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["m/1/model.onnx", "m/01/model.onnx"], "m/1: is version 1 again, as m/01 is; take one of them away"),
        (["m/model.onnx"], "m: model.onnx lies beside the versions; move it to m/1/model.onnx"),
        (
            ["m/weights.pt"],
            "m: no version is there; put the model's file to m/1/model.onnx; weights.pt is PyTorch's; export it: "
            'torch.onnx.export(model, inputs, "model.onnx")',
        ),
        (
            ["m/1/net.engine"],
            "m/1: there is no model.onnx in m/1, where no .onnx file is; net.engine is an engine of TensorRT, made for "
            "one kind of GPU; give the ONNX file that it was built from, and in model.toml "
            'providers = [{ name = "TensorrtExecutionProvider" }]',
        ),
        (
            ["m/1/onnx/model.onnx"],
            "m/1: there is no model.onnx in m/1, which has onnx/model.onnx; name it in model.toml: "
            'variant = [{ name = "default", file = "onnx/model.onnx" }]',
        ),
        (
            ["m/1/model.onnx/model.onnx"],
            "m/1: model.onnx in m/1 is a folder with model.onnx/model.onnx; name it in model.toml: "
            'variant = [{ name = "default", file = "model.onnx/model.onnx" }]',
        ),
        (
            ["m/1/model.onnx.part"],
            "m/1: there is no model.onnx in m/1, where no .onnx file is; model.onnx.part is not read, by its name it "
            "is not yet whole",
        ),
        (
            ["m/1/model.onnx", "m/Model.toml"],
            "m/Model.toml: is not read; a model's settings stand in model.toml: rename it",
        ),
        (
            ["m/1/model.onnx", "m/model.toml.txt"],
            "m/model.toml.txt: is not read; a model's settings stand in model.toml: rename it",
        ),
    ],
)
def test_what_would_be_passed_over_without_a_word_is_a_problem(tmp_path: Path, files: list[str], reason: str) -> None:
    put(tmp_path, "good/1/model.onnx", *files)
    versions, broken, _ = scan(tmp_path)
    assert "good/1" in versions
    assert broken == [reason]


def test_what_is_advised_for_a_file_in_an_odd_place_is_taken(tmp_path: Path) -> None:
    for file in ("onnx/model.onnx", "model.onnx/model.onnx", "a.onnx"):
        root = put(tmp_path / file.replace("/", "-"), f"m/1/{file}", "m/1/z/z.onnx" if "/" in file else "m/1/b.onnx")
        (reason,) = scan(root)[1]
        line = re.search(r"variant = \[.*\]$", reason)
        assert line is not None
        (root / "m/model.toml").write_text(line[0])
        assert scan(root) == (["m/1"], [], [])


@pytest.mark.parametrize("link", ["m", "m/2", "m/1/model.onnx", "m/model.toml"])
def test_a_link_to_what_is_not_there_is_told(tmp_path: Path, link: str) -> None:
    put(tmp_path, "good/1/model.onnx", "m/1/weights.bin")
    if link != "m/1/model.onnx":
        put(tmp_path, "m/1/model.onnx")
    path = tmp_path / link if link != "m" else tmp_path / "linked"
    path.symlink_to(tmp_path / "gone")
    (reason,) = scan(tmp_path)[1]
    assert "is a link to gone, which is not there" in reason
    assert path.name in reason


def test_what_its_author_keeps_beside_the_versions_is_harmless(tmp_path: Path) -> None:
    put(
        tmp_path,
        "m/1/model.onnx",
        "m/3/model.onnx",
        "m/checkpoints/epoch_7.pt",
        "m/export/a.onnx",
        "m/pyproject.toml",
        "m/4913",
    )
    put(tmp_path, "data/train.zip", "data/calibration.h5", "m/model.toml.bak")
    (tmp_path / "m/latest").symlink_to("3")
    assert scan(tmp_path) == (
        ["m/3", "m/1"],
        [],
        [
            "data: holds neither a version nor a model's file, and is passed over",
            "m/4913: is a file; a version is a folder",
            "m/export: a version is a positive whole number; rename the folder to 4 for it to be one",
            "m/model.toml.bak: is not read; a model's settings stand in model.toml",
            "m/pyproject.toml: is not read; a model's settings stand in model.toml",
        ],
    )


def test_settings_of_triton_are_named_beside_those_that_are_read(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx", "m/config.pbtxt", "m/model.toml")
    reason = "m/config.pbtxt: is not read beside model.toml, which says all of the model's settings"
    assert scan(tmp_path) == (["m/1"], [], [reason])


def test_a_name_that_is_no_text_can_be_told(tmp_path: Path) -> None:
    put(tmp_path, "good/1/model.onnx")
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/mod\xe8le")), "1/model.onnx")
    (reason,) = scan(tmp_path)[1]
    assert reason.startswith("mod\\xe8le: a model's name has letters")
    reason.encode()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("models/radar", r"models/radar is the folder of the model radar; give its parent, ROOT/models"),
        ("models/radar/1", r"1 is a version of the model radar; give the parent of the model, ROOT/models"),
        ("models/radar/1/model.onnx", r"is the file of a version; give the parent of its model, ROOT/models"),
        (".", r"is one level too high, models lie in its folder models; give ROOT/models"),
        ("loose", r"loose holds net\.onnx itself; move it to ROOT/loose/net/1/model\.onnx, since each version"),
        ("loose/net.onnx", r"is a file; a repository is a folder that holds NAME/VERSION/model\.onnx"),
        ("none", r"model repository ROOT/none is not a folder"),
    ],
)
def test_a_folder_above_or_below_is_told_which_one_to_give(tmp_path: Path, given: str, told: str) -> None:
    put(tmp_path, "models/radar/1/model.onnx", "models/camera/2/model.onnx", "loose/net.onnx")
    with pytest.raises(NotARepository, match=told.replace("ROOT", re.escape(str(tmp_path)))):
        Repository(tmp_path / given).scan()


@pytest.mark.parametrize(("inside", "given", "better"), [("models/radar", ".", ".."), ("models", "radar", ".")])
def test_a_relative_path_is_answered_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, given: str, better: str
) -> None:
    put(tmp_path, "models/radar/1/model.onnx")
    monkeypatch.chdir(tmp_path / inside)
    with pytest.raises(NotARepository, match=rf"is the folder of the model radar; give its parent, {better}$"):
        Repository(Path(given)).scan()


def test_what_may_not_be_read_is_named_and_hides_nothing() -> None:
    """In a process of a user who may not read everything, since root may."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        put(root, "good/1/model.onnx", "closed/1/model.onnx", "lost+found/x", "secret/1/model.onnx")
        (root / "secret/model.toml").write_text("warmup_runs = 3")
        for path in ("closed", "lost+found", "secret/model.toml"):
            (root / path).chmod(0)
        code = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from duly.models.repository import Repository\n"
            "os.geteuid() or os.seteuid(65534)\n"
            "versions, problems = Repository(Path(sys.argv[1])).scan()\n"
            "print(*[version.key for version in versions], *[problem.reason for problem in problems], sep='\\n')\n"
        )
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=environ)
        for path in ("closed", "lost+found", "secret/model.toml"):
            (root / path).chmod(0o700)
    denied = "cannot be read: Permission denied; let the user that runs the server read it"
    assert done.stdout.splitlines() == ["good/1", f"closed: {denied}", f"secret/model.toml: {denied}"], done.stderr
