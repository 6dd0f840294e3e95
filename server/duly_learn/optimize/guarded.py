"""Puts a detector of frames unlike others into every graph of a new version, and guards into its settings, and measures
what they find.

Each variant has a detector of its own, since its layers give other numbers: it is fitted to what the variant makes of
the same clean frames. All count 1 as their threshold, so that one guard is right for whichever variant runs.

No step may treat a detector as part of the model: one that is quantised with the rest has ranges of clean frames, clips
what is far off, and finds nothing any more. So detectors are taken out first, and fitted anew in the end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from duly.models.guards import Distribution, name_of
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig, Signature, Variant
from duly.models.version_settings import with_settings
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.guards.fitting import SCORE, Fitted, fit_detector
from duly_learn.guards.graph import without_detector
from duly_learn.guards.measure import Row, evenly, measure
from duly_learn.guards.plain import plain_guards
from duly_learn.guards.spoilt import NotSpoilt
from duly_learn.guards.verdict import finds_less, verdict
from duly_learn.optimize.write import NewVariant
from duly_learn.running.model import running
from duly_learn.running.seen import GraphView

CLEAN_MAX = 500
"""So many held-out frames, evenly spread, say how often guards are mistaken."""
SPOILT_MAX = 100
"""And so many of each kind what they find."""


@dataclass(frozen=True, slots=True)
class Guarding:
    """What is to be guarded, and by which frames."""

    version: ModelVersion
    """Without detectors."""
    before: ModelVersion
    """With those that it had; what its guard says stays so."""
    signature: Signature
    frames: Sequence[LearnFrame]
    """Clean ones, to fit to."""
    held_out: Sequence[LearnFrame]
    """Others, to measure by."""
    seed: int
    threads: int
    work: Path
    """A folder for graphs with detectors."""
    plain: bool
    """Whether guards that need no fitting come along."""

    @property
    def had_detector(self) -> bool:
        """Whether the version had one that was taken out."""
        return self.version is not self.before


@dataclass(slots=True)
class Guarded:
    """A version with guards."""

    variants: list[NewVariant]
    settings: dict[str, object]
    """What its model.toml says besides them."""
    added: int = 0
    """How many guards it has that the model had not, or that are fitted anew; 0: nothing was gained."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why variants are left out, by their names."""
    measured: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    """For each variant what was found, for whoever wants to know."""


def without_detectors(version: ModelVersion, work: Path) -> ModelVersion:
    """Returns the version without the detectors that were fitted to it and their guard, its graphs in `work`; where it
    has none, as it is. Raises LearnError where it has a detector of another kind, which could not be fitted anew.
    """
    own = [guard for guard in version.config.guards if isinstance(guard, Distribution)]
    for guard in own:
        if guard.output != SCORE:
            raise LearnError(
                f"{version.key}: the guard '{name_of(guard)}' reads the graph's output '{guard.output}', and in faster "
                "graphs it would be another; only detectors of duly models optimize --guards are fitted anew: take it "
                "and its [[guard]] out first"
            )
    if not own:
        return version
    folder = work / "without detectors"
    variants = []
    for nth, variant in enumerate(version.config.variants):
        file = f"{nth}/model.onnx"
        (folder / file).parent.mkdir(parents=True)
        onnx.save(without_detector(onnx.load(str(version.folder / variant.file)), SCORE), str(folder / file))
        variants.append(variant.model_copy(update={"file": file}))
    guards = tuple(guard for guard in version.config.guards if guard not in own)
    config = version.config.model_copy(update={"guards": guards, "variants": tuple(variants)})
    return replace(version, folder=folder, config=config)


