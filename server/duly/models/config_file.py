"""Reads `model.toml` and puts what is wrong in it into plain sentences, each with its place in the file.

Pydantic checks the contents. Its words are for those who know pydantic, so they are put into those of the file's author
here: what is wrong, what was found, and what would be right.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from duly.models.errors import BrokenModel
from duly.models.folders import CONFIG_FILE
from duly.models.guards import Guard, kind_of
from duly.models.spec import ModelConfig
from duly.models.steps import Step, op_of
from duly.models.text_files import read_text
from duly.models.wording import first_few

FILE_BYTES_MAX = 1 << 18
"""The largest model.toml. Those of real models have a few thousand bytes, and one that describes 2,000 tensors has half
of this. Python parses the worst one of this size in a quarter of a second."""
ERRORS_NAMED_MAX = 5
"""A problem names so many errors of one model.toml and counts the rest."""
_LINE_CHARS_MAX = 80
_SENTENCE_CHARS_MAX = 500
"""An error that quotes more from the file is cut off."""
_DEEP_KEY = re.compile(r"""(?<![\w"'\\-])(?>(?>[\w-]++|"(?>[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){33}""")
"""A dotted key deeper than any table of a model, its parts quoted or not. Python takes a quarter of a minute for one of
32,000 parts, and a time that grows with the square of them."""
_TOO_DEEP = "its tables or lists lie too deep within one another"
_TOO_LONG = "a number in it has more digits than any setting takes"

_STEPS: dict[str, type[Step]] = {op_of(step): step for step in get_args(Step)}
_GUARDS: dict[str, type[Guard]] = {kind_of(guard): guard for guard in get_args(Guard)}
_MEMBERS: dict[str, type[BaseModel]] = {**_STEPS, **_GUARDS}
_TAGS = frozenset({*_MEMBERS, "int", "float", "str", "bool"})
"""Members of unions. Pydantic puts the one that it tried into the place of an error, where the file has no such key."""

_DATATYPES = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "FLOAT32": "FP32",
    "FLOAT64": "FP64",
    "DOUBLE": "FP64",
    "HALF": "FP16",
    "INT": "INT32",
    "LONG": "INT64",
    "BYTE": "UINT8",
    "BOOLEAN": "BOOL",
    "BFLOAT16": "BF16",
    "STR": "STRING",
    "TEXT": "STRING",
    "BYTES": "STRING",
}
_SENTENCES = {
    "missing": "is missing",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be a text in quotes",
    "bool_type": "should be true or false",
    "tuple_type": "should be a list in [ ]",
    "list_type": "should be a list in [ ]",
    "dict_type": "should be a table, such as { key = 1 }",
    "model_type": "should be a table, such as { name = ... }",
    "model_attributes_type": "should be a table, such as { name = ... }",
    "path_type": "should be a text in quotes",
}
"""Plain sentences by the type of pydantic's error."""
_HINTS = (
    (r"Cannot overwrite a value", "the key stands twice; keep one"),
    (r"Cannot (declare|mutate|redefine|overwrite)", "the table stands twice; a list of tables has [[ ]]"),
    (r"Expected '=' after a key", "a line is: key = value"),
    (r"Invalid statement", "a line is: key = value, a table's head [name] or [[name]]"),
    (r"Invalid value", "texts stand in quotes, and true and false are lower case"),
    (r"Unescaped '\\'", "write '/' in paths, or the text in single quotes"),
    (r"Illegal character|Expected newline or end", "texts stand in quotes, on one line"),
)
"""What helps against an error of TOML's parser, by its text."""


def read_config(folder: Path, digests: MutableMapping[str, str] | None = None) -> ModelConfig:
    """Reads `model.toml` in the model's folder; where there is none, everything is at its default. `digests`: as for
    `read_text`.

    Raises:
        BrokenModel: the file cannot be read, is not TOML, or says something that no model can have.
    """
    path = folder / CONFIG_FILE
    if not path.exists() and not path.is_symlink():
        return ModelConfig()
    return settings_of_table(read_table(path, CONFIG_FILE, digests), CONFIG_FILE)


def read_table(path: Path, name: str, digests: MutableMapping[str, str] | None = None) -> dict[str, object]:
    """Reads a file of settings, which errors call `name`, and says nothing yet of what it holds. `digests`: as for
    `read_text`.

    Raises:
        BrokenModel: the file cannot be read, or is not TOML.
    """
    text = read_text(path, name, FILE_BYTES_MAX, digests)
    if _DEEP_KEY.search(text):
        raise BrokenModel(f"/{name}: {_TOO_DEEP}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BrokenModel(f"/{name}: not TOML: {_toml_error(_cut(str(error)), text)}") from error
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise BrokenModel(f"/{name}: {_TOO_LONG}") from None
    except RecursionError:
        raise BrokenModel(f"/{name}: {_TOO_DEEP}") from None


def settings_of_table(table: Mapping[str, object], name: str) -> ModelConfig:
    """Makes a model's settings of what the file `name` holds, by key. Raises BrokenModel, which says what is wrong."""
    try:
        return check_settings(table)
    except ValidationError as error:
        raise BrokenModel(f"/{name}: {one_sentence(sentences(error))}") from error
    except ValueError:  # nor writes it one
        raise BrokenModel(f"/{name}: {_TOO_LONG}") from None
    except RecursionError:
        raise BrokenModel(f"/{name}: {_TOO_DEEP}") from None


def check_settings(contents: Mapping[str, object]) -> ModelConfig:
    """Makes a model's settings of what model.toml holds, by key. Raises ValidationError, of which `sentences` tells."""
    # From JSON pydantic takes a list for a tuple even when it is strict; strict means that "416" is not a number.
    return ModelConfig.model_validate_json(json.dumps(contents, default=str), strict=True)


def _toml_error(message: str, text: str) -> str:
    """Adds the line at fault, and what would be right, to a message of the parser."""
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, message)), "")
    place = re.search(r"at line (\d+)", message)
    lines = text.splitlines() or [""]
    line = lines[int(place[1]) - 1 if place else -1].strip()
    return message + (f": {line[:_LINE_CHARS_MAX]}" if line else "") + (f"; {hint}" if hint else "")


def sentences(error: ValidationError) -> list[str]:
    """Puts pydantic's errors into sentences such as `place: what is wrong, got what`. Those beyond ERRORS_NAMED_MAX are
    empty.
    """
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "json_invalid":  # what was read as TOML is written as JSON, so only its depth can be wrong
            return [_TOO_DEEP]
        place = _place(detail["loc"])
        if place in found or len(found) >= ERRORS_NAMED_MAX:
            found.setdefault(place, "")  # it is only counted
            continue
        sentence = _cut(_sentence(place, detail["type"], detail["msg"], detail["loc"], detail["input"]))
        found[place or sentence] = sentence
    return list(found.values())


def one_sentence(errors: Sequence[str]) -> str:
    """Names the first errors and counts the rest."""
    return first_few(errors, ERRORS_NAMED_MAX, "; ", "; and ")


def _cut(text: str) -> str:
    return text if len(text) <= _SENTENCE_CHARS_MAX else text[: _SENTENCE_CHARS_MAX - 1] + "…"


def _sentence(place: str, kind: str, message: str, location: tuple[int | str, ...], value: Any) -> str:
    if kind == "extra_forbidden":
        return f"{place}: there is no such key{_likely_key(location)}"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        if location[0] == "guard":
            return _no_member(place, "kind", "guard", value, _GUARDS)
        return _no_member(place, "op", "operation", value, _STEPS)
    if kind == "tuple_type" and isinstance(value, dict) and len(location) == 1:
        return f"{place}: should be [[{place}]], in double brackets, since there may be several"
    sentence = _SENTENCES.get(kind) or message.removeprefix("Input ").removeprefix("Tuple ")
    if kind != "missing" and not isinstance(value, dict | list):
        sentence += f", got {json.dumps(value, default=str)}"
    if kind == "literal_error" and isinstance(value, str):
        datatype = _DATATYPES.get(value.upper()) if location[-1] == "datatype" else None
        words = re.findall(r"'([^']+)'", message)
        sentence += (
            f"; did you mean {datatype}?" if datatype else _likely(value.upper(), words) or _likely(value, words)
        )
    return f"{place}: {sentence}"


def _no_member(place: str, key: str, called: str, value: Any, members: Mapping[str, object]) -> str:
    """Says which members of a union there are, where `key` of a table names none of them."""
    word = value.get(key) if isinstance(value, dict) else None
    wrong = f"there is no {called} {json.dumps(word)}" if word else "is missing"
    likely = _likely(str(word), members) or _likely(str(word).upper(), members)
    return f"{place}.{key}: {wrong}; the {called}s are {', '.join(members)}{likely}"


def _likely_key(location: tuple[int | str, ...]) -> str:
    """Names the key that was likely meant by one that is unknown, or where the key belongs."""
    key = str(location[-1])
    keys = _keys_at(location[:-1])
    if len(location) > 1 and key in _keys_at(()):
        return f"; {key} is one of the whole model: put it above the first [ ] of the file"
    if "input" in keys and key in _keys_at(("input",)):
        return f"; {key} is one of an input: put it below [[input]] and the input's name"
    return _likely(key, keys) or (f"; there are {', '.join(keys)}" if len(location) > 1 else "")


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the table at a place of the file may have."""
    table: type[BaseModel] = ModelConfig
    for part in location:
        if isinstance(part, int):
            continue
        if part in _MEMBERS:
            table = _MEMBERS[part]
            continue
        field = next((field for name, field in table.model_fields.items() if part in (name, field.alias)), None)
        inner = next(_tables_in(field.annotation), None) if field is not None else None
        if inner is None:
            return []
        table = inner
    return [field.alias or name for name, field in table.model_fields.items()]


def _tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The tables that a value of this annotation may be or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables_in(argument)


def _likely(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _place(location: tuple[int | str, ...]) -> str:
    """Formats a place like `input[0].preprocess[1].width`."""
    place = ""
    for index, part in enumerate(location):
        if isinstance(part, int):
            place += f"[{part}]"
        elif index < 2 or part not in _TAGS:
            place += f".{part}" if place else part
    return place
