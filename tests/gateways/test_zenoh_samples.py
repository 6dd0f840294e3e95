"""What samples of Zenoh mean as frames, how outcomes are written, and what settings may say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from duly_client import TensorSpec
from duly_client.convert import DTYPES
from duly_client.types import outcome_of
from duly_gateways import settings_file
from duly_gateways.settings_file import SettingsError
from duly_gateways.zenoh import samples
from duly_gateways.zenoh.samples import BadSample, payload_of
from duly_gateways.zenoh.settings import read_settings


def spec(name: str = "x", datatype: str = "FP32", shape: tuple[int, ...] = (2,), **more: Any) -> TensorSpec:
    return TensorSpec(name, datatype, DTYPES[datatype], shape, **more)


ONE = np.float32([1, 2]).tobytes()
JPEG = b"\xff\xd8\xff\xe0"


@pytest.mark.parametrize(
    ("encoding", "data", "known", "expected"),
    [
        ("zenoh/bytes", ONE, spec(), [1, 2]),
        ("", ONE, spec(shape=(-1,)), [1, 2]),
        ("application/octet-stream", ONE, spec(shape=(1, -1, 2)), [[[1, 2]]]),
        ("application/octet-stream;UINT8[2,4]", ONE, spec(), [[0, 0, 128, 63], [0, 0, 0, 64]]),
        ("zenoh/bytes;FP32[]", ONE[:4], spec(), 1),
        ("zenoh/bytes", b"", spec(shape=(0,)), []),
    ],
)
def test_plain_elements(encoding: str, data: bytes, known: TensorSpec, expected: Any) -> None:
    payload = payload_of(encoding, data, [known])
    assert isinstance(payload, np.ndarray)
    assert payload.tolist() == expected


def test_pictures_go_as_they_are() -> None:
    camera = spec(datatype="UINT8", shape=(-1, -1, 3), encodings=("JPEG",))
    assert payload_of("image/jpeg", JPEG, [camera]) == JPEG
    assert payload_of("zenoh/bytes", JPEG, [camera]) == JPEG
    raw = payload_of("zenoh/bytes", bytes(12), [camera], "", (2, 2, 3))
    assert isinstance(raw, np.ndarray)
    assert raw.shape == (2, 2, 3)


def test_a_frame_may_have_several_inputs() -> None:
    frame = pb.Frame()
    frame.tensors.add(name="a", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[2], data=ONE)
    frame.encoded.add(name="b", format=tensor_pb2.ENCODED_FORMAT_JPEG, data=JPEG)
    payload = payload_of("application/protobuf;duly.v1.Frame", frame.SerializeToString(), [spec("a"), spec("b")])
    assert isinstance(payload, dict)
    assert (payload["a"].tolist(), payload["b"]) == ([1, 2], JPEG)
    del frame.encoded[:]
    frame.tensors[0].name = ""
    only = payload_of("application/protobuf;duly.v1.Frame", frame.SerializeToString(), [spec("a")])
    assert isinstance(only, np.ndarray)


@pytest.mark.parametrize(
    ("encoding", "data", "specs", "words"),
    [
        ("zenoh/bytes", ONE, [spec("a"), spec("b")], "takes several inputs (a, b): publish application/protobuf"),
        ("zenoh/bytes", ONE, [spec(shape=(-1, -1))], "say the sample's shape in its encoding"),
        ("zenoh/bytes", ONE[:7], [spec()], "has 7 bytes, FP32[2] has 8"),
        ("zenoh/bytes", ONE[:6], [spec(shape=(-1,))], "has 6 bytes"),
        ("zenoh/bytes;FP128[2]", ONE, [spec()], "schema is 'FP128[2]'"),
        ("zenoh/bytes;FP32[999999999,999999999]", ONE, [spec()], "the sample has 8 bytes"),
        ("image/png", ONE, [spec(encodings=("JPEG",))], "takes FP32[2] or JPEG"),
        ("video/mp4", ONE, [spec()], "'video/mp4', which is none of"),
        ("application/protobuf", ONE, [spec()], "schema is '', expected duly.v1.Frame"),
        ("application/protobuf;duly.v1.Frame", b"\xff", [spec()], "no duly.v1.Frame"),
        (
            "application/protobuf;duly.v1.Frame",
            pb.Frame(tensors=[tensor_pb2.Tensor(name="x", datatype=99, data=ONE)]).SerializeToString(),  # type: ignore[arg-type]
            [spec()],
            "no element type that is known (99)",
        ),
        (
            "application/protobuf;duly.v1.Frame",
            pb.Frame(
                tensors=[tensor_pb2.Tensor(name="x", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[-1, -2], data=ONE)]
            ).SerializeToString(),
            [spec()],
            "do not fill the shape [-1, -2]",
        ),
        (
            "application/protobuf;duly.v1.Frame",
            pb.Frame(
                tensors=[tensor_pb2.Tensor(name="x", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[2], data=ONE)] * 2
            ).SerializeToString(),
            [spec()],
            "has an input twice",
        ),
    ],
)
def test_what_is_wrong_is_named(encoding: str, data: bytes, specs: list[TensorSpec], words: str) -> None:
    with pytest.raises(BadSample) as told:
        payload_of(encoding, data, specs)
    assert words in str(told.value)


KINDS = st.sampled_from(
    ["", "zenoh/bytes", "image/jpeg", "application/protobuf;duly.v1.Frame", "zenoh/bytes;UINT8[4]", "x;y"]
)


@given(KINDS | st.text(max_size=20), st.binary(max_size=40), st.lists(st.integers(-1, 4), max_size=3))
def test_any_sample_is_read_or_named(encoding: str, data: bytes, shape: list[int]) -> None:
    try:
        payload_of(encoding, data, [spec(shape=tuple(shape), encodings=("JPEG",))])
    except BadSample as error:
        assert str(error)  # noqa: PT017 (it may be read as well)


def test_outcomes_are_written_for_people_and_for_programs() -> None:
    sent = pb.Outcome(frame_id=7, status=pb.OUTCOME_STATUS_ON_TIME, version="2", slack_nano=5, planned_delay_nano=9)
    data = np.float32([1, np.nan]).tobytes()
    sent.outputs.add(name="y", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[2], data=data)
    sent.chunk.output, sent.chunk.dt_nano, sent.chunk.horizon = "y", 20, 2
    sent.timing.sent_nano = 3
    outcome = outcome_of(sent, 1_000_000)
    assert pb.Outcome.FromString(samples.outcome_protobuf(outcome)) == sent
    told = json.loads(samples.outcome_json(outcome, "a/b"))
    assert told["outputs"] == {"y": {"datatype": "FP32", "shape": [2], "values": [1, None]}}
    assert (told["key"], told["frame_id"], told["status"], told["latency_ms"]) == ("a/b", 7, "ON_TIME", 1)
    refused = outcome_of(pb.Outcome(frame_id=1, status=pb.OUTCOME_STATUS_SHED, reason="too much"), 0)
    assert json.loads(samples.outcome_json(refused, "k"))["reason"] == "too much"
    assert json.loads(samples.error_json("k", "INVALID", "why", 3)) == {
        "key": "k",
        "status": "INVALID",
        "reason": "why",
        "not_told": 3,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "should be 1 to 64 tables"),
        ("[[bridge]]\n", "bridge[0].subscribe: is missing"),
        ('[[bridge]]\nsubscribe = "a"\nmodel = 1\n', "bridge[0].model: should be a string"),
        ('[[bridge]]\nsubscribe = "a"\nmodel = "m"\nform = "xml"\n', "bridge[0].form: should be one of json, protobuf"),
        ('[[bridge]]\nsubscribe = "a"\nmodel = "m"\nshape = [0]\n', "bridge[0].shape: should be"),
        ('[[bridge]]\nsubscribe = "a"\nmodel = "m"\nbudget = 1\n', "bridge[0].budget: there is no such key"),
        ('[[bridge]]\nsubscribe = "a"\nmodel = "m"\nkeys_max = 0\n', "bridge[0].keys_max: should be 1 to 4096, got 0"),
        ('[zenoh]\nmode = "star"\n', "zenoh.mode: should be one of peer, client, router"),
        ("[zenoh]\nlisten = [1]\n", "zenoh.listen: should be a list of strings"),
    ],
)
def test_settings_name_the_key(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "zenoh.toml").write_text(text)
    with pytest.raises(SettingsError) as told:
        read_settings(settings_file.read(tmp_path / "zenoh.toml"))
    assert words in str(told.value)


def test_text_and_bf16_go_both_ways() -> None:
    words = spec(datatype="STRING", shape=(-1,))
    data = b"\1\0\0\0a\2\0\0\0\xc3\xa9"
    payload = payload_of("zenoh/bytes;STRING[2]", data, [words])
    assert isinstance(payload, np.ndarray)
    assert payload.tolist() == ["a", "é"]
    for encoding, words_of_it in (
        ("zenoh/bytes", "say the sample's shape"),
        ("zenoh/bytes;STRING[3]", "there are fewer"),
    ):
        with pytest.raises(BadSample, match=words_of_it):
            payload_of(encoding, data, [words])
    message = pb.Outcome(frame_id=1, status=pb.OUTCOME_STATUS_ON_TIME)
    message.outputs.add(name="label", datatype=tensor_pb2.DATA_TYPE_STRING, shape=[2], data=data)
    message.outputs.add(name="half", datatype=tensor_pb2.DATA_TYPE_BF16, shape=[1], data=b"\xc0\x3f")
    outcome = outcome_of(message, 0)
    told = json.loads(samples.outcome_json(outcome, "k"))["outputs"]
    assert told["label"] == {"datatype": "STRING", "shape": [2], "values": ["a", "é"]}
    assert told["half"] == {"datatype": "BF16", "shape": [1], "values": [1.5]}
    written = pb.Outcome.FromString(samples.outcome_protobuf(outcome)).outputs
    assert [(each.datatype, each.data) for each in written] == [(each.datatype, each.data) for each in message.outputs]
