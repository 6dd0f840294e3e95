"""Graphs that tell motion from geometry: two scans of a lidar, and the reflections of a radar. They learn nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from duly.demo.training import OPSET

SCAN_POINTS = 16_000
"""Points that are taken of each scan."""
REFLECTIONS = 64

CELL_M = 0.1
CELLS = 256
"""A scan becomes a map of so many cells a side around the vehicle, 25.6 m."""
HEIGHT_M = (-1.2, 1.5)
"""Only points between these heights count: the road would look the same wherever the vehicle is."""
CELL_POINTS_MAX = 3.0
"""More points in a cell count no more: they tell how near a wall is, not where."""

FITS = 6
OUTLIER_MPS = 0.5
"""A reflection whose speed is so far from the fit counts half: what it comes from moves by itself."""


def write_scan_matching(path: Path) -> None:
    """Writes a graph `scans f32[1, 2, SCAN_POINTS, 3]` → `shift f32[1, 2]`, in metres.

    Each scan becomes a map of how many points there are in each cell. Where the correlation of both maps is largest
    is how far what stands still moved. It is computed as a product of spectra.
    """
    nodes: list[NodeProto] = [helper.make_node("Split", ["scans"], ["scan0", "scan1"], axis=1)]
    for scan in ("0", "1"):
        nodes += _map_of(f"scan{scan}", f"map{scan}", scan)
        nodes += [
            helper.make_node("DFT", [f"map{scan}"], [f"half{scan}"], axis=1),
            helper.make_node("DFT", [f"half{scan}"], [f"spectrum{scan}"], axis=2),
            helper.make_node("Split", [f"spectrum{scan}"], [f"real{scan}", f"imaginary{scan}"], axis=3),
        ]
    nodes += [
        helper.make_node("Mul", ["real0", "real1"], ["rr"]),
        helper.make_node("Mul", ["imaginary0", "imaginary1"], ["ii"]),
        helper.make_node("Mul", ["real0", "imaginary1"], ["ri"]),
        helper.make_node("Mul", ["imaginary0", "real1"], ["ir"]),
        helper.make_node("Add", ["rr", "ii"], ["product.real"]),
        helper.make_node("Sub", ["ri", "ir"], ["product.imaginary"]),
        helper.make_node("Concat", ["product.real", "product.imaginary"], ["product"], axis=3),
        helper.make_node("DFT", ["product"], ["back"], axis=1, inverse=1),
        helper.make_node("DFT", ["back"], ["correlation"], axis=2, inverse=1),
        helper.make_node("Split", ["correlation"], ["likeness", "nothing"], axis=3),
        helper.make_node("Reshape", ["likeness", "row"], ["likeness.flat"]),
        helper.make_node("ArgMax", ["likeness.flat"], ["best"], axis=1, keepdims=1),
        helper.make_node("Div", ["best", "cells"], ["best.x"]),
        helper.make_node("Mod", ["best", "cells"], ["best.y"]),
        helper.make_node("Concat", ["best.x", "best.y"], ["place"], axis=1),
        # Places beyond the middle are shifts the other way.
        helper.make_node("Add", ["place", "middle"], ["place.up"]),
        helper.make_node("Mod", ["place.up", "cells"], ["place.round"]),
        helper.make_node("Sub", ["place.round", "middle"], ["place.signed"]),
        helper.make_node("Cast", ["place.signed"], ["place.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["place.float", "cell"], ["shift"]),
    ]
    constants: dict[str, npt.ArrayLike] = {
        "cell": np.float32(CELL_M),
        "cells": np.array([CELLS], np.int64),
        "middle": np.array([CELLS // 2], np.int64),
        "cells.float": np.float32(CELLS),
        "middle.float": np.float32(CELLS // 2),
        "zero": np.float32(0),
        "empty": np.zeros(CELLS * CELLS, np.float32),
        "most": np.float32(CELL_POINTS_MAX),
        "lowest": np.float32(HEIGHT_M[0]),
        "highest": np.float32(HEIGHT_M[1]),
        "points": np.array([SCAN_POINTS, 3], np.int64),
        "flat": np.array([SCAN_POINTS], np.int64),
        "strides": np.array([CELLS, 1], np.float32),
        "xy": np.array([0, 1], np.int64),
        "z": np.array([2], np.int64),
        "last": np.array([1], np.int64),
        "square": np.array([1, CELLS, CELLS, 1], np.int64),
        "row": np.array([1, CELLS * CELLS], np.int64),
    }
    _save(path, "scan matching", nodes, constants, ("scans", [1, 2, SCAN_POINTS, 3]), ("shift", [1, 2]))


def _map_of(scan: str, into: str, tag: str) -> list[NodeProto]:
    """Makes the map [1, CELLS, CELLS, 1] of one scan [1, 1, SCAN_POINTS, 3]."""
    n = f".{tag}"
    return [
        helper.make_node("Reshape", [scan, "points"], ["p" + n]),
        helper.make_node("Gather", ["p" + n, "xy"], ["xy" + n], axis=1),
        helper.make_node("Gather", ["p" + n, "z"], ["z" + n], axis=1),
        helper.make_node("Div", ["xy" + n, "cell"], ["scaled" + n]),
        helper.make_node("Floor", ["scaled" + n], ["floor" + n]),
        helper.make_node("Add", ["floor" + n, "middle.float"], ["index" + n]),
        # A point counts if it is on the map and neither road nor roof.
        helper.make_node("GreaterOrEqual", ["index" + n, "zero"], ["above" + n]),
        helper.make_node("Less", ["index" + n, "cells.float"], ["below" + n]),
        helper.make_node("And", ["above" + n, "below" + n], ["inside" + n]),
        helper.make_node("Cast", ["inside" + n], ["inside.float" + n], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["inside.float" + n], ["on map" + n], axes=[1], keepdims=0),
        helper.make_node("Greater", ["z" + n, "lowest"], ["over" + n]),
        helper.make_node("Less", ["z" + n, "highest"], ["under" + n]),
        helper.make_node("And", ["over" + n, "under" + n], ["between" + n]),
        helper.make_node("Cast", ["between" + n], ["between.float" + n], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["between.float" + n, "flat"], ["between.flat" + n]),
        helper.make_node("Mul", ["on map" + n, "between.flat" + n], ["counts" + n]),
        helper.make_node("Mul", ["index" + n, "strides"], ["offsets" + n]),
        helper.make_node("ReduceSum", ["offsets" + n, "last"], ["offset" + n], keepdims=0),
        helper.make_node("Mul", ["offset" + n, "on map" + n], ["offset.safe" + n]),
        helper.make_node("Cast", ["offset.safe" + n], ["cell" + n], to=TensorProto.INT64),
        helper.make_node("ScatterElements", ["empty", "cell" + n, "counts" + n], ["sum" + n], reduction="add"),
        helper.make_node("Min", ["sum" + n, "most"], ["bounded" + n]),
        helper.make_node("Reshape", ["bounded" + n, "square"], [into]),
    ]


def write_own_velocity(path: Path) -> None:
    """Writes a graph `reflections f32[n, REFLECTIONS, 2]` (direction, rad; radial speed, m/s) → `velocity f32[n, 2]`.

    What stands still comes nearer at the vehicle's own velocity along its direction. A plane is fitted to that by least
    squares, FITS times, and what is far from the fit counts ever less, since it moves by itself.
    """
    nodes = [
        helper.make_node("Split", ["reflections"], ["direction", "speed"], axis=2),
        helper.make_node("Cos", ["direction"], ["c"]),
        helper.make_node("Sin", ["direction"], ["s"]),
        helper.make_node("Neg", ["speed"], ["b"]),
        helper.make_node("Mul", ["c", "c"], ["cc"]),
        helper.make_node("Mul", ["s", "s"], ["ss"]),
        helper.make_node("Mul", ["c", "s"], ["cs"]),
        helper.make_node("Mul", ["c", "b"], ["cb"]),
        helper.make_node("Mul", ["s", "b"], ["sb"]),
        helper.make_node("Mul", ["c", "nothing"], ["none"]),
        helper.make_node("Add", ["none", "one"], ["w0"]),
    ]
    for fit in range(FITS):
        nodes += _fit(f".{fit}", f"w{fit}", f"w{fit + 1}")
    nodes.append(helper.make_node("Concat", [f"x.{FITS - 1}", f"y.{FITS - 1}"], ["columns"], axis=2))
    nodes.append(helper.make_node("Squeeze", ["columns", "axis"], ["velocity"]))
    constants: dict[str, npt.ArrayLike] = {
        "nothing": np.float32(0),
        "one": np.float32(1),
        "axis": np.array([1], np.int64),
        "outlier": np.float32(OUTLIER_MPS),
    }
    _save(path, "own velocity", nodes, constants, ("reflections", ["n", REFLECTIONS, 2]), ("velocity", ["n", 2]))


def _fit(n: str, weights: str, next_weights: str) -> list[NodeProto]:
    """Fits x·cos + y·sin to the speeds by weighted least squares, and weighs each anew by how far it is from that."""
    nodes = []
    for product in ("cc", "ss", "cs", "cb", "sb"):
        nodes.append(helper.make_node("Mul", [product, weights], [f"w{product}{n}"]))
        nodes.append(helper.make_node("ReduceSum", [f"w{product}{n}", "axis"], [f"sum {product}{n}"]))
    for name, first, second in (
        ("determinant", ("cc", "ss"), ("cs", "cs")),
        ("over x", ("cb", "ss"), ("sb", "cs")),
        ("over y", ("sb", "cc"), ("cb", "cs")),
    ):
        nodes += [
            helper.make_node("Mul", [f"sum {first[0]}{n}", f"sum {first[1]}{n}"], [f"{name} +{n}"]),
            helper.make_node("Mul", [f"sum {second[0]}{n}", f"sum {second[1]}{n}"], [f"{name} -{n}"]),
            helper.make_node("Sub", [f"{name} +{n}", f"{name} -{n}"], [f"{name}{n}"]),
        ]
    return [
        *nodes,
        helper.make_node("Div", [f"over x{n}", f"determinant{n}"], [f"x{n}"]),
        helper.make_node("Div", [f"over y{n}", f"determinant{n}"], [f"y{n}"]),
        helper.make_node("Mul", ["c", f"x{n}"], [f"cx{n}"]),
        helper.make_node("Mul", ["s", f"y{n}"], [f"sy{n}"]),
        helper.make_node("Add", [f"cx{n}", f"sy{n}"], [f"fitted{n}"]),
        helper.make_node("Sub", ["b", f"fitted{n}"], [f"away{n}"]),
        helper.make_node("Div", [f"away{n}", "outlier"], [f"ratio{n}"]),
        helper.make_node("Mul", [f"ratio{n}", f"ratio{n}"], [f"ratio2{n}"]),
        helper.make_node("Add", [f"ratio2{n}", "one"], [f"more{n}"]),
        helper.make_node("Reciprocal", [f"more{n}"], [next_weights]),
    ]


Tensor = tuple[str, Sequence[int | str]]


def _save(
    path: Path, name: str, nodes: list[NodeProto], constants: Mapping[str, npt.ArrayLike], takes: Tensor, gives: Tensor
) -> None:
    weights = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    source, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (takes, gives))
    graph = helper.make_graph(nodes, name, [source], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
