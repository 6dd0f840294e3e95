"""Whole numbers of 8 bits in matrix products, whose ranges the graph finds anew in each run (dynamic quantisation).

It takes the range over the whole batch, so that frames would influence one another: duly finds that out when the graph
is loaded, and runs the frames of a batch one after another.
"""

from pathlib import Path

from duly_learn.graphs.describe import CONVOLUTIONS, PRODUCTS
from duly_learn.optimize.quantising import check_not_quantised, prepared, quiet
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused

RECURRENT = frozenset({"LSTM", "GRU"})
OPERATORS_NAMED_MAX = 6
"""A refusal names so many operators of the graph."""


class DynamicInt8:
    name = "int8-dynamic"

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        """Raises Refused where there are no matrix products, or they cannot be quantised. Convolutions stay."""
        found = check_not_quantised(source.load())
        products = sorted((PRODUCTS | RECURRENT) & found.keys())
        convolutions = sum(found[operator] for operator in CONVOLUTIONS & found.keys())
        if convolutions and not products:
            raise Refused(
                f"the graph has {convolutions} convolutions and no matrix products. Convolutions are never quantised "
                "with the ranges of each run: one outlier of one channel takes the bits of all others, and depthwise "
                "models lose nearly all they know; int8-static finds the ranges beforehand"
            )
        if not products:
            raise Refused(
                "there are no matrix products to quantise: the graph has "
                + ", ".join(f"{count} {operator}" for operator, count in sorted(found.items())[:OPERATORS_NAMED_MAX])
            )
        from onnxruntime import quantization

        graph = prepared(source, folder)
        try:
            with quiet():
                quantization.quantize_dynamic(
                    str(graph),
                    str(folder / "model.onnx"),
                    op_types_to_quantize=products,
                    per_channel=True,
                    weight_type=quantization.QuantType.QInt8,
                    extra_options={"EnableSubgraph": True},
                )
        except OSError:
            raise  # such as a full disk, which is no fault of the graph's
        except Exception as error:  # it fails in as many ways as there are graphs
            raise Refused(f"ONNX Runtime cannot quantise this graph: {type(error).__name__}: {error}") from error
        finally:
            graph.unlink(missing_ok=True)
        notes = [f"Its {convolutions} convolutions are as they were."] if convolutions else []
        return Candidate("model.onnx", f"8 bits in {', '.join(products)}, with ranges found in each run", notes)
