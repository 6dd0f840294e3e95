"""Puts a detector of frames unlike others into every graph of a new version, and a guard into its settings.

Each variant has a detector of its own, since its layers give other numbers: it is fitted to what the variant makes of
the same clean frames. All count 1 as their threshold, so that one guard is right for whichever variant runs.

No step may treat a detector as part of the model: one that is quantised with the rest has ranges of clean frames, clips
what is far off, and finds nothing any more. So detectors are taken out first, and fitted anew in the end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from duly.models.guards import Distribution, name_of
from duly.models.repository import ModelVersion
from duly.models.spec import Variant
from duly.models.version_settings import with_settings
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.guards.fitting import SCORE, fit_detector
from duly_learn.guards.graph import without_detector
from duly_learn.optimize.write import NewVariant
from duly_learn.running.seen import GraphView


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


def with_detectors(
    version: ModelVersion,
    before: ModelVersion,
    variants: Sequence[NewVariant],
    settings: Mapping[str, object],
    frames: Sequence[LearnFrame],
    seed: int,
    threads: int,
    work: Path,
    told: Callable[[str], None],
) -> tuple[list[NewVariant], dict[str, object]]:
    """Returns the variants with detectors, whose files lie in `work`, and the settings with the guard.

    `version`: without detectors. `before`: with those that it had; what its guard says stays so. `settings`: what the
    new version's model.toml says besides its variants. `frames`: clean ones, to fit to. Raises LearnError where a graph
    has nothing to look at, or there are too few frames.
    """
    guarded: list[NewVariant] = []
    table: dict[str, object] = {}
    for variant in variants:
        only = {"variant": [Variant(name=variant.name, file=variant.file).model_dump()]}
        config = with_settings(version.config, {**settings, **only})
        one = replace(version, folder=variant.folder.resolve(), config=config)
        sights = GraphView(one, threads=threads).of(frames)
        model = onnx.load(str(variant.folder / variant.file))
        try:
            fitted = fit_detector(
                model, config, (sight.inputs for sight in sights), [frame.stream for frame in frames], seed
            )
        except LearnError as error:
            raise type(error)(f"{variant.name}: {error}") from error
        told(f"{variant.name}: {fitted.said}")
        folder = work / f"{variant.name} with a detector"
        folder.mkdir()
        onnx.save(fitted.model, str(folder / "model.onnx"))
        guarded.append(replace(variant, folder=folder, file="model.onnx"))
        table = dict(fitted.settings)
    own = with_settings(before.config, settings)
    tables = own.model_dump(mode="json", by_alias=True, exclude_unset=True).get("guard", [])
    guards = [{**table, **each} if _is_fitted(each) else each for each in tables]
    return guarded, {**settings, "guard": guards if any(map(_is_fitted, tables)) else [*guards, table]}


def _is_fitted(table: Mapping[str, object]) -> bool:
    return table.get("output") == SCORE
