"""One number for one thing: the protocol's enumerations and those that are written down again beside it."""

from enum import IntEnum
from typing import get_args

import pytest
from google.protobuf.descriptor import EnumDescriptor

from duly.core.events import Advice
from duly.core.types import BacklogPolicy, FusionWait, GapPolicy, OutcomeStatus, StreamClass
from duly.models.spec import ELEMENT_BYTES, DataTypeName
from duly.sampling.sample import numpy_type
from duly.sampling.wire import Joined
from duly.v1 import inference_pb2, tensor_pb2
from duly.worker.dtypes import BFLOAT16 as SERVERS_BFLOAT16
from duly.worker.dtypes import DTYPES, TEXT
from duly_client import FeedbackStatus, Status
from duly_client import convert as client
from duly_client.bfloat16 import BFLOAT16
from duly_load.results.outcomes import OWN_KINDS_FROM, FrameOutcome
from duly_load.scenario.tables import Datatype


def of_protocol(enum: EnumDescriptor, prefix: str) -> dict[str, int]:
    """Numbers by name without its prefix; what is never sent is left out."""
    return {value.name.removeprefix(prefix): value.number for value in enum.values if value.number}


def numbers(enum: type[IntEnum]) -> dict[str, int]:
    return {each.name: each.value for each in enum}


@pytest.mark.parametrize(
    ("name", "prefix", "enum"),
    [
        ("OutcomeStatus", "OUTCOME_STATUS_", OutcomeStatus),
        ("OutcomeStatus", "OUTCOME_STATUS_", Status),
        ("StreamClass", "STREAM_CLASS_", StreamClass),
        ("BacklogPolicy", "BACKLOG_POLICY_", BacklogPolicy),
        ("GapPolicy", "GAP_POLICY_", GapPolicy),
        ("FusionWait", "FUSION_WAIT_", FusionWait),
        ("FeedbackStatus", "FEEDBACK_STATUS_", Joined),
        ("FeedbackStatus", "FEEDBACK_STATUS_", FeedbackStatus),
    ],
    ids=lambda value: value.__module__ if isinstance(value, type) else None,
)
def test_enumerations_have_the_protocols_numbers(name: str, prefix: str, enum: type[IntEnum]) -> None:
    assert numbers(enum) == of_protocol(inference_pb2.DESCRIPTOR.enum_types_by_name[name], prefix)


def test_advice_has_the_protocols_numbers() -> None:
    kinds = inference_pb2.StreamAdvice.DESCRIPTOR.enum_types_by_name["Kind"]
    assert numbers(Advice) == of_protocol(kinds, "KIND_")


def test_the_harness_has_the_protocols_numbers_and_its_own_kinds_apart() -> None:
    statuses = of_protocol(inference_pb2.DESCRIPTOR.enum_types_by_name["OutcomeStatus"], "OUTCOME_STATUS_")
    told = numbers(FrameOutcome)
    assert {name: told[name] for name in statuses} == statuses
    assert all(number >= OWN_KINDS_FROM for name, number in told.items() if name not in statuses)


def test_element_types_are_those_of_the_protocol() -> None:
    names = set(of_protocol(tensor_pb2.DESCRIPTOR.enum_types_by_name["DataType"], "DATA_TYPE_"))
    assert set(get_args(DataTypeName)) == names
    assert set(get_args(Datatype)) == names - {"STRING", "BF16"}, "what scenarios make graphs of"
    assert client.DTYPES.keys() == names
    assert client.DATATYPES.keys() - {BFLOAT16} == {*DTYPES.values()} - {SERVERS_BFLOAT16, TEXT}
    text = {"STRING": 4}  # the length before each element
    assert {name: dtype.itemsize for name, dtype in client.DTYPES.items()} | text == ELEMENT_BYTES
    assert DTYPES.keys() == names


def test_kept_frames_have_the_element_types_of_the_worker() -> None:
    for name, dtype in DTYPES.items():
        if dtype == TEXT:
            assert numpy_type(name).kind == "U"
        else:
            assert numpy_type(name) == ("<u2" if dtype == SERVERS_BFLOAT16 else dtype)
