"""A folder of wheels goes in parts, is made whole again, and is refused where anything of it is not what was laid."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.gpu import parts
from tests.gpu.parts import MANIFEST, PartsError, joined, read_manifest, split

PART_BYTES = 60_000
SIZES = (0, 1, 700, 53_999, 54_000, 54_001, 60_000, 60_001, 181_234)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    source, chance = tmp_path / "source", random.Random(7)
    source.mkdir()
    made = [source / f"thing{nth}-1.0-py3-none-any.whl" for nth in range(len(SIZES))]
    for file, size in zip(made, SIZES, strict=True):
        file.write_bytes(chance.randbytes(size))
    return made


@pytest.fixture
def laid(tmp_path: Path, files: list[Path]) -> Path:
    split(files, tmp_path / "laid", PART_BYTES, "3.12", "x86_64", ["thing0"])
    return tmp_path / "laid"


def whole(folder: Path, into: Path) -> list[Path]:
    manifest = read_manifest(folder)
    assert manifest is not None
    return joined(folder, manifest, into)


def said(laid: Path) -> Any:
    return json.loads((laid / MANIFEST).read_text())


def say(laid: Path, content: Any) -> None:
    (laid / MANIFEST).write_text(json.dumps(content))


# ---- whole ----


def test_what_was_laid_in_parts_is_whole_again(tmp_path: Path, files: list[Path], laid: Path) -> None:
    assert {file.name: file.read_bytes() for file in whole(laid, tmp_path / "whole")} == {
        file.name: file.read_bytes() for file in files
    }
    manifest = read_manifest(laid)
    assert manifest is not None
    assert (manifest.python, manifest.machine, manifest.asks) == ("3.12", "x86_64", ("thing0",))
    assert manifest.size_bytes == sum(SIZES)


def test_no_part_is_larger_than_was_said_and_only_large_files_are_in_pieces(laid: Path) -> None:
    for part in laid.iterdir():
        assert sum(file.stat().st_size for file in part.iterdir()) <= PART_BYTES
    in_pieces = {file.name.rpartition(".")[0] for file in laid.glob("part-*/*.whl.[0-9]*")}
    assert in_pieces == {f"thing{nth}-1.0-py3-none-any.whl" for nth in (7, 8)}
    assert len(list(laid.iterdir())) <= sum(SIZES) / PART_BYTES * 2


def test_parts_come_one_by_one_in_any_order(tmp_path: Path, laid: Path) -> None:
    arrived = tmp_path / "arrived"
    for part in sorted(laid.iterdir(), reverse=True):
        shutil.copytree(part, arrived / part.name)
    assert len(whole(arrived, tmp_path / "whole")) == len(SIZES)


def test_a_folder_of_plain_wheels_needs_no_manifest(tmp_path: Path, files: list[Path]) -> None:
    assert read_manifest(files[0].parent) is None


# ---- not whole ----


def test_pieces_that_are_missing_are_named(tmp_path: Path, laid: Path) -> None:
    (laid / "part-002").rename(tmp_path / "elsewhere")
    with pytest.raises(PartsError, match=r"1 of \d+ pieces are missing: part-002/thing"):
        whole(laid, tmp_path / "whole")


def test_a_piece_that_is_damaged_is_named_and_nothing_is_made_of_it(tmp_path: Path, laid: Path) -> None:
    (piece,) = laid.glob("part-*/thing8-*.002")
    data = bytearray(piece.read_bytes())
    data[5] ^= 1
    piece.write_bytes(data)
    with pytest.raises(PartsError, match=rf"{piece.parent.name}/{piece.name}: is damaged"):
        whole(laid, tmp_path / "whole")
    assert not list((tmp_path / "whole").glob("thing8*"))


def test_a_piece_that_was_cut_short_is_named(tmp_path: Path, laid: Path) -> None:
    (piece,) = laid.glob("part-*/thing8-*.001")
    piece.write_bytes(piece.read_bytes()[:-1])
    with pytest.raises(PartsError, match="not as long as the manifest says"):
        whole(laid, tmp_path / "whole")


def test_pieces_in_another_order_do_not_make_the_file(tmp_path: Path, laid: Path) -> None:
    content = said(laid)
    (file,) = (each for each in content["files"] if each["name"].startswith("thing8"))
    file["pieces"].reverse()
    say(laid, content)
    with pytest.raises(PartsError, match="its pieces do not make the file"):
        whole(laid, tmp_path / "whole")


def test_a_link_is_no_piece(tmp_path: Path, laid: Path) -> None:
    (piece,) = laid.glob("part-*/thing2-*")
    piece.rename(tmp_path / "elsewhere.whl")
    piece.symlink_to(tmp_path / "elsewhere.whl")
    with pytest.raises(PartsError, match="are missing: part-001/thing2"):
        whole(laid, tmp_path / "whole")


def test_a_part_that_is_a_link_is_none(tmp_path: Path, laid: Path) -> None:
    (laid / "part-002").rename(tmp_path / "elsewhere")
    (laid / "part-002").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PartsError, match="are missing: part-002"):
        whole(laid, tmp_path / "whole")


def without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=sum(SIZES) - 1))


def test_a_full_disk_is_found_before_anything_is_joined(
    tmp_path: Path, laid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_room(monkeypatch)
    with pytest.raises(PartsError, match="MB are free"):
        whole(laid, tmp_path / "whole")
    assert not list((tmp_path / "whole").iterdir())


# ---- manifests that are none ----


def change(name: str, value: object) -> Callable[[Any], None]:
    def changed(content: Any) -> None:
        content["files"][0][name] = value

    return changed


def change_piece(name: str, value: object) -> Callable[[Any], None]:
    def changed(content: Any) -> None:
        content["files"][0]["pieces"][0][name] = value

    return changed


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (change("name", "../../thing-1.whl"), "is no name of a wheel"),
        (change("name", "/tmp/thing-1.whl"), "is no name of a wheel"),
        (change("name", "thing-1.whl\n"), "is no name of a wheel"),
        (change("name", 5), "is no name of a wheel"),
        (change_piece("path", "part-001/../../thing-1.whl"), "is no place in a part"),
        (change_piece("path", "/etc/passwd"), "is no place in a part"),
        (change_piece("path", "part-001/passwd"), "is no place in a part"),
        (change_piece("path", None), "is no place in a part"),
        (change_piece("size_bytes", -1), "sizes are numbers of bytes"),
        (change_piece("size_bytes", True), "sizes are numbers of bytes"),
        (change_piece("size_bytes", "9"), "sizes are numbers of bytes"),
        (change_piece("size_bytes", 1), "is not as long as its pieces"),
        (change("size_bytes", 1 << 60), "sizes are numbers of bytes"),
        (change_piece("more", 1), "is damaged"),
        (change("pieces", 7), "is damaged"),
        (lambda content: content.update(format=2), "is of format 2, should be 1"),
        (lambda content: content.pop("files"), "is damaged"),
        (lambda content: content["files"].append(content["files"][0]), "is there twice"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(laid: Path, changed: Callable[[Any], None], reason: str) -> None:
    content = said(laid)
    changed(content)
    say(laid, content)
    with pytest.raises(PartsError, match=reason):
        read_manifest(laid)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, "{" + " " * parts.MANIFEST_BYTES_MAX])
def test_what_is_no_manifest_is_refused(laid: Path, text: str) -> None:
    (laid / MANIFEST).write_text(text)
    with pytest.raises(PartsError, match=rf"{MANIFEST}: (is damaged|has more than)"):
        read_manifest(laid)


def test_more_pieces_than_anyone_needs_are_refused(laid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PIECES_MAX", 10)
    with pytest.raises(PartsError, match="names 13 pieces, should be 10 at most"):
        read_manifest(laid)


def test_parts_without_the_first_one_are_no_plain_wheels(laid: Path) -> None:
    (laid / MANIFEST).unlink()
    with pytest.raises(PartsError, match=f"{MANIFEST} is missing"):
        read_manifest(laid)


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(PartsError, match="there is no such folder"):
        read_manifest(tmp_path / "none")
    with pytest.raises(PartsError, match="holds no wheels"):
        read_manifest(tmp_path)


# ---- what cannot be laid ----


def test_a_folder_that_has_something_is_left_alone(tmp_path: Path, files: list[Path], laid: Path) -> None:
    before = sorted(laid.rglob("*"))
    with pytest.raises(PartsError, match="is there already"):
        split(files, laid, PART_BYTES, "3.12", "x86_64", [])
    assert sorted(laid.rglob("*")) == before


def test_what_is_no_wheel_is_not_laid(tmp_path: Path, files: list[Path]) -> None:
    odd = tmp_path / "a file.txt"
    odd.touch()
    with pytest.raises(PartsError, match=r"a file\.txt"):
        split([*files, odd], tmp_path / "laid", PART_BYTES, "3.12", "x86_64", [])


@pytest.mark.parametrize("part_bytes", [0, 999, 60_000_001])
def test_parts_have_a_sensible_size(tmp_path: Path, files: list[Path], part_bytes: int) -> None:
    with pytest.raises(PartsError, match="should be 1,000 to 60,000,000"):
        split(files, tmp_path / "laid", part_bytes, "3.12", "x86_64", [])


def test_parts_too_small_for_a_manifest_are_refused(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(PartsError, match="make larger ones"):
        split(files, tmp_path / "laid", 1_000, "3.12", "x86_64", [])


def test_a_full_disk_is_found_before_anything_is_laid(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_room(monkeypatch)
    with pytest.raises(PartsError, match="MB are free"):
        split(files, tmp_path / "laid", PART_BYTES, "3.12", "x86_64", [])
