"""Makes a warm model out of a LOAD message, and what READY says about it."""

import gc
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from duly.models.folders import CONFIG_FILE
from duly.models.manifest import Manifest, ManifestError, read_manifest
from duly.models.openssf import read_bundle
from duly.models.sizes import SizeLimits
from duly.models.spec import ModelConfig, Signature, TensorSpec, Variant
from duly.models.triton.origin import TRITON_FILE
from duly.models.trust import Trust
from duly.models.version_settings import own_name
from duly.models.weights import variant_bytes
from duly.worker.background import fits
from duly.worker.calibration import TABLE_BYTES_MAX, Table, read_table
from duly.worker.channel import Done, Region, Run
from duly.worker.checks import CheckSamples
from duly.worker.cuda_runtime import copy_stream
from duly.worker.dtypes import BFLOAT16, datatype_of, view
from duly.worker.engines import Engines, Link, NoLink
from duly.worker.errors import LoadError, LoadFull, RunError
from duly.worker.finite import FiniteChecks
from duly.worker.first_states import with_first_states
from duly.worker.input_copies import InputCopies
from duly.worker.libraries import with_checked_libraries
from duly.worker.memory import memory_bytes_max
from duly.worker.model import Model
from duly.worker.no_room import size_that_runs
from duly.worker.open_extents import say_shape
from duly.worker.open_graph import OpenGraph, open_graph
from duly.worker.open_session import MachineShare, onnxruntime_version
from duly.worker.ort_session import OrtSession
from duly.worker.pin_memory import pin
from duly.worker.plan import Plan
from duly.worker.providers import warm_after_ns
from duly.worker.run_memory import limit_data, run_bytes
from duly.worker.size_warmup import measure_sizes
from duly.worker.sizing import Room, with_room
from duly.worker.slot_layout import layout
from duly.worker.version_files import Report, VersionFiles
from duly.worker.warmup import Samples, profile
from duly.worker.ways_out import say_example

SAMPLES_MAX = 128
"""READY holds at most so many times for each batch size: as many as the server's profile keeps."""
SAMPLES_ALL_MAX = 10_000
"""READY holds at most so many times in all, so that it stays below the channel's largest message."""
NOTES_MAX = 16
"""READY holds at most so many notes."""
NOTE_CHARS_MAX = 1000
"""READY holds at most so many characters of each note."""
HOLLOW_NOTE = (
    "even made-up frames give NaN or infinities, so that frames may all be FAILED; where they mean something, such as "
    "-inf for a class that is masked, set output_finite = false in model.toml"
)
NOT_PINNED_NOTE = (
    "CUDA does not pin the memory that the worker shares with the server, so that copies to and from the GPU are slower"
)


