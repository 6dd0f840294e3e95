"""Lines of text as frames: one element of text a line, or as many as the model takes, with tabs between them."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from duly_client.recordings.file_kind import begins_with
from duly_client.recordings.recording import PERIOD_S, Frame, PassOver, Recording, RecordingError, taken
from duly_client.texts import TEXT
from duly_client.types import TensorSpec

LINES = {".txt", ".tsv"}
LINE_BYTES_MAX = 1 << 20
"""A longer line is passed over."""
_HEAD_BYTES = 16


def takes_text(spec: TensorSpec) -> bool:
    return spec.datatype == "STRING"


def check_takes_text(name: str, spec: TensorSpec) -> None:
    """Raises RecordingError where the model takes no text."""
    if not takes_text(spec):
        raise RecordingError(f"{name}: text; the model takes {taken(spec)}")


def lines(path: Path, spec: TensorSpec) -> Recording:
    """Raises RecordingError where the model takes no text, or the file holds none."""
    check_takes_text(str(path), spec)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if b"\0" in head:
            raise RecordingError(f"{path}: no text: {begins_with(head)}")

    def frames(pass_over: PassOver) -> Iterator[Frame]:
        with path.open("rb") as file:
            yield from live_lines(file, str(path), spec, pass_over)

    return Recording(f"{path}: lines of text", PERIOD_S, None, True, frames)


def live_lines(file: BinaryIO, name: str, spec: TensorSpec, pass_over: PassOver) -> Iterator[Frame]:
    """The lines of a file, or of what comes through a pipe as it comes, without their ends."""
    shape = tuple(1 if extent < 0 else extent for extent in spec.shape)
    wanted = prod(shape)
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        where = f"{name}: line {number}"
        if len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(LINE_BYTES_MAX)
            pass_over(RecordingError(f"{where}: more than {LINE_BYTES_MAX:,} bytes"))
            continue
        try:
            text = line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            pass_over(RecordingError(f"{where}: no UTF-8: byte {error.start} is 0x{line[error.start]:02x}"))
            continue
        texts = [text] if wanted == 1 else text.split("\t")
        if len(texts) != wanted:
            pass_over(RecordingError(f"{where}: {len(texts)} texts between tabs; the model takes {taken(spec)}"))
            continue
        array = np.empty(wanted, TEXT)
        array[:] = texts
        yield Frame(array.reshape(shape), where)
