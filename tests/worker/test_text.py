"""Models that take and give text: how it is read and written, run together, and refused."""

import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from onnx import helper

from duly.models.spec import TEXT_ELEMENTS_MAX
from duly.worker.channel import FRAME_FAILED, INVALID, OK
from duly.worker.dtypes import text_array
from duly.worker.text import TextError, read_texts, write_texts
from tests import graphs
from tests.worker.client import Array, Encoded, LoadFailed, Outcome, Worker, version_of

pytestmark = pytest.mark.holds_on("cpu", why="texts stay on the CPU")

TEXTS = ["", "left", "zwölf", "a\0b", "日本語\n", "x" * 300]


def worker(root: Path, name: str = "m", **limits: int) -> Worker:
    return Worker(version_of(root, name), **limits)


def text(*texts: str) -> Array:
    return text_array(texts, (len(texts),))


def said(outcome: Outcome) -> list[object]:
    assert outcome.status == OK, outcome.reason
    return outcome.outputs["y"].ravel().tolist()


@given(some.lists(some.text(some.characters(exclude_categories=["Cs"]), max_size=20), max_size=20))
def test_what_is_written_is_read(texts: list[str]) -> None:
    assert read_texts(write_texts(texts), len(texts)) == texts


@given(some.lists(some.text(some.characters(exclude_categories=["Cs"]), max_size=9), max_size=9), some.data())
def test_tensors_one_behind_the_other_are_one_tensor(texts: list[str], data: some.DataObject) -> None:
    at = data.draw(some.integers(0, len(texts)))
    assert write_texts(texts[:at]) + write_texts(texts[at:]) == write_texts(texts)


@given(some.binary(max_size=40), some.integers(0, 12))
def test_any_bytes_are_read_or_refused_in_words(data: bytes, count: int) -> None:
    try:
        texts = read_texts(data, count)
    except TextError:
        return
    assert write_texts(texts) == data


LIES: Sequence[tuple[bytes, int, str]] = (
    (b"", 1, "its 0 bytes end after 0 of 1 elements"),
    (write_texts(["ab"]) + b"\1\0", 2, "its 8 bytes end after 1 of 2 elements and a part of a length"),
    (struct.pack("<I", 3) + b"ab", 1, "element 0 of 1 states 3 bytes, 2 are left"),
    (write_texts(["ab"]) + struct.pack("<i", -1), 2, "element 1 of 2 states 4294967295 bytes, 0 are left"),
    (write_texts(["ab", "c"]), 1, "5 bytes follow the last of its 1 elements"),
    (b"\0", 0, "1 bytes follow the last of its 0 elements"),
    (write_texts(["ab", "é"])[:-1] + b"\xff", 2, "element 1 of 2 is no UTF-8: byte 0 of its 2 is 0xc3"),
    (bytes(4 * TEXT_ELEMENTS_MAX + 4), TEXT_ELEMENTS_MAX + 1, "65,537 elements of text, at most 65,536 are taken"),
)


@pytest.mark.parametrize(("data", "count", "words"), LIES, ids=[words[:30] for _, _, words in LIES])
def test_lengths_that_lie_are_named(data: bytes, count: int, words: str) -> None:
    with pytest.raises(TextError, match=re.escape(words)):
        read_texts(data, count)


def test_as_many_elements_as_are_taken() -> None:
    assert read_texts(bytes(4 * TEXT_ELEMENTS_MAX), TEXT_ELEMENTS_MAX) == [""] * TEXT_ELEMENTS_MAX


def test_frames_with_text_share_a_batch_and_get_each_its_own(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.joining_texts(("N", 2)))
    frames = [text("a", "bc"), text("", "é"), text("x" * 300, "\0")]
    with worker(tmp_path) as running:
        assert [spec.said() for spec in running.signature.inputs] == ["STRING[2] of at most 8,388,608 bytes"]
        assert running.signature.any_size
        for slot in (0, 1):
            outcomes = running.run([[frame] for frame in frames], slot=slot)
            assert list(map(said, outcomes)) == [[each * 2 for each in frame] for frame in frames]
        assert running.ready["sizes"]["open"] == [0], "what longer text takes is learnt by its bytes"


