"""The models that are measured: an MLP that takes next to no time, and SqueezeNet in numbers of 32 and of 16 bits. What
their weights mean does not matter to what they cost.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from duly.accelerators import CPU, TENSORRT, of_lane
from duly.worker.dtypes import Array
from duly_load.graphs import GRAPHS

SEED = 20240229
PROVIDER_OPTIONS = {TENSORRT: {"trt_fp16_enable": "1"}}
"""What is asked of a provider beside the device, of duly's worker and of ONNX Runtime alone alike."""


@dataclass(frozen=True, slots=True)
class Measured:
    graph: str
    """One of those that duly_load makes."""
    half: bool = False
    """Whether its numbers are converted to 16 bits, inputs and outputs too."""

    @property
    def name(self) -> str:
        return f"{self.graph}-{'fp16' if self.half else 'fp32'}"

    def build(self) -> onnx.ModelProto:
        model = GRAPHS[self.graph].build()
        if not self.half:
            return model
        from onnxruntime.transformers.float16 import convert_float_to_float16

        halved: onnx.ModelProto = convert_float_to_float16(model)
        return halved

    def frames(self, count: int) -> Array:
        """Random frames, as a batch."""
        kind = np.float16 if self.half else np.float32
        shape = GRAPHS[self.graph].input_shape
        return np.random.default_rng(SEED).standard_normal((count, *shape), np.float32).astype(kind)


def write_model(root: Path, measured: Measured, provider: str, sizes: tuple[int, ...], rehearsal: bool) -> bytes:
    """Writes the model into the repository `root`, and returns its graph. `rehearsal`: its warm-up is short."""
    graph = measured.build().SerializeToString()
    folder = root / measured.name
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.onnx").write_bytes(graph)
    lines = [f"batch_sizes = {[*sizes]}", *(["warmup_runs = 3"] if rehearsal else [])]
    if provider:
        options = ", ".join(f'{key} = "{value}"' for key, value in PROVIDER_OPTIONS.get(provider, {}).items())
        lines.append(f'providers = [{{ name = "{provider}", options = {{ {options} }} }}]')
    (folder / "model.toml").write_text("\n".join(lines) + "\n")
    return graph


def bare_session(graph: bytes, lane: str, provider: str) -> onnxruntime.InferenceSession:
    """Opens the graph as a program without duly would, on the same device. Raises RuntimeError where ONNX Runtime gives
    another provider than was asked for.
    """
    own = of_lane(lane)
    name = provider or own.provider
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    values = {own.device_option: lane.partition(":")[2]} if own.device_option else {}
    if name != CPU:
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(graph, options, [(name, values | PROVIDER_OPTIONS.get(name, {}))])
    if session.get_providers()[0] != name:
        raise RuntimeError(f"session.run alone: {name} was asked for, and the session has {session.get_providers()}")
    return session
