"""Writes a model's settings as the model.toml that says them."""

import re
from collections.abc import Mapping, Set

from duly.models.spec import ModelConfig

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def toml_text(config: ModelConfig, keys: Set[str] | None = None) -> str:
    """Returns a model.toml with just the settings that were stated, and of these with just those keys, if any are
    given.
    """
    settings = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    settings = {key: value for key, value in settings.items() if keys is None or key in keys}
    tables = {key: value for key, value in settings.items() if isinstance(value, dict) or _is_tables(value)}
    text = "".join(f"{_key(key)} = {_value(value)}\n" for key, value in settings.items() if key not in tables)
    for key, value in tables.items():
        head, entries = (f"[[{_key(key)}]]", value) if isinstance(value, list) else (f"[{_key(key)}]", [value])
        for entry in entries:
            text += f"{chr(10) if text else ''}{head}\n"
            text += "".join(f"{_key(inner)} = {_value(each)}\n" for inner, each in entry.items() if each is not None)
    return text


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items() if each is not None)
        return f"{{ {inner} }}"
    assert isinstance(value, int | float), value
    return repr(value)


def _text(text: str) -> str:
    escaped = "".join(
        _ESCAPES.get(char) or (char if char >= " " and char != "\x7f" else f"\\u{ord(char):04x}") for char in text
    )
    return f'"{escaped}"'
