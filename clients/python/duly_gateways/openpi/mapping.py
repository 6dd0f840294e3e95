"""What of an observation goes into which input of the model, and what of an outcome its client gets back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from duly_client import Outcome, StreamTerms, TensorSpec
from duly_client.types import Value
from duly_gateways.settings_file import SettingsError, Table

TEXTS_MAX = 4096
"""How many texts one input of a policy may know."""


class BadObservation(Exception):
    """What is wrong with an observation, for its sender."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Which key of an observation feeds which input. What is not stated goes by the input's own name."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    """By the name of an input: the key of the observation, where "/" leads into maps that lie in it."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """By the key that the client gets: the name of an output; empty: all outputs by their own names."""
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By the name of an input: the texts that it knows. It gets the place of the text that was sent, from 0 on."""

    def check(self, terms: StreamTerms) -> None:
        """Raises SettingsError where it names what the model does not have."""
        inputs, outputs = [spec.name for spec in terms.inputs], [spec.name for spec in terms.outputs]
        for named, known, what in (
            (self.inputs, inputs, "input"),
            (self.texts, inputs, "input"),
            (self.outputs.values(), outputs, "output"),
        ):
            for name in named:
                if name not in known:
                    raise SettingsError(f"the model has no {what} {name!r}; it has: {', '.join(known)}")

    def payload(self, observation: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, Value]:
        """Returns the inputs of a frame. Raises BadObservation, which names the key, what it holds and
        what is taken.
        """
        return {spec.name: self._input(observation, spec) for spec in specs}

    def _input(self, observation: Mapping[str, Any], spec: TensorSpec) -> Value:
        key = self.inputs.get(spec.name, spec.name)
        value = _found(observation, key)
        texts = self.texts.get(spec.name)
        if texts is not None:
            if not isinstance(value, str) or value not in texts:
                known = ", ".join(map(repr, texts[:8])) + (", …" if len(texts) > 8 else "")
                raise BadObservation(f"{key!r} is {_short(value)}; input {spec.name!r} knows: {known}")
            return np.full(tuple(max(extent, 1) for extent in spec.shape), texts.index(value), spec.dtype)
        if isinstance(value, bytes) or (isinstance(value, str) and spec.datatype == "STRING"):
            return value
        if isinstance(value, (str, dict)) or value is None:
            raise BadObservation(f"{key!r} is {_short(value)}; input {spec.name!r} takes {_taken(spec)}")
        try:
            array = np.asarray(value)
        except ValueError:
            raise BadObservation(f"{key!r} is a list of lists that differ in length") from None
        if array.dtype != spec.dtype:
            # A policy's client has float64 and int64 where models have float32 and int32; a narrower number will do.
            if array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, spec.dtype, "same_kind"):
                raise BadObservation(f"{key!r} is an array of {array.dtype}; input {spec.name!r} takes {_taken(spec)}")
            array = array.astype(spec.dtype)
        return array

    def answer(self, outcome: Outcome, infer_ms: float) -> dict[str, Any]:
        """Returns what the client gets for a frame with a result: its outputs, and under "server_timing" and "duly"
        what it took and what became of the frame.
        """
        outputs = outcome.outputs
        answer: dict[str, Any] = {key: outputs[name] for key, name in self.outputs.items()} if self.outputs else outputs
        timing, chunk = outcome.timing, outcome.chunk
        about: dict[str, Any] = {}
        if chunk is not None:
            about = {"dt_ms": chunk.dt_ns / 1e6, "first_ms": chunk.t0_ns / 1e6}
            about["planned_delay_ms"] = outcome.planned_delay_ns / 1e6
        return {
            **answer,
            "server_timing": {"infer_ms": infer_ms, "model_ms": (timing.finished_ns - timing.started_ns) / 1e6},
            "duly": {
                "status": outcome.status.name,
                "slack_ms": outcome.slack_ns / 1e6,
                "version": outcome.version,
                "variant": outcome.variant,
                **about,
            },
        }


def read_mapping(table: Table) -> Observed:
    """Returns the mapping that the tables `inputs`, `outputs` and `texts` state. Raises SettingsError."""
    texts = table.table("texts")
    known = {name: texts.list_of_texts(name) for name in texts.names()}
    for name, values in known.items():
        if not 0 < len(values) <= TEXTS_MAX or len(set(values)) != len(values):
            raise SettingsError(f"texts.{name}: should be 1 to {TEXTS_MAX} different texts")
    return Observed(inputs=table.texts("inputs"), outputs=table.texts("outputs"), texts=known)


def _found(observation: Mapping[str, Any], key: str) -> Any:
    """Returns what the key leads to. Keys with "/" in them, as openpi's own are, count before maps in maps."""
    if key in observation:
        return observation[key]
    held: Any = observation
    for part in key.split("/"):
        if not isinstance(held, dict) or part not in held:
            raise BadObservation(f"there is no {key!r}; the observation has: {_keys(observation)}")
        held = held[part]
    return held


def _keys(observation: Mapping[str, Any]) -> str:
    keys = list(observation)
    return ", ".join(repr(key[:64]) for key in keys[:16]) + (", …" if len(keys) > 16 else "") or "nothing"


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}…'"


def _taken(spec: TensorSpec) -> str:
    return " or ".join((f"{spec.datatype}{list(spec.shape)}", *spec.encodings))