class Reads(Protocol):
    """What only reads the frames of a batch."""

    def run(self, run: Run) -> Done: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model version that is warm."""

    models: list[Model]
    """The variants, the most accurate first. They share the region because no two ever run at once."""
    region: Region
    samples: Samples
    """The frames of warming runs."""
    ready: dict[str, Any]
    """The body of READY."""
    copies: InputCopies | None = None
    """What brings inputs to the device; None: the sessions do."""
    reader: Reads | None = None
    """What reads in place of the models, where there are none."""

    def size_that_runs(self, run: Run) -> int | None:
        """Returns the largest size that runs after that batch has failed for want of memory (`no_room`)."""
        return size_that_runs(self.models[run.variant], self.samples, run.slot, len(run.frames))


def load(body: dict[str, Any], report: Report = lambda digests: None, link: Link | None = None) -> Loaded:
    """Loads, warms and profiles all variants of the version that LOAD asks for.

    `body` has the keys model ("NAME/VERSION"), lane, folder (of the version), model_folder, config (by alias),
    threads, limits (those of `SizeLimits`; left out: those of a server without settings) and device_memory_bytes_max
    (left out or 0: what there is). `report` is told what the files of a variant held before the variant is used.
    `link`: the way to the server that keeps engines and is told what is being done; None: there is none.

    Raises:
        LoadError: the version cannot be loaded; the message says why.
    """
    trust = Trust.model_validate(body.get("trust", {}))
    files = VersionFiles(str(body["model"]), Path(body["folder"]), report, _manifest(body, trust))
    engines = Engines(link or NoLink(), str(body["lane"]), onnxruntime_version())
    try:
        loaded = _load(body, files, trust, engines)
        if engines.warmed():  # what was compiled is written when its sessions end
            del loaded
            gc.collect()
            loaded = _load(body, files, trust, engines)
            engines.warmed()
        return loaded
    finally:
        files.check_unchanged()  # which explains whatever went wrong, too


def _manifest(body: dict[str, Any], trust: Trust) -> Manifest | None:
    """Reads the manifest of the version, and checks what the server has read of it: its settings and labels."""
    folder = Path(body["folder"])
    own = own_name(str(body["model"]).rpartition("/")[2])
    read: dict[str, str] = body["digests"]
    try:
        if trust.manifests == "model-signing":
            manifest: Manifest | None = read_bundle(folder, str(body["model"]).rpartition("/")[2], trust.manifest_keys)
        else:
            manifest = read_manifest(folder, trust.manifests, trust.manifest_keys)
        if manifest is not None:
            listed = [file for file in (CONFIG_FILE, TRITON_FILE) if f"../{file}" in manifest.digests]
            if listed and listed[0] not in read:  # of both only the first is read
                raise ManifestError(f"../{listed[0]} is listed in {manifest.file} and is not there")
            if CONFIG_FILE in manifest.digests and own not in read:
                raise ManifestError(f"{CONFIG_FILE} is listed in {manifest.file} and is not there")
            for file, sha256 in read.items():
                name = CONFIG_FILE if file == own else f"../{PurePosixPath(file)}"  # as the manifest has it
                if trust.manifests in ("signed", "model-signing") or name in manifest.digests:
                    try:
                        manifest.check(name, sha256)
                    except ManifestError as error:
                        raise ManifestError(f"{name} {error}") from None
        return manifest
    except ManifestError as error:
        raise LoadError(f"{body['model']}: {error}") from error


def _load(body: dict[str, Any], files: VersionFiles, trust: Trust, engines: Engines) -> Loaded:
    key, lane = str(body["model"]), str(body["lane"])
    model_name = key.partition("/")[0]
    toml = f"{model_name}/model.toml"
    config = ModelConfig.model_validate(body["config"])
    several = len(config.variants) > 1
    names = [f"{key}/{variant.file}" for variant in config.variants]
    room = Room(SizeLimits.model_validate(body.get("limits", {})), memory_bytes_max())
    model_folder = Path(body["model_folder"])
    config = with_checked_libraries(config, model_name, model_folder, trust.libraries_sha256, files)
    checks = None
    if body.get("checks"):  # it is the first worker of the version
        checks = CheckSamples(files, Path(body["folder"]), model_folder, key, config.checks)
    opened: list[OpenGraph] = []
    memories = _divided(int(body.get("device_memory_bytes_max", 0)), Path(body["folder"]), config.variants)
    for variant, name in zip(config.variants, names, strict=True):
        file, table = files.graph(variant.file), _table(variant, files, Path(body["folder"]), key)
        session = OrtSession(
            file,
            name,
            config,
            lane,
            model_folder,
            MachineShare(int(body["threads"]), next(memories), str(body.get("stream_class", ""))),
            engines,
            table,
        )
        place = f"{toml} for {variant.file}" if several else toml
        opened.append(open_graph(session, config, name, place, room))
    plans = [graph.plan for graph in opened]
    sessions = [graph.session for graph in opened]
    if config.cuda_graph:
        for plan, session, name in zip(plans, sessions, names, strict=True):
            _check_capture(plan, session.host_inputs, name)
    notes = [f"{name}: {note}" for graph, name in zip(opened, names, strict=True) for note in graph.notes]
    signatures = [plan.signature() for plan in plans]
    for name, signature in zip(names[1:], signatures[1:], strict=True):
        _check_alike(name, signature, names[0], signatures[0])
    sizes = room.settle([graph.needs for graph in opened], toml)
    notes += sizes.notes
    plans = [with_room(plan, sizes) for plan in plans]
    plans = [with_first_states(plan, config, files, model_folder, model_name) for plan in plans]
    signatures = [plan.signature() for plan in plans]
    best = signatures[0]
    batch_max = best.batch_sizes[-1]
    _, input_bytes = layout([spec.bytes_max for spec in best.inputs], batch_max)
    _, output_bytes = layout([spec.bytes_max for spec in best.outputs], batch_max)
    try:
        region = Region.create(input_bytes, output_bytes)
    except OSError as error:
        raise LoadError(
            f"{toml}: batch_sizes: the system refuses shared memory for two batches of {batch_max}, "
            f"{2 * (input_bytes + output_bytes):,} bytes: {error.strerror}; lower batch_sizes or bytes_max"
        ) from error
    device = next((session.device for session in sessions if session.device is not None), None)
    if device is not None:
        # An area of open size is mostly room that is never used, and is trimmed after frames that use much of it.
        needs = opened[0].needs
        fixed = [*(region.inputs if needs.inputs_fixed else []), *(region.outputs if needs.outputs_fixed else [])]
        if not pin(fixed, device):
            notes.append(NOT_PINNED_NOTE)
    copies = None if device is None else _input_copies(plans, sessions, region, device)
    models = [
        Model(plan, graph.rows, region, FiniteChecks(config, plan), copies)
        for plan, graph in zip(plans, opened, strict=True)
    ]
    try:
        samples = Samples(region, best.inputs, batch_max)
    except LoadError as error:
        raise LoadError(f"{names[0]}: {error}") from error
    times = []
    for model, name in zip(models, names, strict=True):
        try:
            warms = partial(engines.warms, name.rpartition("/")[2])
            times.append(profile(model, samples, best.batch_sizes, config.warmup_runs, fits(body), warms))
        except LoadFull as error:
            raise LoadFull(f"{name}: {error}") from error
        except LoadError as error:
            runs = partial(_runs, model, region, batch_max)
            advice = say_shape(best.inputs, samples.shapes, str(error), runs) or say_example(best.inputs)
            raise LoadError(f"{name}: {error}{advice}") from error
    if checks is not None:
        checks.run(models, region, best)
    memory = 0
    if device is None:  # drivers of accelerators reserve far more than they use
        memory = limit_data(config.memory_bytes_max or run_bytes(plans[0].inputs, batch_max))
    sizes_take = measure_sizes(models[0], plans[0], region, batch_max)
    for model, name in zip(models, names, strict=True):
        model.serve(partial(samples.fails, model))
        if checks is not None and samples.fails(model, 0):
            notes.append(f"{name}: {HOLLOW_NOTE}")
    notes += engines.notes
    kept = min(SAMPLES_MAX, SAMPLES_ALL_MAX // sum(map(len, times)))
    ready = {
        "signature": best.model_dump(mode="json"),
        "variants": [
            {
                "any_size": signature.any_size,
                "providers": session.providers,
                "warm_after_ns": warm_after_ns(session.providers),
                "samples_ns": {str(size): taken[-kept:] for size, taken in of_variant.items()},
            }
            for signature, session, of_variant in zip(signatures, sessions, times, strict=True)
        ],
        "input_bytes": input_bytes,
        "output_bytes": output_bytes,
        "memory_bytes_max": memory,
        "sizes": sizes_take,
        "rows": _rows(plans),
        "notes": [note[:NOTE_CHARS_MAX] for note in notes[:NOTES_MAX]],
    }
    return Loaded(models, region, samples, ready, copies)


def _check_capture(plan: Plan, host_inputs: Set[str], name: str) -> None:
    """Raises LoadError where a graph that is captured once could not be replayed for other frames."""
    if not (plan.fixed and plan.fixed_outputs and not plan.halves):
        raise LoadError(f"{name}: cuda_graph needs inputs and outputs of fixed size, none of BF16; export it so")
    if taken := host_inputs - plan.constants.keys():
        raise LoadError(
            f"{name}: cuda_graph: the graph takes {', '.join(map(repr, sorted(taken)))} from the host's memory, and a "
            "captured graph would keep what lay there first; give it in [constants], or leave cuda_graph out"
        )


def _input_copies(
    plans: Sequence[Plan], sessions: Sequence[OrtSession], region: Region, device: int
) -> InputCopies | None:
    """Makes room on the device for the inputs that all variants take from there, and as they lie in the region. None:
    there is none such, or no runtime of CUDA.
    """
    if any(plan.apart or not plan.fixed for plan in plans):
        return None
    best = plans[0]
    bases, _ = layout([planned.reader.spec.bytes_max for planned in best.inputs], best.batch_sizes[-1])
    as_is = []
    for position, planned in enumerate(best.inputs):
        of_variants = [(plan.inputs[position], session) for plan, session in zip(plans, sessions, strict=True)]
        if planned.reader.dtype != BFLOAT16 and all(
            each.reader.as_is and each.tensor not in session.host_inputs for each, session in of_variants
        ):
            as_is.append(position)
    try:
        stream = copy_stream(device) if as_is else None
        if stream is None:
            return None
        slots = []
        for area in region.inputs:
            readers = {position: best.inputs[position].reader for position in as_is}
            shapes = {position: (best.batch_sizes[-1], *reader.row_shape) for position, reader in readers.items()}
            slots.append({p: view(area, bases[p], shapes[p], reader.dtype) for p, reader in readers.items()})
        return InputCopies(slots, sessions[0].make_room, stream)
    except RunError as error:
        raise LoadError(f"inputs cannot be copied to the device: {error}") from error


def _divided(memory_bytes: int, folder: Path, variants: Sequence[Variant]) -> Iterator[int]:
    """Yields what each variant may have of the memory: each has arenas of its own, and more weights take more."""
    sizes = [max(variant_bytes(folder, variant), 1) for variant in variants]
    for size in sizes:
        yield memory_bytes * size // sum(sizes)


def _table(variant: Variant, files: VersionFiles, folder: Path, key: str) -> Table | None:
    """Reads the ranges of a variant's tensors; None: it has none. Raises LoadError."""
    if not variant.int8_calibration:
        return None
    name = f"{key}/{variant.int8_calibration}"
    try:
        data = files.beside(folder / variant.int8_calibration, name, TABLE_BYTES_MAX)
    except LoadError as error:
        raise LoadError(f"{name}: {error}") from error
    return read_table(data, name)


