"""Says in the words of model.toml what a model configuration of Triton says.

What duly does otherwise than Triton without that a result changes is noted with its line. What would change results, or
what only Triton serves, is refused with its line.
"""

from duly.models.triton.message import Message
from duly.models.triton.placement import instances, optimization, parameters
from duly.models.triton.scheduling import batch_sizes, dynamic_batching, sequence_batching
from duly.models.triton.tensors import inputs, outputs
from duly.models.triton.text_format import TextError, shown
from duly.models.triton.written import Written, refused, unused

_ENSEMBLE = "pipelines of models are not served; serve its models by themselves, and join them in the client"
_SERVED = 'duly serves ONNX models, backend: "onnxruntime"'


def translate(config: Message, name: str) -> Written:
    """Returns what a checked configuration of the model `name` comes to. Raises TextError."""
    written = Written()
    _of_onnx(config)
    refused(config, ["batch_input", "batch_output"], "", "each frame holds its own inputs, and the batch adds none")
    refused(config, ["model_operations"], "", "operators of one's own are not loaded")
    refused(config, ["model_repository_agents"], "", "files are read as they lie there; manifests check them")
    transactions = config.message("model_transaction_policy")
    if transactions is not None:
        why = "an ONNX model gives one result for each frame"
        refused(transactions, ["decoupled"], "model_transaction_policy.", why)
    if config.text("name") not in ("", name):
        text = f"name: {shown(config.text('name'))} has no effect: the model is called as its folder, {name}"
        written.note(config.line_of("name"), text)
    file = config.text("default_model_filename")
    if file:
        line = config.line_of("default_model_filename")
        written.put("variant", [{"name": "default", "file": file}], line)
        written.lines["variant[0]"] = line
    _versions(written, config)
    batch_sizes(written, config)
    inputs(written, config)
    outputs(written, config)
    for key, write in (("dynamic_batching", dynamic_batching), ("sequence_batching", sequence_batching)):
        scheduling = config.message(key)
        if scheduling is not None:
            write(written, scheduling)
    instances(written, config)
    optimization(written, config)
    parameters(written, config)
    _unused(written, config)
    return written


def _of_onnx(config: Message) -> None:
    if "ensemble_scheduling" in config.lines or config.text("platform") == "ensemble":
        key = "ensemble_scheduling" if "ensemble_scheduling" in config.lines else "platform"
        raise TextError(config.line_of(key), f"{key}: {_ENSEMBLE}")
    for key, served in (("platform", "onnxruntime_onnx"), ("backend", "onnxruntime")):
        if config.text(key) not in ("", served):
            raise TextError(config.line_of(key), f"{key}: {shown(config.text(key))} is not served; {_SERVED}")


def _versions(written: Written, config: Message) -> None:
    policy = config.message("version_policy")
    if policy is None:
        return
    latest, specific = policy.message("latest"), policy.message("specific")
    line = policy.line
    written.lines["versions"] = line
    if latest is not None:
        if "num_versions" in latest.lines and not latest.integer("num_versions"):
            raise TextError(
                latest.line_of("num_versions"), "version_policy.latest.num_versions: should be 1 or more, got 0"
            )
        written.put("versions", {"loaded": latest.integer("num_versions") or 1}, line)
    elif specific is not None:
        numbers = specific.scalars.get("versions", [])
        wrong = next((each for each in numbers if int(each.value) < 1), None)
        if wrong is not None:
            raise TextError(wrong.line, f"version_policy.specific.versions: a version is 1 or more, got {wrong.value}")
        if not numbers:
            raise TextError(specific.line, "version_policy.specific: names no version; list them: versions: [ 1, 2 ]")
        written.put("versions", {"loaded": 0, "only": sorted({int(each.value) for each in numbers})}, line)
    elif policy.message("all") is not None:
        written.put("versions", {"loaded": 0}, line)


def _unused(written: Written, config: Message) -> None:
    unused(written, config, ["runtime"], "", "duly's own worker runs the graph")
    unused(written, config, ["cc_model_filenames"], "", "the same file is run on all devices")
    unused(written, config, ["metric_tags", "model_metrics"], "", "duly's metrics have labels of their own")
    unused(written, config, ["model_warmup"], "", "each size of batch is warmed and timed with frames that are made up")
    cache = config.message("response_cache")
    if cache is not None:
        unused(written, cache, ["enable"], "response_cache.", "each frame is run")
