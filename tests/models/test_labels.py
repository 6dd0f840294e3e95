"""Files of class names as editors, exports and other frameworks write them: names keep their classes, or it is told."""

from pathlib import Path

import pytest

from duly.models.errors import BrokenModel
from duly.models.labels import read_labels


@pytest.mark.parametrize(
    ("contents", "labels"),
    [
        ("cat\ndog\n".encode("utf-8-sig"), ("cat", "dog")),
        ("chat\nélan\n".encode("utf-16"), ("chat", "élan")),
        (b"\xfe\xff" + "chat\nélan".encode("utf-16-be"), ("chat", "élan")),
        (b"cat\r\ndog\r\n\r\n", ("cat", "dog")),
        (b"cat\rdog\r", ("cat", "dog")),
        (b"\ncat\ndog", ("", "cat", "dog")),
        (b"\xef\xbb\xbf\r\ncat\r\n", ("", "cat")),
        (b"cat\n \t\n\ndog\n\n\n", ("cat", "", "", "dog")),
        (b"  cat \t\n\tdog  \n", ("cat", "dog")),
        ("cat\x0bbig\ndog\u2028small\x85\nbee".encode(), ("cat\x0bbig", "dog\u2028small", "bee")),
        (b"n01440764 tench, Tinca tinca\nn01443537 goldfish", ("n01440764 tench, Tinca tinca", "n01443537 goldfish")),
        (b"1 euro\n2 euro\n5 euro\n", ("1 euro", "2 euro", "5 euro")),
        (b"0\n1\n2\n", ("0", "1", "2")),
        (b"3", ("3",)),
        (b"1 lane\n2 lanes\n", ("1 lane", "2 lanes")),
        (b"class 0\nclass 1\n", ("class 0", "class 1")),
        (b"A4: 1\nA4: 2\n", ("A4: 1", "A4: 2")),
        (b"boeing 737\nboeing 747\nairbus 320\n", ("boeing 737", "boeing 747", "airbus 320")),
        (b"<pad>\n<unk>\n#\n##ing\n", ("<pad>", "<unk>", "#", "##ing")),
        (b"tench, Tinca tinca", ("tench, Tinca tinca",)),
    ],
)
def test_names_keep_their_classes(tmp_path: Path, contents: bytes, labels: tuple[str, ...]) -> None:
    (tmp_path / "names.txt").write_bytes(contents)
    assert read_labels(tmp_path, "names.txt") == labels


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"\n \n", "no label is in it; write one class name a line"),
        (b"cat\nd\xf6g\n", "line 2: byte 0xF6 is not UTF-8; save it as UTF-8, such as by: iconv -f LATIN1 -t UTF-8"),
        ("cat\ndog".encode("utf-16-le"), "is no UTF-8 text, since it holds bytes of 0; save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13\n", "is a pointer of Git LFS, not the"),
        (b"<!DOCTYPE html>\n<html>\n", "is a web page (HTML); download the file itself"),
        (b'["cat", "dog"]', "it is JSON"),
        (b'{"0": "cat"}', "it is JSON"),
        (b"names:\n  0: cat\n", "it is YAML"),
        (b'item {\n  id: 1\n  name: "cat"\n}\n', "it is a label map of TensorFlow (pbtxt)"),
        (b"0: cat\n1: dog\n", "its lines begin with numbers, such as '0: cat'"),
        (b"1,cat\n2,dog\n4,bee\n", "its lines begin with numbers, such as '1,cat'"),
        (b"0  cat\n1  dog\n5  bee\n", "its lines begin with numbers, such as '0  cat'"),
        (b"id,name\n0,cat\n1,dog\n", "its lines begin with numbers, such as '0,cat'"),
        (b"cat,dog,bee\n", "it is one line with commas"),
        (b"cat,dog", "it is one line with commas"),
        (b"cat;dog", "it is one line with several names"),
        (b"# of our pets\ncat\ndog\n", "it begins with a comment"),
        (b"path: pets\ntrain: images\n\nnames:\n  0: cat\n  1: dog\n", "it is YAML"),
        (b"# pets\nnc: 2\nnames: ['cat', 'dog']\n", "it is YAML"),
        (b"- cat\n- dog\n", "it is YAML, a list"),
        (b"<names>\n  <name>cat</name>\n</names>\n", "it is XML"),
        (b"cat,\ndog,\nbee\n", "its lines end with commas"),
        (b"0 cat\n2 dog\n7 bee\n", "its lines begin with numbers, such as '0 cat'"),
        (b"1 cat\n2 dog\n", "its lines begin with numbers, such as '1 cat'"),
        (b"1. cat\n2. dog\n", "its lines begin with numbers, such as '1. cat'"),
        (b"(0) cat\n(1) dog\n", "its lines begin with numbers, such as '(0) cat'"),
        (b"0 cat\n", "its lines begin with numbers, such as '0 cat'"),
        (b"cat,1\ndog,2\n", "its lines end with numbers, such as 'cat,1'"),
        (b"name;id\ncat;0\ndog;1\n", "its lines end with numbers, such as 'cat;0'"),
        (b"cat 0\ndog 1\n", "its lines end with numbers, such as 'cat 0'"),
    ],
)
def test_what_is_no_list_of_names_is_told(tmp_path: Path, contents: bytes, reason: str) -> None:
    (tmp_path / "names.txt").write_bytes(contents)
    with pytest.raises(BrokenModel) as refused:
        read_labels(tmp_path, "names.txt")
    assert str(refused.value).startswith(f"/names.txt: {reason}")


def test_a_file_in_another_place_is_named_with_the_line_that_finds_it(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1/names.txt").write_text("cat\ndog")
    with pytest.raises(BrokenModel, match=r'no file names\.txt beside it; 1/names\.txt is there: labels = "1/'):
        read_labels(tmp_path, "names.txt")
    assert read_labels(tmp_path, "1/names.txt") == ("cat", "dog")
