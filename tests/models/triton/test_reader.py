"""The reader of protobuf's text format agrees with protobuf's own, and says the line of what is wrong."""

import random
import re
from typing import Any

import pytest
from google.protobuf import text_format

from duly.models.triton.message import Message, Value, read_message
from duly.models.triton.text_format import DEPTH_MAX, FIELDS_MAX, Block, TextError, parse
from tests.models.triton.protobuf import model_config
from tests.models.triton.random_configs import random_config


def fill(proto: Any, message: Message) -> Any:
    """Puts what a message of ours holds into one of protobuf's."""
    for name, values in message.scalars.items():
        field = proto.DESCRIPTOR.fields_by_name[name]
        given = [each.value for each in values]
        if field.enum_type is not None:
            given = [field.enum_type.values_by_name[str(each)].number for each in given]
        if field.is_repeated:
            getattr(proto, name).extend(given)
        else:
            setattr(proto, name, given[0])
    for name, inner in message.inner.items():
        for each in inner:
            if proto.DESCRIPTOR.fields_by_name[name].is_repeated:
                fill(getattr(proto, name).add(), each)
            else:
                getattr(proto, name).SetInParent()
                fill(getattr(proto, name), each)
    for name, entries in message.maps.items():
        for key, entry in entries.items():
            if isinstance(entry, Value):
                getattr(proto, name)[key] = entry.value
            else:
                fill(getattr(proto, name)[key], entry)
    return proto


def same(ours: Message, text: str) -> None:
    assert fill(model_config()(), ours) == text_format.Parse(text, model_config()())


@pytest.mark.parametrize("seed", range(200))
def test_what_protobuf_writes_is_read_as_it_was(seed: int) -> None:
    config = random_config(seed)
    for options in ({}, {"as_one_line": True}, {"pointy_brackets": True}, {"use_short_repeated_primitives": True}):
        text = text_format.MessageToString(config, **options)  # type: ignore[arg-type]
        same(read_message(parse(text)), text)


def test_all_ways_to_write_a_value() -> None:
    text = """
    # a comment { [
    name: 'one' "two\\x41\\101\\n\\u00e9\\"" # neighbours are one string
    max_batch_size: 0x10;
    input: [ { name: "a", dims: [ 1, -1 ] data_type: 11 }, < name: "b" dims: 2 dims: 010 > ]
    output { name: "c" reshape { } },
    optimization { cuda { graphs: t busy_wait_events: False } }
    sequence_batching { direct { minimum_slot_utilization: 1.5e-1f } }
    parameters { key: "k" value: { string_value: "v" } } parameters: { value { } key: "l" }
    cc_model_filenames: [ ]
    """
    message = read_message(parse(text))
    same(message, text)
    assert message.text("name") == "one" + 'twoAA\né"'
    assert [each.line_of("dims") for each in message.messages("input")] == [5, 5]


