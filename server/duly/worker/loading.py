"""From a LOAD message to a warm model and what READY says about it."""

from pathlib import Path
from typing import Any

from duly.models.spec import ModelConfig
from duly.worker.channel import Region
from duly.worker.graph import LoadError
from duly.worker.layout import layout
from duly.worker.model import Model
from duly.worker.onnx import Session
from duly.worker.pinned import pin
from duly.worker.plan import join
from duly.worker.warmup import profile

SAMPLES_MAX = 128
"""Times told for each batch size: as many as the server's profile holds."""
SAMPLES_ALL_MAX = 10_000
"""Times told in all, so that READY stays below the channel's largest message."""


def load(body: dict[str, Any]) -> tuple[Model, Region, dict[str, Any]]:
    """Loads, warms and profiles what LOAD asks for: the model, its region, the body of READY.

    `body`: model "NAME/VERSION", lane, folder of the version, model_folder, config (by alias), variant, threads.

    Raises:
        LoadError: why not, for people.
    """
    model_name, lane = str(body["model"]), str(body["lane"])
    config = ModelConfig.model_validate(body["config"])
    variant = next((variant for variant in config.variants if variant.name == body["variant"]), None)
    if variant is None:
        names = ", ".join(variant.name for variant in config.variants)
        raise LoadError(f"{model_name}: there is no variant '{body['variant']}'; there are: {names}")
    file = Path(body["folder"]) / variant.file
    name = f"{model_name}/{variant.file}"
    if not file.is_file():
        raise LoadError(f"{name}: there is no such file")
    session = Session(file, name, config, lane, Path(body["model_folder"]), int(body["threads"]))
    plan = join(session.graph, config, f"{model_name.split('/')[0]}/model.toml", session.device is not None)
    if config.cuda_graph and not (plan.fixed and plan.fixed_outputs):
        raise LoadError(f"{name}: cuda_graph needs inputs and outputs of fixed size; export the graph so")
    signature = plan.signature(session.providers)
    batch_max = signature.batch_sizes[-1]
    _, input_bytes = layout([spec.bytes_max for spec in signature.inputs], batch_max)
    _, output_bytes = layout([spec.bytes_max for spec in signature.outputs], batch_max)
    region = Region.create(input_bytes, output_bytes)
    if session.device is not None:
        pin(region, session.device)
    model = Model(plan, session, region)
    try:
        times = profile(model, region, signature.inputs, signature.batch_sizes, config.warmup_runs)
    except LoadError as error:
        raise LoadError(f"{name}: {error}") from error
    told = min(SAMPLES_MAX, SAMPLES_ALL_MAX // len(times))
    return (
        model,
        region,
        {
            "signature": signature.model_dump(mode="json"),
            "samples_ns": {str(size): taken[-told:] for size, taken in times.items()},
            "input_bytes": input_bytes,
            "output_bytes": output_bytes,
        },
    )
