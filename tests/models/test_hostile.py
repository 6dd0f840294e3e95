"""Whatever lies in a repository stops its own model alone, is told at once, and in words that a log can hold."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from duly.models.contents import digest_files
from duly.models.files import Unfit, read_bounded
from duly.models.folders import ENTRIES_MAX
from duly.models.repository import Repository

SECONDS_MAX = 5.0
"""What hung took for ever, or a quarter of a minute; reading takes milliseconds."""


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def kernel_log(path: Path) -> None:
    path.symlink_to("/proc/kmsg")


def without_size(path: Path) -> None:
    path.symlink_to("/proc/self/pagemap")


def endless_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def folder(path: Path) -> None:
    path.mkdir()


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS = [pipe, zeros, kernel_log, without_size, endless_socket, folder, circle, sparse]

SETTINGS = {
    "brackets": "a = " + "[" * 100_000,
    "brackets in a small file": "a = " + "[" * 30_000,
    "tables in one another": "a = " + "{ b = " * 9_000,
    "a key of very many parts": "a." * 30_000 + "b = 1",
    "a quoted key of very many parts": '"a" . ' * 9_000 + "b = 1",
    "very many keys": "".join(f"k{n} = 1\n" for n in range(6_000)),
    "a number of very many digits": "warmup_runs = " + "7" * 5_000,
    "a hexadecimal one": "warmup_runs = 0x" + "f" * 30_000,
    "too many batch sizes": f"batch_sizes = [{', '.join(map(str, range(1, 9_000)))}]",
    "no Unicode": "description = '\udcff'",
    "a label file by a pattern": 'labels = "x/**"',
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("good", "odd"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").touch()
    return tmp_path


def scanned(root: Path) -> tuple[list[str], list[str]]:
    """The keys that are found, and what is wrong, which is printable and came soon."""
    began = time.monotonic()
    versions, problems = Repository(root).scan()
    assert time.monotonic() - began < SECONDS_MAX
    reasons = [problem.reason for problem in problems]
    assert all(reason.isprintable() and len(reason) < 6_000 for reason in reasons), reasons
    return [version.key for version in versions], reasons


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["model.toml", "names.txt", "1/model.onnx", "1"])
def test_odd_things_in_the_place_of_a_file_or_folder(root: Path, kind: Callable[[Path], None], place: str) -> None:
    path = root / "odd" / place
    if place == "names.txt":
        (root / "odd" / "model.toml").write_text('labels = "names.txt"\n')
    if path.is_dir():
        (path / "model.onnx").unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    kind(path)
    keys, reasons = scanned(root)
    if place == "1/model.onnx" and kind in (sparse, kernel_log, without_size):
        assert keys == ["good/1", "odd/1"], "what the file holds is its worker's to say"
    else:
        assert keys == ["good/1"]
        assert all(reason.startswith("odd") for reason in reasons)
        assert reasons or (place == "1" and kind is sparse)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_that_no_parser_likes(root: Path, settings: str) -> None:
    (root / "odd" / "model.toml").write_bytes(os.fsencode(settings))
    keys, reasons = scanned(root)
    assert keys == ["good/1"]
    assert [reason.partition(":")[0] for reason in reasons] == ["odd/model.toml"]


def test_folders_beyond_all_bounds(root: Path) -> None:
    inside = root / "odd" / "1"
    for number in range(ENTRIES_MAX + 1):
        os.mkfifo(inside / f"f{number}")  # the cheapest to make
    keys, reasons = scanned(root)
    assert (keys, reasons) == (
        ["good/1"],
        [f"odd/1: holds more than {ENTRIES_MAX:,} files and folders; take some of them away"],
    )


def test_many_links_beside_many_versions(root: Path) -> None:
    for number in range(2, 300):
        (root / "odd" / str(number)).symlink_to("1")
    for number in range(3000):
        (root / "odd" / f"as-of-{number}").symlink_to("1")
    keys, reasons = scanned(root)
    assert len(keys) == 1 + 299
    assert reasons == []


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"\x1b[31mred", "‮evil".encode(), "🙂".encode() * 30])
def test_odd_names_do_not_reach_logs_and_messages(root: Path, name: bytes) -> None:
    os.rename(root / "odd" / "1" / "model.onnx", os.fsencode(root / "odd" / "1") + b"/" + name + b".onnx")
    (root / "odd" / "1" / "other.onnx").touch()
    (Path(os.fsdecode(os.fsencode(root) + b"/" + name)) / "1").mkdir(parents=True)
    (Path(os.fsdecode(os.fsencode(root) + b"/" + name)) / "1" / "model.onnx").touch()
    keys, reasons = scanned(root)
    assert keys == ["good/1"]
    assert len(reasons) == 2


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.toml"
    path.write_text("description = 'x'\n")
    stat = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        found = stat(descriptor)
        with path.open("a") as file:  # after each look, somebody writes
            file.write("#\n")
        return found

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(Unfit, match="changed while it was read"):
        read_bounded(path, 1 << 20)


def test_a_version_that_became_a_pipe_is_told_so(root: Path) -> None:
    (version,) = (found for found in Repository(root).scan()[0] if found.name == "odd")
    (root / "odd" / "1" / "model.onnx").unlink()
    pipe(root / "odd" / "1" / "model.onnx")
    assert digest_files(version, ["odd/1/model.onnx"])["odd/1/model.onnx"].problem == "is no ordinary file"
