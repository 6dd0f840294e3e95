"""Puts a detector of frames unlike others into every graph of a new version, and a guard into its settings.

Each variant has a detector of its own, since its layers give other numbers: it is fitted to what the variant makes of
the same clean frames. All count 1 as their threshold, so that one guard is right for whichever variant runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from duly.models.repository import ModelVersion
from duly.models.spec import Variant
from duly.models.version_settings import with_settings
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.guards.fitting import SCORE, fit_detector
from duly_learn.optimize.write import NewVariant
from duly_learn.running.seen import GraphView


def with_detectors(
    version: ModelVersion,
    variants: Sequence[NewVariant],
    settings: Mapping[str, object],
    frames: Sequence[LearnFrame],
    seed: int,
    threads: int,
    work: Path,
    told: Callable[[str], None],
) -> tuple[list[NewVariant], dict[str, object]]:
    """Returns the variants with detectors, whose files lie in `work`, and the settings with the guard.

    `settings`: what the new version's model.toml says besides its variants. `frames`: clean ones, to fit to. Raises
    LearnError where a graph has nothing to look at, or there are too few frames.
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
    own = with_settings(version.config, settings)
    kept = own.model_dump(mode="json", by_alias=True, exclude_unset=True).get("guard", [])
    guards = [*(each for each in kept if each.get("output") != SCORE), table]
    return guarded, {**settings, "guard": guards}