def with_guards(
    guarding: Guarding, variants: Sequence[NewVariant], settings: Mapping[str, object], told: Callable[[str], None]
) -> Guarded:
    """Returns the variants with detectors and the settings with the guards. Where the detector of the first variant
    finds hardly anything, or takes clean frames for others, none is written, and that is said; if the version had one,
    no variant is left. Variants whose guards find much less than those of the first are refused.

    `settings`: what the new version's model.toml says besides its variants. Raises LearnError where a graph has nothing
    to look at, or there are too few frames.
    """
    tables = _tables(with_settings(guarding.before.config, settings))
    others = [each for each in tables if not _is_fitted(each)]
    plains: list[dict[str, object]] = []
    if guarding.plain:
        config = with_settings(guarding.version.config, {**settings, "guard": others})
        plain = plain_guards(config, guarding.signature, guarding.frames)
        for line in plain.said:
            told(f"guards: {line}")
        plains = [guard.model_dump(mode="json", exclude_defaults=True) | {"kind": guard.kind} for guard in plain.guards]
    guarded = Guarded([], {**settings, "guard": [*others, *plains]}, len(plains))
    all_guards = guarded.settings
    first: list[Row] = []
    for variant in variants:
        fitted = _fitted(guarding, _alone(guarding.version, variant, guarded.settings), variant)
        told(f"{variant.name}: {fitted.said}")
        folder = guarding.work / f"{variant.name} with a detector"
        folder.mkdir()
        onnx.save(fitted.model, str(folder / "model.onnx"))
        with_detector = replace(variant, folder=folder, file="model.onnx")
        all_guards = {**settings, "guard": _with(fitted.settings, [*tables, *plains])}
        tried = _alone(guarding.version, with_detector, all_guards)
        rows = _measured(guarding, tried, variant.name, told)
        guarded.measured[variant.name] = [
            {"kind": row.kind, "frames": row.frames, "found": dict(row.by_guard), "any": row.by_any} for row in rows
        ]
        useless = verdict(rows, _detector(tried.config)).useless if rows else ""
        if useless and variant is variants[0]:
            told(
                f"{variant.name}: the detector is not written, as {useless}. RANGE guards, stated by hand, tell what "
                "the sensor cannot say"
            )
            if guarding.had_detector:
                why = f"{guarding.before.key} has a detector, and one for {variant.name} is of no use: {useless}"
                guarded.refused = {each.name: why for each in variants}
                guarded.added = 0
            else:
                guarded.variants = list(variants)
            return guarded
        if why := useless or finds_less(rows, first):
            guarded.refused[variant.name] = f"its guards are worse than those of {variants[0].name}: {why}"
            continue
        first = first or rows
        guarded.variants.append(with_detector)
    guarded.settings = all_guards
    guarded.added += 1
    return guarded


def _tables(config: ModelConfig) -> list[dict[str, object]]:
    return list(config.model_dump(mode="json", by_alias=True, exclude_unset=True).get("guard", []))


def _is_fitted(table: Mapping[str, object]) -> bool:
    return table.get("output") == SCORE


def _with(fitted: Mapping[str, object], tables: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The tables of guards with that of the detector; what its author has written there stays."""
    found = [{**fitted, **each} if _is_fitted(each) else each for each in tables]
    return found if any(map(_is_fitted, tables)) else [*found, dict(fitted)]


def _detector(config: ModelConfig) -> str:
    """The name of the detector's guard."""
    return next(name_of(guard) for guard in config.guards if isinstance(guard, Distribution))


def _alone(version: ModelVersion, variant: NewVariant, settings: Mapping[str, object]) -> ModelVersion:
    """A version of nothing but this variant."""
    only = {"variant": [Variant(name=variant.name, file=variant.file).model_dump()]}
    config = with_settings(version.config, {**settings, **only})
    return replace(version, folder=variant.folder.resolve(), config=config)


def _fitted(guarding: Guarding, version: ModelVersion, variant: NewVariant) -> Fitted:
    sights = GraphView(version, threads=guarding.threads).of(guarding.frames)
    model = onnx.load(str(variant.folder / variant.file))
    streams = [frame.stream for frame in guarding.frames]
    try:
        return fit_detector(model, version.config, (sight.inputs for sight in sights), streams, guarding.seed)
    except LearnError as error:
        raise type(error)(f"{variant.name}: {error}") from error


def _measured(guarding: Guarding, version: ModelVersion, name: str, told: Callable[[str], None]) -> list[Row]:
    """Measures the guards, and says what they find and where that is not enough. Returns nothing where frames cannot be
    spoilt.
    """
    try:
        with running(version, threads=guarding.threads) as model:
            rows = measure(model, evenly(guarding.held_out, CLEAN_MAX), guarding.seed, spoilt_max=SPOILT_MAX)
    except NotSpoilt as error:
        told(f"{name}: what the guards find is not measured: {error}")
        return []
    judged = verdict(rows, _detector(version.config))
    told(f"{name}: guards have {judged.found}")
    for line in judged.short:
        told(f"{name}: guards: WARNING: {line}")
    return rows