def test_text_of_one_element_for_each_frame(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.joining_texts())
    with worker(tmp_path) as running:
        outcomes = running.run([[text_array([each], ())] for each in TEXTS])
        assert [said(outcome) for outcome in outcomes] == [[each * 2] for each in TEXTS]
        assert outcomes[0].outputs["y"].shape == ()


def test_padding_is_no_text(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.joining_texts(("N", 1)), toml="batch_sizes = [1, 4]\nany_size = false\n")
    with worker(tmp_path) as running:
        assert list(map(said, running.run([[text("a")], [text("b")]]))) == [["aa"], ["bb"]]


def test_frames_of_other_shapes_run_beside(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.joining_texts(("N", "words")))
    frames = [text("a", "b"), text(), text("c"), text("d", "e")]
    with worker(tmp_path) as running:
        outcomes = running.run([[frame] for frame in frames])
        assert list(map(said, outcomes)) == [["aa", "bb"], [], ["cc"], ["dd", "ee"]]
        assert outcomes[1].outputs["y"].shape == (0,)


@pytest.mark.parametrize(("data", "count", "words"), LIES[2:7], ids=[words[:30] for _, _, words in LIES[2:7]])
def test_a_frame_that_lies_is_invalid_and_its_batch_runs(tmp_path: Path, data: bytes, count: int, words: str) -> None:
    graphs.save(tmp_path, "m", graphs.joining_texts(("N", "words")))
    with worker(tmp_path) as running:
        good = text("a", "b")
        lie = running.run([[good], [Encoded("", data, (count,))], [good]])
        assert [outcome.status for outcome in lie] == [OK, INVALID, OK]
        assert f"input 'x': {words}" in lie[1].reason
        assert said(lie[2]) == ["aa", "bb"]
        picture = running.run([[good], [Encoded("JPEG", b"\xff\xd8")]])
        assert "takes no JPEG, but STRING[-1]" in picture[1].reason


def test_text_out_of_numbers(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.naming())
    with worker(tmp_path) as running:
        frames = [[np.int64(each)] for each in (1, 0, 7)]
        assert [said(outcome) for outcome in running.run(frames)] == [["right"], ["left"], ["other"]]
        assert [outcome.status for outcome in running.run([[np.int64(1)]])] == [OK]


def test_frames_whose_text_would_be_filled_up_for_others_run_alone(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.splitting_texts())
    with worker(tmp_path) as running:
        assert "something in the graph works across the batch" in running.ready["notes"][0]
        outcomes = running.run([[text_array(["a b c"], ())], [text_array(["d"], ())]])
        assert list(map(said, outcomes)) == [["a", "b", "c"], ["d"]]


def test_an_output_with_more_text_than_its_room_fails_alone(tmp_path: Path) -> None:
    toml = 'input = [{ name = "x", bytes_max = 1000 }]\noutput = [{ name = "y", bytes_max = 100 }]\n'
    graphs.save(tmp_path, "m", graphs.joining_texts(), toml=toml)
    with worker(tmp_path) as running:
        outcomes = running.run([[text_array([each], ())] for each in ("a", "x" * 60, "b")])
        assert [outcome.status for outcome in outcomes] == [OK, FRAME_FAILED, OK]
        assert outcomes[1].reason == (
            "output 'y' has 124 bytes (STRING[]), more than the 100 that a frame may have; raise bytes_max of "
            "[[output]] in model.toml to at least 124"
        )


def test_an_output_with_too_many_elements_fails_alone(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.splitting_texts())
    with worker(tmp_path) as running:
        outcomes = running.run([[text_array([each], ())] for each in ("a b", "a " * (TEXT_ELEMENTS_MAX + 1))])
        assert [outcome.status for outcome in outcomes] == [OK, FRAME_FAILED]
        assert "output 'y' has 65,537 elements of text, more than the 65,536" in outcomes[1].reason


