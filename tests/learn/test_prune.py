"""Pruning: which channels go, and that what reads them is made anew."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from duly_learn.graphs.channels import follow
from duly_learn.graphs.constants import arrays_of, set_array, with_initializers
from duly_learn.graphs.part import Part
from duly_learn.optimize.choice import FIXED, Curve, Dense, Reader, curve_by_magnitude, curve_by_sensitivity, share_out
from duly_learn.optimize.compensate import reconstruct
from duly_learn.optimize.prune import CannotPrune, prune
from tests.learn.random_graphs import Builder, random_network


def _frames(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def _plain(width: int, seed: int = 0) -> onnx.ModelProto:
    """Two convolutions of `width` channels and a dense layer."""
    builder = Builder(np.random.default_rng(seed), exact=False)
    for _ in range(2):
        builder.conv(width)
        builder.activation()
    builder.head()
    return with_initializers(builder.model())


def _error(model: onnx.ModelProto, other: onnx.ModelProto, frames: list[dict[str, np.ndarray]]) -> float:
    """The squared distance of their answers, as a share of the variance of the first's."""
    one, two = Part(model, ["y"]), Part(other, ["y"])
    wanted = np.concatenate([one.run(feeds)["y"] for feeds in frames])
    got = np.concatenate([two.run(feeds)["y"] for feeds in frames])
    return float(np.mean((wanted - got) ** 2) / np.var(wanted))


def test_channels_that_are_copies_of_others_go_without_loss() -> None:
    model = _plain(32)
    arrays = arrays_of(model)
    for layer in follow(model).layers[:2]:  # the second half are copies of the first
        for name in filter(None, (layer.weight, layer.bias)):
            value = arrays[name].copy()
            value[16:] = value[:16]
            set_array(model, name, value)
    pruned = prune(model, _frames(40), share=0.45)
    assert min(after for _, after in pruned.channels.values()) == 16
    assert pruned.work[1] < 0.45 * pruned.work[0]
    assert _error(model, pruned.model, _frames(20, seed=1)) < 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_layers_made_anew_come_nearer_to_the_original_on_other_frames(seed: int) -> None:
    model = _plain(24, seed)
    pruned = prune(model, _frames(64), share=0.6, seed=seed)
    onnx.checker.check_model(pruned.model, full_check=True)
    assert pruned.fits
    for fit in pruned.fits:
        assert fit.error_after <= fit.error_before + 1e-6
    by_size = prune(model, _frames(64), share=0.6, method="magnitude", seed=seed)
    assert _error(model, pruned.model, _frames(32, seed=9)) < 0.5
    assert pruned.work[1] <= 0.6 * pruned.work[0]
    assert by_size.work[1] <= 0.6 * by_size.work[0]


def test_reconstruction_finds_weights_that_were_lost() -> None:
    model = _plain(8)
    channels = follow(model)
    layer = channels.layers[1]
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    set_array(broken, layer.weight, np.zeros_like(arrays_of(model)[layer.weight]))
    assert _error(model, broken, _frames(8, seed=1)) > 0.1
    fit = reconstruct(
        Part(model, [layer.output]), broken, layer, np.ones(8, bool), _frames(64), seed=0, check=lambda: None
    )
    assert fit is not None
    assert fit.error_after < 1e-3 < fit.error_before
    assert _error(model, broken, _frames(8, seed=1)) < 1e-3


@pytest.mark.parametrize("seed", range(6))
def test_any_network_is_pruned_to_one_that_runs(seed: int) -> None:
    pruned = prune(random_network(seed + 100, exact=False), _frames(8), share=0.8)
    assert pruned.channels
    Part(pruned.model, ["y"]).run(_frames(1)[0])


def test_too_few_frames_are_said() -> None:
    pruned = prune(_plain(48), _frames(1), share=0.6)
    assert pruned.fewer_samples_than_unknowns
    assert np.isfinite(Part(pruned.model, ["y"]).run(_frames(1)[0])["y"]).all()


def test_no_frames_and_no_layers_are_refused() -> None:
    with pytest.raises(CannotPrune, match="no frames"):
        prune(_plain(8), [], share=0.5)
    builder = Builder(np.random.default_rng(0), exact=True)
    builder.tensor = builder.add("Flatten", ["x"])
    builder.tensor = builder.add("Relu", [builder.tensor])
    model = builder.model()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 192
    with pytest.raises(CannotPrune, match="no convolution and no dense layer"):
        prune(model, _frames(2), share=0.5)


def test_layers_inside_of_branches_are_not_followed_and_the_branch_is_named() -> None:
    inner = _plain(8).graph
    del inner.input[:]
    node = helper.make_node("If", ["yes"], ["y"], name="choice", then_branch=inner, else_branch=inner)
    graph = helper.make_graph(
        [node],
        "branches",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8]),
            helper.make_tensor_value_info("yes", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(CannotPrune, match="inside of If 'choice', which is not followed"):
        prune(model, _frames(2), share=0.5)


def test_pruning_can_be_given_up() -> None:
    def check() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        prune(_plain(8), _frames(4), share=0.5, check=check)


def test_sensitivity_keeps_what_cannot_be_told_from_the_rest() -> None:
    # Channel 2 is channel 0 twice as large; channel 1 stands alone and is small, but is weighed heavily.
    signals = np.random.default_rng(0).standard_normal((1000, 2))
    x = np.stack([signals[:, 0], 0.1 * signals[:, 1], 2 * signals[:, 0]], axis=1)
    covariance = np.cov(x.T)
    effect = np.diag([1.0, 400.0, 1.0])
    curve = curve_by_sensitivity([Reader(covariance, effect)])
    assert set(curve.order[:2].tolist()) in ({0, 1}, {1, 2})
    assert curve.losses[0] == pytest.approx(1)
    assert curve.losses[2] == pytest.approx(0, abs=1e-6)
    assert curve_by_magnitude(np.array([3.0, 1.0, 2.0])).order.tolist() == [0, 2, 1]


def test_work_is_shared_out_where_it_costs_least() -> None:
    cheap = Curve(np.arange(8), np.array([1.0, *[0.0] * 8]))
    dear = Curve(np.arange(8), np.linspace(1, 0, 9))
    layers = [Dense(1, {FIXED: 3}, {0: 8}), Dense(1, {0: 8}, {1: 8}), Dense(1, {1: 8}, {FIXED: 4})]
    kept = share_out({0: cheap, 1: dear}, {0: 1.0, 1: 1.0}, layers, 0.6)
    assert kept[0] < kept[1] == 8
    # What cannot be had is not forced: something of each layer stays.
    assert min(share_out({0: cheap, 1: dear}, {0: 1.0, 1: 1.0}, layers, 0.0).values()) >= 1
