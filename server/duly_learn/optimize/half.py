"""Halves: numbers of 16 bits in place of 32 inside the graph. What goes in and comes out keeps its type."""

from pathlib import Path

import onnx

from duly_learn.graphs.describe import nodes_of
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused


class Half:
    name = "fp16"

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        """Raises Refused where the graph has no numbers of 32 bits, or cannot be converted."""
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = source.load()
        if not any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in model.graph.initializer) and not any(
            attribute.t.data_type == onnx.TensorProto.FLOAT
            for node in nodes_of(model.graph)
            for attribute in node.attribute
            if attribute.HasField("t")
        ):
            raise Refused("the graph has no weights of 32 bits that could be halved")
        try:
            halved = convert_float_to_float16(model, keep_io_types=True)
        except OSError:
            raise  # such as a full disk, which is no fault of the graph's
        except Exception as error:  # it fails in as many ways as there are graphs
            raise Refused(f"the graph cannot be converted: {type(error).__name__}: {error}") from error
        onnx.save(halved, str(folder / "model.onnx"))
        return Candidate(
            "model.onnx",
            "numbers of 16 bits in place of 32 inside the graph",
            ("GPUs compute with them; ONNX Runtime on a CPU converts most of them back and forth, which costs time.",),
        )
