"""Inputs and outputs of a model configuration of Triton."""

from math import prod

from duly.models.sizes import INPUT_BYTES_MAX
from duly.models.spec import ELEMENT_BYTES
from duly.models.triton.message import Message
from duly.models.triton.text_format import TextError
from duly.models.triton.written import Table, Written, dims_of, needed, put_datatype, refused

_ROWS = 8
_ROWS_BYTES = 256 << 20
"""A frame whose rows are open has room for so many of them, as far as they have no more bytes together."""


def inputs(written: Written, config: Message) -> None:
    """Writes `[[input]]` for each `input`. Raises TextError."""
    for message in config.messages("input"):
        table = written.add("input", message.line)
        _named(table, message, "input")
        refused(
            message, ["optional"], "input.", "a frame holds every input; export the graph without it, or with a default"
        )
        refused(
            message, ["allow_ragged_batch"], "input.", "frames of other shapes are run one after another, not joined"
        )
        refused(message, ["is_shape_tensor", "is_non_linear_format_io"], "input.", "it is of TensorRT's own models")
        _shapes(table, message, "input")
        _room(table, message)


def _room(table: Table, message: Message) -> None:
    """States how large a frame may be of which only the rows are open, as where the batch stands among the dims. What
    there is room for otherwise may not be one row.
    """
    dims, datatype = table.values.get("shape"), str(table.values.get("datatype", "FP32"))
    if isinstance(dims, list) and dims[0] < 0 < min(dims[1:], default=0):
        row_bytes = prod(dims[1:]) * ELEMENT_BYTES.get(datatype, 1)
        size_bytes = max(row_bytes, min(_ROWS * row_bytes, _ROWS_BYTES))
        if size_bytes > INPUT_BYTES_MAX:
            table.put("bytes_max", size_bytes, message.line_of("dims"))


def outputs(written: Written, config: Message) -> None:
    """Writes `[[output]]` for each `output`, and `labels`. Raises TextError."""
    for message in config.messages("output"):
        table = written.add("output", message.line)
        _named(table, message, "output")
        refused(message, ["is_shape_tensor", "is_non_linear_format_io"], "output.", "it is of TensorRT's own models")
        _shapes(table, message, "output")
        labels = message.text("label_filename")
        line = message.line_of("label_filename")
        if labels and written.table.get("labels", labels) != labels:
            other = written.table["labels"]
            raise TextError(line, f"output.label_filename: another output has {other}, and a model has one; keep one")
        if labels:
            written.put("labels", labels, line)
            table.put("labelled", True, line)


def _named(table: Table, message: Message, where: str) -> None:
    table.put("name", needed(message, "name", where), message.line_of("name"))
    put_datatype(table, message, where)


def _shapes(table: Table, message: Message, where: str) -> None:
    dims = dims_of(message, "dims", f"{where}.dims")
    if dims is not None:
        table.put("shape", dims, message.line_of("dims"))
    reshape = message.message("reshape")
    if reshape is None:
        return
    line = message.line_of("reshape")
    shape = dims_of(reshape, "shape", f"{where}.reshape.shape") or []
    if dims is None:
        raise TextError(line, f"{where}.reshape: needs dims, the shape that clients know")
    if -1 in dims or -1 in shape:
        raise TextError(line, f"{where}.reshape: is served where all extents are fixed, got {dims} and {shape}")
    if prod(dims) != prod(shape):
        raise TextError(line, f"{where}.reshape: {shape} has {prod(shape)} elements, dims {dims} have {prod(dims)}")
    table.put("reshape", shape, line)
