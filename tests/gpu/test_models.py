"""The models that are measured give answers by which two ways of running them can be told apart: finite ones that
differ from frame to frame, in numbers of 16 bits, too.
"""

import numpy as np
import onnxruntime
import pytest

from duly.accelerators import CPU, TENSORRT, of_provider
from duly.models.spec import ModelConfig
from duly.worker.dtypes import Array
from duly.worker.graph_facts import graph_facts
from duly.worker.shape_profile import shape_options
from tests.gpu.models import Measured, dense_layers, engine_ranges
from tests.gpu.stage_throughput import FULL, TOLERANCE


def answers(measured: Measured) -> Array:
    """Of two frames, a row for each."""
    session = onnxruntime.InferenceSession(measured.build().SerializeToString(), providers=[CPU])
    (given,) = session.run(None, {session.get_inputs()[0].name: measured.frames(2)})
    return np.asarray(given, np.float32).reshape(2, -1)


@pytest.mark.parametrize("measured", FULL.models, ids=lambda each: each.name)
def test_answers_are_finite_and_differ_from_frame_to_frame(measured: Measured) -> None:
    one, other = answers(measured)
    assert np.isfinite([one, other]).all()
    assert np.abs(one - other).max() > 2 * TOLERANCE["fp32"] * np.abs(one).max()


def test_numbers_of_16_bits_hold_what_comes_between() -> None:
    exact, halved = answers(Measured("squeezenet")), answers(Measured("squeezenet", half=True))
    assert np.abs(exact - halved).max() < TOLERANCE["fp16"] / 4 * np.abs(exact).max()


def test_tensorrt_alone_is_given_the_ranges_that_a_worker_gives_it() -> None:
    row, graph = of_provider(TENSORRT), Measured("squeezenet").build().SerializeToString()
    assert row is not None
    config = ModelConfig(batch_sizes=(1, 8))
    assert engine_ranges(graph, (1, 8)) == shape_options(row, graph_facts(graph), config, {})


def test_rounding_does_not_add_up_from_layer_to_layer() -> None:
    session = onnxruntime.InferenceSession(dense_layers(64, 400).SerializeToString(), providers=[CPU])
    frames = np.random.default_rng(1).standard_normal((2, 64), np.float32)
    (exact,), (near,) = (session.run(None, {"x": each}) for each in (frames, frames * (1 + 1e-3)))
    assert np.abs(exact[0] - exact[1]).max() > 0.5
    assert np.abs(exact - near).max() < 1e-2
