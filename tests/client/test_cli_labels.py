"""Files of labels: what is read of each line, and what is said of those that are none."""

import io
import json
import random
import re
from collections.abc import Mapping

import numpy as np
import pytest

from duly import cli_labels as module
from duly.cli_labels import BadLine, LabelLine, NoLabels, read_labels
from duly_client import BFLOAT16
from duly_client.feedback import BYTES_MAX, Label, requests

KEY = "0123456789abcdef-1"


def read(text: str | bytes) -> list[LabelLine | BadLine]:
    return list(read_labels(io.BytesIO(text.encode() if isinstance(text, str) else text)))


def labels(text: str | bytes) -> list[tuple[int, str, int, Label, float, str]]:
    """All lines of a text that has labels alone."""
    found = []
    for line in read(text):
        assert isinstance(line, LabelLine), line
        each = line.feedback
        found.append((line.number, each.stream_key, each.frame_id, each.label, each.weight, each.source))
        assert list(requests([each])), "it can be sent"
    return found


def reasons(text: str | bytes) -> dict[int, str]:
    return {line.number: line.reason for line in read(text) if isinstance(line, BadLine)}


def of(label: object) -> Label:
    """What is read of a label in JSON lines."""
    ((*_, found, _, _),) = labels(json.dumps({"stream": KEY, "frame_id": 1, "label": label}))
    return found


def wrong(label: object) -> str:
    (reason,) = reasons(json.dumps({"stream": KEY, "frame_id": 1, "label": label})).values()
    return reason


def test_csv_and_json_lines_say_the_same() -> None:
    wanted = [(2, "k-1", 7, 1, 1.0, ""), (3, "k-1", 8, "fraud, or so", 2.5, "desk"), (4, "k-2", 2**64 - 1, -3, 1.0, "")]
    csv = 'frame_id,stream,label,weight,source\r\n7,k-1,1,,\r\n8, k-1,"fraud, or so",2.5,desk\n'
    csv += "18446744073709551615,k-2,-3.0,1,\n"
    assert labels(csv) == wanted
    assert labels(b"\xef\xbb\xbf" + csv.encode()) == wanted
    lines = ['{"stream": "k-1", "frame_id": 7, "label": 1}']
    lines += ['{"stream": "k-1", "frame_id": 8, "label": "fraud, or so", "weight": 2.5, "source": "desk"}']
    lines += [f'{{"stream": "k-2", "frame_id": {2**64 - 1}, "label": -3.0}}']
    assert labels("\n".join(["", *lines])) == wanted, "an empty line counts, and says nothing"


def test_names_that_look_like_numbers_and_tensors_stand_in_csv_as_json() -> None:
    ((*_, name, _, _), (*_, values, _, _)) = labels(
        'stream,frame_id,label\nk,1,"""7"""\nk,2,"{""boxes"": [[0.5, 1]], ""kind"": ""cat""}"\n'
    )
    assert name == "7"
    assert isinstance(values, dict)
    assert values["boxes"].tolist() == [[0.5, 1.0]]
    assert values["boxes"].dtype == np.float32
    assert values["kind"].tolist() == "cat"


@pytest.mark.parametrize(
    ("value", "dtype", "elements"),
    [
        (0.5, "f4", 0.5),
        ([1, 2.5], "f4", [1, 2.5]),
        ([[1], [2]], "i8", [[1], [2]]),
        ([True, False], "?", [True, False]),
        (["a", "bc"], "O", ["a", "bc"]),
        ({"datatype": "UINT8", "data": [0, 255]}, "u1", [0, 255]),
        ({"datatype": "UINT8", "data": [1.0]}, "u1", [1]),
        ({"datatype": "FP64", "data": 1}, "f8", 1.0),
        ({"datatype": "STRING", "data": "a"}, "O", "a"),
        ({"datatype": "BOOL", "data": True}, "?", True),
    ],
)
def test_what_an_output_should_have_been_is_a_tensor(value: object, dtype: str, elements: object) -> None:
    found = of({"y": value})
    assert isinstance(found, Mapping)
    array = np.asarray(found["y"])
    assert (array.dtype, array.tolist()) == (np.dtype(dtype), elements)


