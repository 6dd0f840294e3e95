"""What is generated and committed for a language knows every field of the protocol."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor

from duly.v1 import inference_pb2, model_pb2, server_pb2, tensor_pb2

CLIENTS = Path(__file__).parents[1]
GENERATED = {
    "go": (sorted((CLIENTS / "go/v1").glob("*.pb.go")), r"protobuf:\"\w+,{number},\w+(?:,packed)?,name={name}\b"),
    "rust": ([CLIENTS / "rust/src/v1/duly.v1.rs"], r"tag = ?\"{number}\"[^;]*?(?:r#)?{name}\b"),
}


def fields() -> Iterator[tuple[str, int]]:
    def of(message: Descriptor) -> Iterator[tuple[str, int]]:
        for field in message.fields:
            if field.containing_oneof is None:
                yield field.name, field.number
        for nested in message.nested_types:
            yield from of(nested)

    for file in (tensor_pb2, inference_pb2, model_pb2, server_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            yield from of(message)


def test_every_field_is_there(request: pytest.FixtureRequest) -> None:
    subject = request.config.getoption("--subject")
    if subject not in GENERATED:
        pytest.skip("generated when it is built")
    files, pattern = GENERATED[subject]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    missing = [
        f"{name} = {number}"
        for name, number in fields()
        if not re.search(pattern.format(name=name, number=number), text)
    ]
    assert not missing, f"make protos-{subject}: not yet generated are {', '.join(missing)}"
