"""What is written is read back as it was, in the order of time, whatever else lies there."""

import os
from pathlib import Path

import numpy as np
import pytest

from duly.sampling.files import BrokenFile, read_file, write
from duly.sampling.rows import Rows
from duly.sampling.sample import Form, Labelled
from duly.sampling.store import Follower, read, segment_name
from tests.sampling.made import FORM, same, sample


def test_a_file_of_one_frame_is_what_numpy_reads(tmp_path: Path) -> None:
    kept = sample(7, stream_name="front", captured_unix_ns=5, guards=("blank", "frozen"))
    size_bytes = write(tmp_path / "0.npz", [kept], segment=False)
    assert size_bytes == 4096 * -(-(tmp_path / "0.npz").stat().st_size // 4096)
    with np.load(tmp_path / "0.npz") as file:
        assert sorted(file) == ["input.x", "meta", "output.y"]
        assert file["input.x"].tolist() == [7, 7, 7, 7]
    (again,) = read_file(tmp_path / "0.npz")
    assert same(again, kept)
    assert oct((tmp_path / "0.npz").stat().st_mode & 0o777) == "0o600"
    assert os.listdir(tmp_path) == ["0.npz"]


def test_a_segment_keeps_frames_of_other_shapes_texts_and_names(tmp_path: Path) -> None:
    types = {"input.a/b:0": "STRING", "input.file": "UINT8", "output.boxes": "FP32"}
    form = Form("m", "2", types, {"boxes": (-1, 4)}, "kind")
    frames = [
        sample(
            nth,
            form=form,
            encodings={"input.file": "JPEG"},
            pieces=(("s-1", nth), ("s-2", 40 + nth)),
            arrays={
                "input.a/b:0": np.array(["ä" * nth, ""]),
                "input.file": np.frombuffer(bytes(range(nth)), np.uint8),
                "output.boxes": np.full((nth, 4), nth, np.float32),
            },
        )
        for nth in (3, 0, 1)
    ]
    write(tmp_path / "1.npz", frames, segment=True, durable=True)
    assert all(map(same, read_file(tmp_path / "1.npz"), frames))


def test_labels_come_with_their_frame(tmp_path: Path) -> None:
    label = Labelled(9, "a bank", 0.5, "desk")
    labelled = sample(1).with_labels({"label": np.array(2)}, {"label": "INT64"}, label)
    assert labelled.labels == {"label": 2}
    assert sorted(labelled.inputs) == ["x"]
    again = labelled.with_labels({"y": np.zeros(3, np.float32)}, {"y": "FP32"}, label)
    assert list(again.labels) == ["y"], "a correction takes the place of what was there"
    write(tmp_path / "1.npz", [labelled], segment=True)
    assert same(read_file(tmp_path / "1.npz")[0], labelled)


def test_frames_are_read_in_the_order_of_time_each_once_with_its_newest_label(tmp_path: Path) -> None:
    frames, labelled, samples = (tmp_path / "m" / kind for kind in ("frames", "labelled", "samples/s-1"))
    for folder in (frames, labelled, samples):
        folder.mkdir(parents=True)
    write(frames / segment_name(1), [sample(2), sample(1)], segment=True)
    write(frames / segment_name(2), [sample(4), sample(3)], segment=True)
    write(samples / "0.npz", [sample(3)], segment=False)
    for number, right in ((1, 0), (2, 1)):
        label = Labelled(100 + number, "somebody")
        with_label = sample(1).with_labels({"label": np.array(right)}, {"label": "INT64"}, label)
        write(labelled / segment_name(number), [with_label], segment=True)
    read_back = list(read(tmp_path))
    assert [each.frame_id for each in read_back] == [1, 2, 3, 4]
    assert read_back[0].labels == {"label": 1}
    assert not any(each.labels for each in read_back[1:])


@pytest.mark.parametrize("harm", ["cut", "empty", "junk", "no meta", "gone meanwhile", "bits"])
def test_broken_files_are_passed_over_by_name(tmp_path: Path, harm: str) -> None:
    sound, broken = tmp_path / segment_name(1), tmp_path / segment_name(2)
    write(sound, [sample(1)], segment=True)
    write(broken, [sample(2)], segment=True)
    contents = broken.read_bytes()
    match harm:
        case "cut":
            broken.write_bytes(contents[:-100])
        case "empty":
            broken.write_bytes(b"")
        case "junk":
            broken.write_bytes(os.urandom(1000))
        case "no meta":
            np.savez(broken, x=np.zeros(3))
        case "bits":
            at = contents.index(b"output.y.npy") + 20
            broken.write_bytes(contents[:at] + bytes(80) + contents[at + 80 :])
    named: list[Path] = []
    found = read(tmp_path, lambda path, reason: named.append(path))
    if harm == "gone meanwhile":
        first = next(found)
        broken.unlink()
        assert [first.frame_id, *(each.frame_id for each in found)] == [1]
    else:
        assert [each.frame_id for each in found] == [1]
    assert named == [broken]
    if harm == "cut":
        with pytest.raises(BrokenFile, match="a part"):
            read_file(broken)


def test_a_follower_reads_what_comes_and_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "labelled"
    follower = Follower(folder)
    assert list(follower.new()) == []
    folder.mkdir(parents=True)
    write(folder / segment_name(5), [sample(1), sample(2)], segment=True)
    assert [each.frame_id for each in follower.new()] == [1, 2]
    assert list(follower.new()) == []
    write(folder / segment_name(7), [sample(3)], segment=True)
    (folder / segment_name(6)).write_bytes(b"broken")
    (folder / ".000000000008.npz.half").write_bytes(b"half")
    assert follower.position == 5
    assert [each.frame_id for each in Follower(folder, after=follower.position).new()] == [3]
    assert [each.frame_id for each in follower.new()] == [3]
    assert follower.position == 7


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read(tmp_path / "none"))
    assert FORM.class_label == "label"


@pytest.mark.parametrize("alike", [True, False])
def test_single_frames_of_a_segment_are_as_in_the_whole(tmp_path: Path, alike: bool) -> None:
    texts = [np.array(["", "a\u00e4"]), np.array(["long" * 100] * (2 if alike else 0), np.str_)]
    form = Form("m", "1", {"input.x": "FP32", "input.t": "STRING"}, {})
    xs = [np.full((2, 3 if alike else nth), nth, "<f4") for nth in range(5)]
    kept = [sample(nth, form=form, arrays={"input.x": xs[nth], "input.t": texts[nth % 2]}) for nth in range(5)]
    path = tmp_path / segment_name(1)
    write(path, kept, segment=True)
    rows = Rows(path)
    assert len(rows) == 5
    for nth in (3, 0, 4, 1, 2):
        assert same(rows.frame(nth), kept[nth])
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(BrokenFile, match="cut off"):
        rows.frame(4)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        rows.frame(0)