def test_numbers_read_from_text_are_warmed_with_numbers(tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=graphs.FP32)
    graphs.save(
        tmp_path, "m", graphs.model([node], [graphs.value("x", ["N"], graphs.TEXT)], [graphs.value("y", ["N"])])
    )
    with worker(tmp_path) as running:
        assert running.run([[text_array(["2.5"], ())]])[0].outputs["y"] == 2.5


@pytest.mark.parametrize(
    ("proto", "toml", "words"),
    [
        (
            graphs.joining_texts(("N", 70_000)),
            "",
            "STRING[70000] has 70,000 elements a frame, at most 65,536 are taken",
        ),
        (
            graphs.model(
                [helper.make_node("StringConcat", ["x", "end"], ["y"])],
                [graphs.value("x", ["N"], graphs.TEXT), graphs.value("end", [1], graphs.TEXT)],
                [graphs.value("y", ["N"], graphs.TEXT)],
                opset=20,
            ),
            "constants = { end = 1 }\n",
            "constants.end: the graph's input is STRING; only numbers can be constant",
        ),
        (
            graphs.joining_texts(),
            'state = [{ output = "y", input = "x" }]\n',
            "state[0]: 'x' is text, which is not kept from frame to frame, as it may be of any size",
        ),
        (
            graphs.joining_texts(),
            'input = [{ name = "x", datatype = "FP32" }]\n',
            "FP32 can't become STRING, which the graph's 'x' takes",
        ),
        (
            graphs.joining_texts(),
            'input = [{ name = "x", bytes_max = 3 }]\n',
            "input[0].bytes_max: 3 is less than the 4 bytes of STRING[]",
        ),
        (
            graphs.joining_texts(),
            '[chunk]\noutput = "y"\ndt_ms = 10\n',
            "chunk.output: 'y' is text; actions are numbers",
        ),
    ],
)
def test_what_text_cannot_be(tmp_path: Path, proto: object, toml: str, words: str) -> None:
    graphs.save(tmp_path, "m", proto, toml=toml)  # type: ignore[arg-type]
    with pytest.raises(LoadFailed, match=re.escape(words)):
        worker(tmp_path).close()


def test_text_in_and_bf16_out_is_refused_with_the_way_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=graphs.FP32),
        helper.make_node("Cast", ["wide"], ["y"], to=graphs.BF16),
    ]
    proto = graphs.model(nodes, [graphs.value("x", ["N"], graphs.TEXT)], [graphs.value("y", ["N"], graphs.BF16)])
    graphs.save(tmp_path, "m", proto)
    with pytest.raises(LoadFailed, match="export 'y' as FP32, by a Cast"):
        worker(tmp_path).close()


def choosing(choices: Sequence[str]) -> object:
    """y[N,n]: which of the choices x[N,1] is; fails on others."""
    node = helper.make_node("OneHotEncoder", ["x"], ["y"], domain="ai.onnx.ml", cats_strings=choices, zeros=0)
    proto = graphs.model(
        [node], [graphs.value("x", ["N", 1], graphs.TEXT)], [graphs.value("y", ["N", 1, len(choices)])]
    )
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    return proto


def test_a_graph_that_takes_only_some_texts_is_tried_with_the_example(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", choosing(["cat", "dog"]))  # type: ignore[arg-type]
    with pytest.raises(LoadFailed) as failed:
        worker(tmp_path).close()
    advised = 'say one under its [[input]]: input = [{ name = "x", example = "…" }]'
    assert advised in str(failed.value)
    toml = 'input = [{ name = "x", example = "cat" }]\n'
    graphs.save(tmp_path, "m", choosing(["cat", "dog"]), toml=toml)  # type: ignore[arg-type]
    with worker(tmp_path) as running:
        outcomes = running.run([[text("dog")], [text("cat")]])
        assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [[[0, 1]], [[1, 0]]]


def test_an_example_of_what_is_no_text_is_refused(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling(), toml='input = [{ name = "x", example = "cat" }]\n')
    with pytest.raises(LoadFailed, match="example: only text has one, and this input is FP32"):
        worker(tmp_path).close()
