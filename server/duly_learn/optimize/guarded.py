"""Puts a detector of frames unlike others into every graph of a new version, and guards into its settings, and measures
what they find.

Each variant has a detector of its own, since its layers give other numbers: it is fitted to what the variant makes of
the same clean frames. All count 1 as their threshold, so that one guard is right for whichever variant runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from duly.models.guards import name_of
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig, Signature, Variant
from duly.models.version_settings import with_settings
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.guards.fitting import SCORE, Fitted, fit_detector
from duly_learn.guards.measure import Row, evenly, measure
from duly_learn.guards.plain import plain_guards
from duly_learn.guards.spoilt import NotSpoilt
from duly_learn.guards.verdict import verdict
from duly_learn.optimize.write import NewVariant
from duly_learn.running.model import running
from duly_learn.running.seen import GraphView

CLEAN_MAX = 500
"""So many held-out frames, evenly spread, say how often guards are mistaken."""
SPOILT_MAX = 100
"""And so many of each kind what they find."""


@dataclass(slots=True)
class Guarded:
    """A version with guards."""

    variants: list[NewVariant]
    settings: dict[str, object]
    """What its model.toml says besides them."""
    added: int = 0
    """How many guards it has that the model had not; 0: nothing was gained."""
    measured: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    """For each variant what was found, for whoever wants to know."""


def with_guards(
    version: ModelVersion,
    signature: Signature,
    variants: Sequence[NewVariant],
    settings: Mapping[str, object],
    frames: Sequence[LearnFrame],
    held_out: Sequence[LearnFrame],
    seed: int,
    threads: int,
    work: Path,
    told: Callable[[str], None],
) -> Guarded:
    """Returns the variants with detectors, whose files lie in `work`, and the settings with the guards. A detector that
    finds hardly anything, or takes clean frames for others, is left out, and that is said.

    `settings`: what the new version's model.toml says besides its variants. `frames`: clean ones, to fit to;
    `held_out`: others, to measure by. Raises LearnError where a graph has nothing to look at, or there are too few
    frames.
    """
    own = with_settings(version.config, settings)
    kept = [each for each in _tables(own) if each.get("output") != SCORE]
    config = with_settings(version.config, {**settings, "guard": kept})
    plain = plain_guards(config, signature, frames)
    for line in plain.said:
        told(f"guards: {line}")
    plains = [guard.model_dump(mode="json", exclude_defaults=True) | {"kind": guard.kind} for guard in plain.guards]
    guarded = Guarded([], {**settings, "guard": [*kept, *plains]}, len(plains))
    all_guards = guarded.settings
    for variant in variants:
        one = _alone(version, variant, guarded.settings)
        fitted = _fitted(one, variant, frames, seed, threads)
        told(f"{variant.name}: {fitted.said}")
        folder = work / f"{variant.name} with a detector"
        folder.mkdir()
        onnx.save(fitted.model, str(folder / "model.onnx"))
        with_detector = replace(variant, folder=folder, file="model.onnx")
        all_guards = {**settings, "guard": [*kept, *plains, dict(fitted.settings)]}
        tried = _alone(version, with_detector, all_guards)
        rows = _measured(tried, variant.name, held_out, seed, threads, told)
        guarded.measured[variant.name] = [
            {"kind": row.kind, "frames": row.frames, "found": dict(row.by_guard), "any": row.by_any} for row in rows
        ]
        if rows and (useless := verdict(rows, name_of(tried.config.guards[-1])).useless):
            told(
                f"{variant.name}: the detector is not written, as {useless}. RANGE guards, stated by hand, tell what "
                "the sensor cannot say"
            )
            guarded.variants = list(variants)
            return guarded
        guarded.variants.append(with_detector)
    guarded.settings = all_guards
    guarded.added += 1
    return guarded


def _tables(config: ModelConfig) -> list[dict[str, object]]:
    return list(config.model_dump(mode="json", by_alias=True, exclude_unset=True).get("guard", []))


def _alone(version: ModelVersion, variant: NewVariant, settings: Mapping[str, object]) -> ModelVersion:
    """A version of nothing but this variant."""
    only = {"variant": [Variant(name=variant.name, file=variant.file).model_dump()]}
    config = with_settings(version.config, {**settings, **only})
    return replace(version, folder=variant.folder.resolve(), config=config)


def _fitted(
    version: ModelVersion, variant: NewVariant, frames: Sequence[LearnFrame], seed: int, threads: int
) -> Fitted:
    sights = GraphView(version, threads=threads).of(frames)
    model = onnx.load(str(variant.folder / variant.file))
    streams = [frame.stream for frame in frames]
    try:
        return fit_detector(model, version.config, (sight.inputs for sight in sights), streams, seed)
    except LearnError as error:
        raise type(error)(f"{variant.name}: {error}") from error


def _measured(
    version: ModelVersion,
    name: str,
    held_out: Sequence[LearnFrame],
    seed: int,
    threads: int,
    told: Callable[[str], None],
) -> list[Row]:
    """Measures the guards, and says what they find and where that is not enough. Returns nothing where frames cannot be
    spoilt.
    """
    try:
        with running(version, threads=threads) as model:
            rows = measure(model, evenly(held_out, CLEAN_MAX), seed, spoilt_max=SPOILT_MAX)
    except NotSpoilt as error:
        told(f"{name}: what the guards find is not measured: {error}")
        return []
    judged = verdict(rows, name_of(version.config.guards[-1]))
    told(f"{name}: guards have {judged.found}")
    for line in judged.short:
        told(f"{name}: guards: WARNING: {line}")
    return rows
