"""`duly models calibrate`: a version of a model that TensorRT, or MIGraphX, may run with 8 bits.

The graph stays as it is. Beside it lies a table of how far from zero the numbers of each tensor go, found on frames,
and a further variant is the same graph in these ranges. The provider then chooses, layer by layer, what is faster.
Ranges are symmetric, as such providers know no others. TensorRT from 11 on takes no tables; there the graph itself has
to be quantised (`static_int8`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from duly.accelerators import ACCELERATORS, CUDA, TENSORRT, of_provider
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig
from duly_learn.alone import alone
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.frames.places import frames_from
from duly_learn.graphs.describe import CONVOLUTIONS, PRODUCTS
from duly_learn.optimize.quantising import check_not_quantised, quiet
from duly_learn.optimize.ranges import BINS, SHARES, Histogram, histograms
from duly_learn.optimize.work import work_folder
from duly_learn.optimize.write import NewVariant, check_free, clear, next_number, write_version
from duly_learn.running.model import running
from duly_learn.running.seen import GraphView

FRAMES_MAX = 256
"""Ranges are found on so many frames unless more are asked for; more hardly widen them."""
TABLE_FILE = "calibration.flatbuffers"
"""As ONNX Runtime's quantisation calls it."""
LEVELS = 254
"""Steps that 8 bits have between the ends of a range that is symmetric."""


@dataclass(frozen=True, slots=True)
class CalibrationAsked:
    """What is to be done."""

    version: ModelVersion
    places: Sequence[Path]
    variant: str = ""
    """The variant whose graph it is; empty: the most accurate one."""
    widest: bool = False
    """Whether ranges hold all that was seen; else those of the least error are taken."""
    frames_max: int = FRAMES_MAX
    seed: int = 0
    threads: int = 1
    topic: str = ""
    number: int | None = None
    """That of the new version; None: the next one."""


def calibrate(asked: CalibrationAsked, told: Callable[[str], None]) -> int:
    """Finds ranges and writes a new version with them. Returns its number. `told` hears what happens.

    Raises:
        LearnError: there are no frames that fit, there is nothing that 8 bits would be for, somebody else makes a
            version of the same model, or it cannot be written.
    """
    version = asked.version
    chosen = next((each for each in version.config.variants if asked.variant in ("", each.name)), None)
    if chosen is None:
        raise LearnError(f"{version.key} has no variant {asked.variant}: {', '.join(version.config.variant_names)}")
    if chosen.int8_calibration:
        raise LearnError(f"{version.key} {chosen.name} has ranges already, {chosen.int8_calibration}")
    name = f"{chosen.name}-int8"
    if name in version.config.variant_names:
        raise LearnError(f"{version.key} has a variant {name} already")
    with ExitStack() as stack:
        stack.enter_context(alone(version.model_folder))
        clear(version.model_folder)
        if asked.number is not None:
            check_free(version.model_folder, asked.number)
        work = stack.enter_context(work_folder())
        # On the processor, whatever the model runs on: ranges are those of the graph.
        config = version.config.model_copy(update={"variants": (chosen,), "providers": (), "cuda_graph": False})
        one = replace(version, config=config)
        with running(one, threads=asked.threads) as model:
            frames = frames_from(
                asked.places, model.signature, asked.frames_max, asked.seed, asked.topic, told, version.name
            )
        ranges = _ranges(asked, one, frames)
        write_table(ranges, work)
        told(f"{len(ranges)} tensors have ranges, found on {len(frames)} frames")
        number = asked.number or next_number(version.model_folder)
        variants = [
            NewVariant(each.name, version.folder, each.file, each.accuracy, _table_of(version, each.int8_calibration))
            for each in version.config.variants
        ]
        nth = version.config.variants.index(chosen)
        variants.insert(nth + 1, NewVariant(name, version.folder, chosen.file, 0.0, work / TABLE_FILE))
        settings = _settings(version.config, told)
        made: Mapping[str, object] = {
            "made_of": version.key,
            "variant": chosen.name,
            "frames": len(frames),
            "ranges": "widest" if asked.widest else "least-error",
            "seed": asked.seed,
        }
        write_version(version, number, variants, settings, made, asked.threads)
        return number


def best_reach(seen: Histogram) -> float:
    """Returns the distance from zero that a symmetric range has with the least mean squared error."""
    farthest = max(-seen.low, seen.high)
    if not farthest:
        return 0.0
    edges = np.linspace(-seen.reach, seen.reach, BINS + 1)
    middles, counts = np.abs(edges[1:] + edges[:-1]) / 2, seen.counts.astype(np.float64)
    total = float(counts.sum())

    def error(reach: float) -> float:
        beyond = float(counts @ np.clip(middles - reach, 0, None) ** 2)
        return beyond + total * (2 * reach / LEVELS) ** 2 / 12

    return min((share * farthest for share in SHARES), key=error)


def write_table(reaches: Mapping[str, float], folder: Path) -> Path:
    """Writes the table into the folder, by ONNX Runtime's own quantisation. Returns its path. `reaches`: how far from
    zero the numbers of each tensor go.
    """
    from onnxruntime.quantization import CalibrationMethod, TensorsData
    from onnxruntime.quantization.quant_utils import write_calibration_table

    data = {name: (np.float32(-reach), np.float32(reach)) for name, reach in reaches.items()}
    with quiet():
        write_calibration_table(TensorsData(CalibrationMethod.MinMax, data), str(folder))
    return folder / TABLE_FILE


def _ranges(asked: CalibrationAsked, one: ModelVersion, frames: Sequence[LearnFrame]) -> dict[str, float]:
    model = onnx.load(str(one.folder / one.config.variants[0].file))
    found = check_not_quantised(model)
    if not (CONVOLUTIONS | PRODUCTS) & found.keys():
        raise LearnError(f"{one.key}: the graph has neither convolutions nor matrix products, which 8 bits are for")
    names = _tensors(model)
    # Shapes are inferred so that every tensor's element type is known; names stay what they are.
    inferred = onnx.shape_inference.infer_shapes(model)
    feeds: Iterable[Mapping[str, np.ndarray]] = (
        sight.inputs for sight in GraphView(one, threads=asked.threads).of(frames)
    )
    seen = histograms(inferred, feeds, asked.threads)
    reaches = {name: max(-each.low, each.high) if asked.widest else best_reach(each) for name, each in seen.items()}
    # A tensor that held nothing but zeros has no range, and would have steps of no size.
    return {name: reach for name, reach in reaches.items() if reach > 0 and name in names}


def _tensors(model: onnx.ModelProto) -> set[str]:
    weights = {each.name for each in model.graph.initializer}
    inputs = {value.name for value in model.graph.input}
    return (inputs | {name for node in model.graph.node for name in node.output if name}) - weights


def _table_of(version: ModelVersion, file: str) -> Path | None:
    return version.folder / file if file else None


def _settings(config: ModelConfig, told: Callable[[str], None]) -> dict[str, object]:
    """Returns what the new version says of providers, where none that it has takes a table."""
    rows = [of_provider(provider.name) for provider in config.providers]
    if any(row is not None and row.int8_options for row in rows):
        return {}
    able = ", ".join(row.provider for row in ACCELERATORS if row.int8_options)
    told(f"the new version asks for {TENSORRT} and {CUDA}, as tables are for {able}")
    return {"providers": [{"name": TENSORRT}, {"name": CUDA}]}
