"""Graphs that tell motion from geometry: two scans of a lidar, and a frame of a radar. They learn nothing."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from duly.demo.training import OPSET

SCAN_POINTS = 16_000
"""Points that are taken of each scan."""

CELL_M = 0.1
CELLS = 256
"""A scan becomes a map of so many cells a side around the vehicle, 25.6 m."""
HEIGHT_M = (-1.2, 1.5)
"""Only points between these heights count: the road would look the same wherever the vehicle is."""
CELL_POINTS_MAX = 3.0
"""More points in a cell count no more: they tell how near a wall is, not where."""

CHIRPS, ANTENNAS, SAMPLES = 128, 2, 128
"""What is taken of a radar's frame."""
SPEED_RESOLUTION_MPS = 3e8 / (2 * 77.4201e9 * 92e-6 * 2 * CHIRPS)
"""Of the radar whose frame streams: 77.4201 GHz, 92 µs from one chirp to the next, two transmitters that take turns.
The notebooks beside the frame have its settings."""


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
    scans = helper.make_tensor_value_info("scans", TensorProto.FLOAT, [1, 2, SCAN_POINTS, 3])
    _save(path, "scan matching", nodes, constants, scans, ("shift", [1, 2]))


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


def write_own_speed(path: Path) -> None:
    """Writes a graph `frame i16[1, CHIRPS, ANTENNAS, SAMPLES, 2]` → `speed f32[1, 1]`, in m/s.

    The spectrum of a chirp's samples has what is how far away, and that of a distance from chirp to chirp how fast it
    comes nearer. Most of what a radar sees stands still: it moves at the vehicle's own speed, which is where the sum
    over all distances is largest.
    """
    window = np.outer(np.hanning(CHIRPS), np.hanning(SAMPLES)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["frame"], ["samples"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["samples"], ["by antenna"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["by antenna", "planes"], ["plain"]),
        helper.make_node("Mul", ["plain", "window"], ["windowed"]),
        helper.make_node("DFT", ["windowed"], ["ranges"], axis=2),
        helper.make_node("DFT", ["ranges"], ["map"], axis=1),
        helper.make_node("Mul", ["map", "map"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "all but speed"], ["power"], keepdims=0),
        helper.make_node("ArgMax", ["power"], ["bin"], axis=0, keepdims=1),
        helper.make_node("Add", ["bin", "middle"], ["bin.up"]),
        helper.make_node("Mod", ["bin.up", "bins"], ["bin.round"]),
        helper.make_node("Sub", ["bin.round", "middle"], ["bin.signed"]),
        helper.make_node("Cast", ["bin.signed"], ["bin.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["bin.float", "resolution"], ["speed.flat"]),
        helper.make_node("Reshape", ["speed.flat", "row"], ["speed"]),
    ]
    constants: dict[str, npt.ArrayLike] = {
        "planes": np.array([ANTENNAS, CHIRPS, SAMPLES, 2], np.int64),
        "window": window[None, :, :, None],
        "all but speed": np.array([0, 2, 3], np.int64),
        "bins": np.array([CHIRPS], np.int64),
        "middle": np.array([CHIRPS // 2], np.int64),
        "resolution": np.float32(SPEED_RESOLUTION_MPS),
        "row": np.array([1, 1], np.int64),
    }
    frame = helper.make_tensor_value_info("frame", TensorProto.INT16, [1, CHIRPS, ANTENNAS, SAMPLES, 2])
    _save(path, "own speed", nodes, constants, frame, ("speed", [1, 1]))


def _save(
    path: Path,
    name: str,
    nodes: list[NodeProto],
    constants: Mapping[str, npt.ArrayLike],
    takes: ValueInfoProto,
    gives: tuple[str, list[int]],
) -> None:
    weights = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    result = helper.make_tensor_value_info(gives[0], TensorProto.FLOAT, gives[1])
    graph = helper.make_graph(nodes, name, [takes], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
