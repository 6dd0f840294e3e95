"""The harness's graphs take any batch size, and are the same every time."""

import numpy as np
import onnxruntime
import pytest

from duly_load.graphs import GRAPHS, MLP, SQUEEZENET, WIDE, Chain, Graph


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_rows_of_a_batch_do_not_depend_on_each_other(graph: Graph) -> None:
    session = onnxruntime.InferenceSession(graph.build().SerializeToString(), providers=["CPUExecutionProvider"])
    frames = np.random.default_rng(7).uniform(-1, 1, (3, *graph.input_shape)).astype(np.float32)
    name = session.get_inputs()[0].name
    (batched,) = session.run(None, {name: frames})
    alone = [session.run(None, {name: frames[index : index + 1]})[0] for index in range(3)]
    np.testing.assert_allclose(batched, np.concatenate(alone), rtol=1e-4, atol=1e-6)


def test_frames_have_the_shapes_that_the_pages_name() -> None:
    assert [graph.input_shape for graph in (MLP, WIDE, SQUEEZENET)] == [(256,), (37_500,), (3, 224, 224)]


@pytest.mark.parametrize("graph", [MLP, Chain(4, 3)])
def test_graphs_are_the_same_every_time(graph: Graph | Chain) -> None:
    assert graph.build().SerializeToString() == graph.build().SerializeToString()
