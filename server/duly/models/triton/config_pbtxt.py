"""Reads `config.pbtxt` of a model in a repository of Triton."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from duly.models.config_file import FILE_BYTES_MAX, check_settings, one_sentence, sentences
from duly.models.errors import BrokenModel
from duly.models.spec import ModelConfig
from duly.models.text_files import read_text
from duly.models.triton.message import read_message
from duly.models.triton.origin import TRITON_FILE, Lines, with_line
from duly.models.triton.text_format import TextError, parse
from duly.models.triton.translate import translate

NOTES_MAX = 20
"""So many notes are given of one file, and the others are counted."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a model's file of settings says."""

    config: ModelConfig
    lines: Lines
    """Where in config.pbtxt a place of model.toml is from; empty where the settings are from model.toml."""
    notes: tuple[str, ...]
    """What has no effect or another one than its author may expect, as the ends of sentences that begin with the
    model's name."""


def read_pbtxt(folder: Path, digests: MutableMapping[str, str] | None = None) -> Settings:
    """Reads the file in the model's folder. `digests`: as for `read_text`.

    Raises:
        BrokenModel: the file cannot be read, is no model configuration, or is of a model that duly does not serve.
    """
    text = read_text(folder / TRITON_FILE, TRITON_FILE, FILE_BYTES_MAX, digests)
    return settings_of(text, folder.name)


def settings_of(text: str, name: str) -> Settings:
    """Returns what the text of a file says of the model `name`. Raises BrokenModel as `read_pbtxt` does."""
    try:
        written = translate(read_message(parse(text)), name)
    except TextError as error:
        raise BrokenModel(f"/{TRITON_FILE}: {error}") from error
    try:
        config = check_settings(written.table)
    except ValidationError as error:
        wrong = [with_line(sentence, written.lines) for sentence in sentences(error)]
        raise BrokenModel(f"/{TRITON_FILE}: {one_sentence(wrong)}") from error
    notes = [f"/{TRITON_FILE}: line {line}: {note}" for line, note in sorted(written.notes)]
    if len(notes) > NOTES_MAX:
        notes[NOTES_MAX:] = [f"/{TRITON_FILE}: {len(notes) - NOTES_MAX} more fields have no effect"]
    return Settings(config, written.lines or {"": 1}, tuple(notes))
