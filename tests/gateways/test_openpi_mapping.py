"""What of an observation goes into which input, and what its client gets back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duly_client import TensorSpec
from duly_client.convert import DTYPES
from duly_gateways import settings_file
from duly_gateways.openpi.mapping import BadObservation, Observed, read_mapping
from duly_gateways.settings_file import SettingsError


def spec(name: str, datatype: str = "FP32", shape: tuple[int, ...] = (2,), **more: Any) -> TensorSpec:
    return TensorSpec(name, datatype, DTYPES[datatype], shape, **more)


def test_inputs_go_by_their_names_or_as_it_is_said() -> None:
    observed = Observed(inputs={"state": "robot/joints", "flat": "a/b"})
    observation = {"robot": {"joints": [1, 2]}, "a/b": np.int64([3, 4]), "plain": np.float64([5, 6]), "more": None}
    payload = observed.payload(observation, [spec("state"), spec("flat", "INT32"), spec("plain")])
    assert {name: (array.dtype.str, array.tolist()) for name, array in payload.items()} == {  # type: ignore[union-attr]
        "state": ("<f4", [1, 2]),
        "flat": ("<i4", [3, 4]),
        "plain": ("<f4", [5, 6]),
    }


def test_pictures_go_as_they_are() -> None:
    payload = Observed().payload({"x": b"\xff\xd8\xff"}, [spec("x", encodings=("JPEG",))])
    assert payload == {"x": b"\xff\xd8\xff"}


def test_a_prompt_goes_as_it_is_to_a_model_of_text() -> None:
    assert Observed().payload({"prompt": "fold it"}, [spec("prompt", "STRING", ())]) == {"prompt": "fold it"}


def test_texts_become_their_place() -> None:
    observed = Observed(texts={"task": ["stop", "go"]})
    assert observed.payload({"task": "go"}, [spec("task", "INT64", (1,))])["task"].tolist() == [1]  # type: ignore[union-attr]
    assert observed.payload({"task": "go"}, [spec("task", "INT64", ())])["task"].tolist() == 1  # type: ignore[union-attr]
    with pytest.raises(BadObservation, match="'task' is 'run'; input 'task' knows: 'stop', 'go'"):
        observed.payload({"task": "run"}, [spec("task", "INT64", (1,))])


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({}, "there is no 'x'; the observation has: nothing"),
        ({"y": 1, "z": 2}, "the observation has: 'y', 'z'"),
        ({"x": None}, "'x' is NoneType; input 'x' takes FP32\\[2\\]"),
        ({"x": {"y": 1}}, "'x' is dict"),
        ({"x": "text"}, "'x' is 'text'"),
        ({"x": [[1], [1, 2]]}, "lists that differ in length"),
        ({"x": ["a", "b"]}, "array of <U1"),
        ({"x": [1, None]}, "array of object"),
    ],
)
def test_what_is_wrong_is_named(held: dict[str, Any], words: str) -> None:
    with pytest.raises(BadObservation, match=words):
        Observed().payload(held, [spec("x")])


def test_numbers_that_would_change_are_refused() -> None:
    with pytest.raises(BadObservation, match="array of float64; input 'x' takes UINT8"):
        Observed().payload({"x": [0.5, 1.0]}, [spec("x", "UINT8")])


def test_settings_name_the_key(tmp_path: Path) -> None:
    def read(text: str) -> Observed:
        (tmp_path / "a.toml").write_text(text)
        return read_mapping(settings_file.read(tmp_path / "a.toml"))

    assert read('[inputs]\na = "b"\n[texts]\nt = ["x"]\n') == Observed({"a": "b"}, {}, {"t": ["x"]})
    for text, words in (
        ("[inputs]\na = 1\n", "inputs.a: should be a string, got 1"),
        ('[texts]\nt = ["x", "x"]\n', "texts.t: should be 1 to 4096 different texts"),
        ("texts = 1\n", "texts: should be a table, got 1"),
        ("inputs = {", "a.toml: "),
    ):
        with pytest.raises(SettingsError, match=words):
            read(text)
    table = settings_file.Table("", {"wrong": 1})
    table.take("right", int, 1)
    with pytest.raises(SettingsError, match="wrong: there is no such key; there are: right"):
        table.finish()
    with pytest.raises(SettingsError, match="No such file"):
        settings_file.read(tmp_path / "none.toml")
