"""Cleaning up: constants folded, nodes without effect taken out, what is twice there made once. The graph computes the
same."""

from pathlib import Path

import onnx

from duly_learn.graphs.describe import nodes_of
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused


class Cleanup:
    name = "cleanup"

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        """Raises Refused where there is nothing to clean up, or onnxslim cannot read the graph."""
        import onnxslim

        before = source.load()
        try:
            after = onnxslim.slim(source.load())
        except OSError:
            raise  # such as a full disk, which is no fault of the graph's
        except Exception as error:  # it fails in as many ways as there are graphs
            raise Refused(f"onnxslim cannot clean up this graph: {type(error).__name__}: {error}") from error
        if after is None:
            raise Refused("onnxslim gives no graph for it")
        nodes, left = (sum(1 for _ in nodes_of(model.graph)) for model in (before, after))
        if left >= nodes:
            raise Refused(f"there is nothing to clean up: the graph has {nodes} nodes before and {left} after")
        onnx.save(after, str(folder / "model.onnx"))
        return Candidate(
            "model.onnx", f"cleaned up by onnxslim: {left} nodes in place of {nodes}, which compute the same"
        )
