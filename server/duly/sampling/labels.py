"""Labels that clients send for frames: what they have to be, and with which frame they are joined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np

from duly.sampling.sample import OUTPUT, Array, Form, Key, Labelled, Sample
from duly.sampling.tensors import BadTensor, array_of, fits, is_finite

ClassNames = Mapping[str, Mapping[str, Sequence[str]]]
"""What classes are called, from class 0 on, by the name of the model and its version; ACTIVE: of all other versions."""
ACTIVE = ""
NAMES_TOLD, NAME_CHARS_TOLD = 8, 60
UNKNOWN = "no frame is kept under this key and id: it was not sampled, or has given way to newer ones"


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends labels, and for which frames."""

    principal: str
    any_stream: bool
    """Whether for frames of others, too."""
    models: tuple[str, ...]
    """Patterns of the models that it may use."""

    def may_label(self, sample: Sample) -> bool:
        own = self.any_stream or sample.principal == self.principal
        return own and any(fnmatchcase(sample.form.model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one frame, as they were sent."""

    key: Key
    tensors: Sequence[tuple[str, str, tuple[int, ...], memoryview]]
    """Of each its name, element type, shape and data."""
    weight: float
    source: str

    def join(self, sample: Sample, sender: Sender, unix_ns: int, names: ClassNames) -> Sample:
        """Returns the frame with the labels, the name of a class as its number. Raises BadTensor, which says what is
        wrong and what would be right.
        """
        arrays: dict[str, Array] = {}
        datatypes: dict[str, str] = {}
        for name, datatype, shape, data in self.tensors:
            try:
                _check(sample, name, datatype, shape)
                array = array_of(datatype, shape, data)
                if not is_finite(array, datatype):
                    raise BadTensor("it has NaN or an infinity")
                if datatype == "STRING" and name not in sample.form.output_shapes:
                    array, datatype = _number(array, sample.form, names), "INT64"
            except BadTensor as error:
                raise BadTensor(f"label {name!r}: {error}") from None
            arrays[name], datatypes[name] = array, datatype
        return sample.with_labels(arrays, datatypes, Labelled(unix_ns, sender.principal, self.weight, self.source))


def _number(array: Array, form: Form, names: ClassNames) -> Array:
    """Returns the number of the class that is named. Raises BadTensor."""
    versions = names.get(form.model, {})
    classes = versions.get(form.version) or versions.get(ACTIVE)
    name = str(array.item())
    if not classes:
        raise BadTensor(
            f"no names of the classes of {form.model}/{form.version} are known (labels in model.toml); a class is its "
            "number then"
        )
    if not name or name not in classes:
        there = ", ".join(map(repr, classes[:NAMES_TOLD]))
        more = f" and {len(classes) - NAMES_TOLD} more" if len(classes) > NAMES_TOLD else ""
        raise BadTensor(f"no class is called {name[:NAME_CHARS_TOLD]!r}; there are {there}{more}")
    return np.array(classes.index(name), np.int64)


def labels_of(item: Mapping[str, Any], data: Sequence[memoryview]) -> Labels:
    """Reads an item of a message of labels. `data`: of each of its tensors."""
    tensors = [
        (str(name), str(datatype), tuple(map(int, shape)), each)
        for (name, datatype, shape), each in zip(item["tensors"], data, strict=True)
    ]
    return Labels((str(item["stream"]), int(item["frame_id"])), tensors, float(item["weight"]), str(item["source"]))


def _check(sample: Sample, name: str, datatype: str, shape: tuple[int, ...]) -> None:
    """Raises BadTensor where a frame can have no such label."""
    form = sample.form
    if name in form.output_shapes:
        wanted, expected = form.datatypes[OUTPUT + name], form.output_shapes[name]
        if datatype != wanted or not fits(shape, expected):
            raise BadTensor(f"it is {datatype}{list(shape)}, the output is {wanted}{list(expected)}")
    elif name == form.class_label:
        if prod(shape) != 1:
            raise BadTensor(f"it has {prod(shape)} elements; a class is one, its number or its name")
    else:
        outputs = ", ".join(map(repr, form.output_shapes))
        raise BadTensor(f"the model has no such output; it has {outputs}, and {form.class_label!r} for a class")
