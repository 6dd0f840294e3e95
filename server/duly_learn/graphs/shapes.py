"""The shapes of a graph's tensors."""

import onnx


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor that has a known number of dimensions; -1 stands for an extent that is open."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]  # they may be of a graph before it was changed
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    graph = inferred.graph
    found: dict[str, tuple[int, ...]] = {}
    for each in (*graph.input, *graph.value_info, *graph.output):
        if each.type.HasField("tensor_type") and each.type.tensor_type.HasField("shape"):
            extents = each.type.tensor_type.shape.dim
            found[each.name] = tuple(e.dim_value if e.HasField("dim_value") else -1 for e in extents)
    return found | {each.name: tuple(each.dims) for each in graph.initializer}