WRONG = {
    "max_batch_size 8": "line 1: max_batch_size: ':' and a value are expected, or '{' and fields, got '8'",
    '\nname: "open': "line 2: the string has no end: '\"open'; close it on its line",
    'input {\n name: "x"\n': "line 3: the file ends, and the message of line 1 lacks its '}'",
    'input [ { name: "x" } { } ]': "line 1: input: ',' or ']' is expected in its list, got '{'",
    'input [ { name: "x" }': "line 1: input: ',' or ']' is expected in its list, the file ends",
    "}": "line 1: a field's name is expected, got '}'",
    "[a.b.c]: 1": "line 1: a field's name is expected; extensions and messages of type Any are not read",
    'name: "\\q"': "line 1: '\\q' is no escape; a backslash itself is written \\\\",
    'name: "\\xff"': "line 1: the string is not UTF-8 by its escapes",
    'name: "\\ud800"': "line 1: '\\ud800' is no character",
    "name: @": "line 1: '@' is no part of protobuf's text format",
    "max_batch_size: 8x": "line 1: '8x' is no number",
    "max_batch_size:": "line 1: max_batch_size: a value is expected, and the file ends",
    "max_batch_size: 1\n\nmax_batch_size: 2": "line 3: max_batch_size stands twice, first on line 1; keep one",
    "max_batchsize: 1": "line 1: max_batchsize: there is no such field; did you mean max_batch_size?",
    "input { shape: 1 }": "line 1: input.shape: there is no such field; did you mean reshape?",
    "version_policy { newest { } }": "line 1: version_policy.newest: there is no such field; "
    "there are latest, all, specific",
    "max_batch_size: 3000000000": "line 1: max_batch_size: '3000000000' is no number from -2147483648 to 2147483647",
    "max_batch_size: 1.5": "line 1: max_batch_size: should be a whole number, got '1.5'",
    'max_batch_size: "1"': "line 1: max_batch_size: should be a whole number, got '1'",
    "max_batch_size { }": "line 1: max_batch_size: should be a whole number, not a message in { }",
    "name: x": "line 1: name: should be a text in quotes, got 'x'",
    "input: 5": "line 1: input: should be a message in { }, got '5'",
    "input {\n data_type: FP32 }": "line 2: input.data_type: should be one of TYPE_INVALID, TYPE_BOOL, TYPE_UINT8, "
    "TYPE_UINT16, TYPE_UINT32, TYPE_UINT64, TYPE_INT8, TYPE_INT16, TYPE_INT32, TYPE_INT64, TYPE_FP16, TYPE_FP32, "
    "TYPE_FP64, TYPE_STRING, TYPE_BF16, got 'FP32'; did you mean TYPE_FP32?",
    'instance_group { kind: "KIND_CPU" }': "line 1: instance_group.kind: should be one of KIND_AUTO, KIND_GPU, "
    "KIND_CPU, KIND_MODEL, without quotes, got 'KIND_CPU'; did you mean KIND_CPU?",
    "input { optional: yes }": "line 1: input.optional: should be true or false, got 'yes'",
    "dynamic_batching { }\nsequence_batching { }": "line 2: sequence_batching: only one of dynamic_batching and "
    "sequence_batching can be stated; keep one",
    "parameters: 5": "line 1: parameters: should be { key: \"…\" value: … }, got '5'",
    "parameters { value { } }": "line 1: parameters: its key is missing",
    'parameters { key: "a" key: "b" }': "line 1: parameters.key stands twice; keep one",
    'parameters { name: "a" }': "line 1: parameters.name: there is no such field; there are key, value",
    "sequence_batching { direct { minimum_slot_utilization: inf } }": "line 1: "
    "sequence_batching.direct.minimum_slot_utilization: should be a number, got 'inf'",
    "\n" + "a" * 129: f"line 2: '{'a' * 39}…' is longer than any name of a model configuration",
    "a { " * (DEPTH_MAX + 1): f"line 1: a: more than {DEPTH_MAX} messages within one another",
    "a:1 " * (FIELDS_MAX + 1): f"line 1: more than {FIELDS_MAX:,} fields; no model has so many",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_errors_say_the_line_and_what_would_be_right(text: str) -> None:
    with pytest.raises(TextError) as refused:
        read_message(parse(text))
    assert str(refused.value) == WRONG[text]


def test_whatever_is_cut_or_changed_protobuf_and_we_agree() -> None:
    """A text that we take, protobuf takes, and finds the same in it."""
    draw = random.Random(7)
    taken = 0
    for seed in range(400):
        text = text_format.MessageToString(random_config(seed))
        for _ in range(5):
            at, length = draw.randrange(len(text) + 1), draw.randint(0, 3)
            changed = text[:at] + draw.choice(["", *'{}:[]"1x-,;\n']) + text[at + length :]
            if re.search(r"-\s", changed):  # a sign apart from its number, which protobuf takes in C++ alone
                continue
            try:
                message = read_message(parse(changed))
            except TextError:
                continue
            try:
                same(message, changed)
            except text_format.ParseError as error:
                # Protobuf for Python alone wants a sign at its number. That for C++, which Triton has, does not.
                if not str(error).endswith(": -"):
                    raise
            else:
                taken += 1
    assert taken > 100


def test_an_empty_file_is_an_empty_message() -> None:
    assert parse("") == Block(1, ())
    assert read_message(parse("# nothing\n")) == Message(1)