def _rows(plans: Sequence[Plan]) -> list[tuple[str, tuple[int, ...]]]:
    """Returns element type and shape of a row of each input, where all variants take the same; else nothing."""
    rows = [[(each.reader.dtype, each.reader.row_shape) for each in plan.inputs] for plan in plans]
    if any(other != rows[0] for other in rows[1:]):
        return []
    return [(datatype_of(dtype), shape) for dtype, shape in rows[0]]


def _runs(model: Model, region: Region, batch_max: int, inputs: Sequence[TensorSpec]) -> bool:
    """Whether a made-up frame of inputs like these runs."""
    try:
        profile(model, Samples(region, tuple(inputs), batch_max), (1,), 1)
    except LoadError:
        return False
    return True


def _check_alike(name: str, other: Signature, best_name: str, best: Signature) -> None:
    """Raises LoadError unless `other` takes and gives what `best` does, since a frame may go to any variant."""
    for kind, specs, best_specs in (("input", other.inputs, best.inputs), ("output", other.outputs, best.outputs)):
        if [spec.name for spec in specs] != [spec.name for spec in best_specs]:
            has, needed = ", ".join(spec.name for spec in specs), ", ".join(spec.name for spec in best_specs)
            raise LoadError(
                f"{name}: its {kind}s are {has}, those of {best_name} are {needed}; variants must have the same"
            )
        for spec, best_spec in zip(specs, best_specs, strict=True):
            if spec != best_spec:
                raise LoadError(
                    f"{name}: {kind} '{spec.name}' is {spec.said()}, that of {best_name} {best_spec.said()}; "
                    "variants must take and give the same"
                )
    if other.batch_sizes != best.batch_sizes:
        raise LoadError(
            f"{name}: takes batches of {list(other.batch_sizes)}, {best_name} of {list(best.batch_sizes)}; "
            "export both with the batch open, or set batch_sizes to what both take"
        )