def test_bfloat16_is_rounded() -> None:
    found = of({"y": {"datatype": "BF16", "data": [1.0]}})
    assert isinstance(found, Mapping)
    assert np.asarray(found["y"]).dtype == BFLOAT16


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (True, "label is true; a label is a class's number or name"),
        (0.5, "label is 0.5; "),
        (2**63, "label is 9223372036854775808"),
        ([1], r"label is \[1\]"),
        ({"y": [[1], [1, 2]]}, "lists are not equally long"),
        ({"y": []}, "no value"),
        ({"y": None}, "no value"),
        ({"y": [1, "a"]}, "is no text, as its neighbours are"),
        ({"y": {"data": [1]}}, "is no tensor; one is"),
        ({"y": {"datatype": "FP8", "data": [1]}}, "is no element type; there are BOOL, UINT8"),
        ({"y": {"datatype": "UINT8", "data": [256]}}, r"\[256\] is no UINT8"),
        ({"y": {"datatype": "INT8", "data": [0.5]}}, r"\[0.5\] is no INT8"),
        ({"y": {"datatype": "FP16", "data": [1e9]}}, "is no FP16"),
        ({"y": {"datatype": "FP32", "data": [True]}}, "is no FP32"),
        ({"y": {"datatype": "BOOL", "data": [1]}}, "is no BOOL"),
        ({"y": {"datatype": "STRING", "data": [1]}}, "is no STRING"),
        ({"y": {"datatype": "FP32", "data": "a"}}, "is text, and no FP32"),
        ({"y": [2**70]}, "is no INT64|no value"),
        ("\ud800", "half a character"),
        ("", "lacks label"),
    ],
)
def test_what_is_no_label_is_told_with_what_would_be(label: object, said: str) -> None:
    assert re.search(said, wrong(label)), wrong(label)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "no JSON"),
        ("[1]", "it is no object"),
        ('{"stream": "k", "frame_id": 1, "label": NaN}', "NaN is no number"),
        ('{"stream": "k", "frame_id": 1}', "lacks label; it needs stream, frame_id, label"),
        ('{"stream": "", "frame_id": 1, "label": 1}', "lacks stream"),
        ('{"stream": 5, "frame_id": 1, "label": 1}', "stream is no key"),
        ('{"stream": "k", "frame_id": -1, "label": 1}', "frame_id is -1; it is a whole number"),
        ('{"stream": "k", "frame_id": "x", "label": 1}', 'frame_id is "x"'),
        ('{"stream": "k", "frame_id": 1, "label": 1, "wieght": 2}', '"wieght" is unknown; known are'),
        ('{"stream": "k", "frame_id": 1, "label": 1, "weight": 0}', "weight is 0; it is a number above 0"),
        ('{"stream": "k", "frame_id": 1, "label": 1, "weight": 1e999}', "weight"),
        ('{"stream": "k", "frame_id": 1, "label": 1, "source": 7}', "source is 7"),
    ],
)
def test_a_bad_line_is_named_and_the_next_one_is_read(line: str, said: str) -> None:
    good = '{"stream": "k", "frame_id": 1, "label": 1}'
    found = read(f"{good}\n{line}\n\n{good}\n")
    assert [type(each) for each in found] == [LabelLine, BadLine, LabelLine]
    assert [each.number for each in found] == [1, 2, 4]
    assert said in reasons(f"{good}\n{line}")[2]


def test_lines_of_csv_are_named_too() -> None:
    text = b'stream,frame_id,label\nk,1,1\nk,x,1\nk,2\nk,3,{\nk,\xff,1\nk,99999999999999999999999,1\nk,4,"a"b\nk,5,1\n'
    found = reasons(text)
    assert found[3] == 'frame_id is "x"; it is a whole number, that of the frame'
    assert found[4] == "it has 2 fields, and the first line names 3"
    assert found[5].startswith("it is no JSON")
    assert found[6].startswith("it is no UTF-8")
    assert found[7].endswith("is too large a number")
    assert found[8].startswith("it is no CSV")
    assert [each.number for each in read(text) if isinstance(each, LabelLine)] == [2, 9]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("frame,label", "lacks stream, frame_id; a file of labels begins with the names of its columns"),
        ("stream,frame_id,label,colour", '"colour" is unknown'),
        ("stream,frame_id,label,label", "names a column twice"),
    ],
)
def test_a_file_that_is_none_is_told(header: str, said: str) -> None:
    with pytest.raises(NoLabels, match=said):
        read(header + "\n1,2\n")


def test_no_line_and_no_label_is_longer_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    good = '{"stream": "k", "frame_id": 1, "label": 1}\n'
    wide = [0.5] * (BYTES_MAX // 4 + 1)
    large = json.dumps({"stream": "k", "frame_id": 1, "label": {"y": wide}}) + "\n"
    assert "at most 2,097,152 are sent for a frame" in reasons(good + large + good)[2]
    monkeypatch.setattr(module, "LINE_BYTES_MAX", 100)
    assert reasons(good + large + good) == {2: "it is longer than 100 bytes"}
    assert [each.number for each in read(good + large + good)] == [1, 2, 3]
    assert reasons("x" * 250) == {1: "it is longer than 100 bytes"}
    csv = 'stream,frame_id,label\nk,1,"' + "x\n" * 100 + "\nk,2,1\n"
    assert any("it is no CSV" in reason for reason in reasons(csv).values()), "a quote that nobody closes"
    assert read(b"") == []


@pytest.mark.parametrize("seed", range(200))
def test_whatever_is_in_a_file_each_line_is_a_label_or_is_named(seed: int) -> None:
    rng = random.Random(seed)
    pieces = [
        "stream,frame_id,label\n",
        "k,1,1\n",
        '{"stream": "k", "frame_id": 1, "label": ',
        '{"y": [1, 2]}',
        "}\n",
        '"',
    ]
    pieces += [
        ",",
        "\n",
        "\0",
        "\r",
        "NaN",
        "1e400",
        "[" * 50,
        "\ud7ff",
        "k,2,cat\n",
        '{"datatype": "FP16", "data": 1}',
    ]
    text = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 30))).encode()
    if rng.random() < 0.5:
        at = rng.randrange(len(text))
        text = text[:at] + rng.randbytes(3) + text[at:]
    try:
        found = read(text)
    except NoLabels:
        return
    numbers = [each.number for each in found]
    assert numbers == sorted(numbers)
    for each in found:
        assert isinstance(each, BadLine) or list(requests([each.feedback]))
