"""Whole numbers of 8 bits whose ranges are found beforehand, on frames (static quantisation, QDQ, per channel).

Ranges that the graph finds anew in each run (dynamic quantisation) are for matrix products alone: a convolution's input
has outliers in single channels of single frames, and depthwise models lose all that they know.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from duly.worker.dtypes import Array
from duly_learn.graphs.describe import CONVOLUTIONS, PRODUCTS
from duly_learn.optimize.quantising import adds_products_of_8_bits, check_not_quantised, prepared, quiet
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused

FRAMES_MAX = 256
"""Ranges are found on so many frames; more hardly widen them."""


class StaticInt8:
    name = "int8-static"

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        """Raises Refused where there is nothing to quantise, or the graph cannot be quantised."""
        found = check_not_quantised(source.load())
        if not (CONVOLUTIONS | PRODUCTS) & found.keys():
            raise Refused(
                "there is nothing to quantise: the graph has neither convolutions nor matrix products but "
                + ", ".join(f"{count} {operator}" for operator, count in sorted(found.items())[:6])
            )
        if not source.calibration:
            raise Refused("there is no frame to find ranges on")
        from onnxruntime import quantization

        graph = prepared(source, folder)
        narrow = not adds_products_of_8_bits()
        try:
            with quiet():
                quantization.quantize_static(
                    str(graph),
                    str(folder / "model.onnx"),
                    _reader(source, onnx.load(str(graph), load_external_data=False)),
                    quant_format=quantization.QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=narrow,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                )
        except (Refused, OSError):
            raise  # such as a full disk, which is no fault of the graph's
        except Exception as error:  # it fails in as many ways as there are graphs
            raise Refused(f"ONNX Runtime cannot quantise this graph: {type(error).__name__}: {error}") from error
        finally:
            graph.unlink(missing_ok=True)
        frames = min(FRAMES_MAX, len(source.calibration))
        notes = ["Weights have 7 bits, as this machine's processor overflows with 8."] if narrow else []
        return Candidate("model.onnx", f"8 bits, per channel, with ranges found on {frames} frames (QDQ)", notes)


def _reader(source: OptimizeSource, graph: onnx.ModelProto) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    wanted = {value.name for value in graph.graph.input}

    class Frames(CalibrationDataReader):  # type: ignore[misc]
        """Gives what the graph is given for each calibration frame."""

        def __init__(self) -> None:
            self._sights: Iterator[Mapping[str, Array]] = (sight.inputs for sight in source.sights(FRAMES_MAX))

        def get_next(self) -> dict[str, Array] | None:
            inputs = next(self._sights, None)
            return None if inputs is None else {name: array for name, array in inputs.items() if name in wanted}

    return Frames()
