"""Convolutions that become three thinner ones each."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from duly_learn.graphs.part import Part, part_behind
from duly_learn.optimize.factorise import CannotFactorise, factorise
from duly_learn.optimize.ranks import STEP, Splittable, choose_ranks, side_of

WIDTH = 256


def _network(thin: int | None, stride: int = 1, seed: int = 0) -> onnx.ModelProto:
    """x [N, 3, 8, 8] → conv to WIDTH → relu → conv from and to WIDTH → relu → conv of one tap to y [N, 4, ...].

    `thin`: of how many numbers the middle one makes what it gives, and of how many of what it reads; None: of all.
    """
    random = np.random.default_rng(seed)
    arrays: list[onnx.TensorProto] = []

    def array(name: str, value: np.ndarray) -> str:
        arrays.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def drawn(*shape: int) -> np.ndarray:
        return random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))

    if thin is None:
        middle = drawn(WIDTH, WIDTH, 3, 3)
    else:
        middle = np.einsum("ob,bahw,ai->oihw", drawn(WIDTH, thin), drawn(thin, thin, 3, 3), drawn(thin, WIDTH))
    nodes = [
        helper.make_node("Conv", ["x", array("w1", drawn(WIDTH, 3, 3, 3))], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["ar"]),
        helper.make_node(
            "Conv",
            ["ar", array("w2", middle), array("b2", drawn(WIDTH, 1)[:, 0])],
            ["b"],
            pads=[1] * 4,
            strides=[stride] * 2,
        ),
        helper.make_node("Relu", ["b"], ["br"]),
        helper.make_node("Conv", ["br", array("w3", drawn(4, WIDTH, 1, 1))], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 8 // stride, 8 // stride])],
        arrays,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _frames(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def _error(model: onnx.ModelProto, other: onnx.ModelProto, frames: list[dict[str, np.ndarray]]) -> float:
    """The squared distance of their answers, as a share of the variance of the first's."""
    one, two = Part(model, ["y"]), Part(other, ["y"])
    wanted = np.concatenate([one.run(feeds)["y"] for feeds in frames])
    got = np.concatenate([two.run(feeds)["y"] for feeds in frames])
    return float(np.mean((wanted - got) ** 2) / np.var(wanted))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_that_is_thin_in_truth_is_split_without_loss(stride: int) -> None:
    model = _network(16, stride)
    made = factorise(model, _frames(40), share=0.4)
    onnx.checker.check_model(made.model, full_check=True)
    assert list(made.ranks) == ["Conv 'b'"]
    assert made.work[1] <= 0.4 * made.work[0]
    assert made.first_changed == "b.read"
    assert _error(model, made.model, _frames(20, seed=1)) < 1e-3


def test_less_work_costs_more_of_the_answer_and_fitting_brings_it_nearer() -> None:
    model = _network(None)
    frames, others = _frames(60), _frames(20, seed=1)
    errors = [_error(model, factorise(model, frames, share).model, others) for share in (0.8, 0.5, 0.3)]
    assert errors == sorted(errors)
    assert errors[0] < 0.2
    few = _error(model, factorise(model, frames[:1], 0.5).model, others)
    assert errors[1] < few


def test_what_is_before_the_first_thinner_layer_stays() -> None:
    model = _network(None)
    made = factorise(model, _frames(20), share=0.5)
    feeds = _frames(1, seed=2)[0]
    np.testing.assert_array_equal(Part(model, ["ar"]).run(feeds)["ar"], Part(made.model, ["ar"]).run(feeds)["ar"])
    weights = {each.name: numpy_helper.to_array(each) for each in made.model.graph.initializer}
    assert "w2" not in weights
    sizes = [float(np.sqrt(np.mean(weights[f"b{end}.kernel"] ** 2))) for end in (".read", ".code", "")]
    assert max(sizes) < 3 * min(sizes), "what a number is multiplied by before and behind is alike"


def test_what_cannot_be_split_is_said() -> None:
    with pytest.raises(CannotFactorise, match="no frames"):
        factorise(_network(None), [], 0.5)
    with pytest.raises(CannotFactorise, match="no layer would be split for 100% of the work"):
        factorise(_network(None), _frames(2), 1.0)
    small = _network(None)
    small.graph.node[2].attribute.append(helper.make_attribute("group", 1))
    del small.graph.node[2:4]
    small.graph.node[-1].input[0] = "ar"
    with pytest.raises(CannotFactorise, match=r"no convolution of more than one tap with at least 256 channels"):
        factorise(small, _frames(2), 0.5)


def test_combinations_come_in_the_order_of_what_they_mean() -> None:
    random = np.random.default_rng(0)
    spread = random.standard_normal((200, 8)) * np.array([5, 4, 3, 2, 1, 0.5, 0.1, 0.0])
    side = side_of(spread.mean(axis=0), np.cov(spread.T), np.eye(8))
    assert (np.diff(side.losses) <= 0).all()
    assert (side.losses[0], side.losses[-1]) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    np.testing.assert_allclose(side.encode @ side.decode, np.eye(8), atol=1e-8)
    # With an effect of the smallest channels alone, these come first.
    told = side_of(spread.mean(axis=0), np.cov(spread.T), np.diag([0.0, 0, 0, 0, 0, 1, 0, 0]))
    assert told.losses[1] < 0.01


def _splittable(seed: int, weight: float) -> Splittable:
    random = np.random.default_rng(seed)
    spreads = [random.standard_normal((300, 64)) * np.geomspace(1, 0.01, 64) for _ in range(2)]
    sides = [side_of(each.mean(axis=0), np.cov(each.T), np.eye(64)) for each in spreads]
    return Splittable(sides[0], sides[1], places=100, taps=9, weight=weight)


def test_ranks_are_chosen_for_the_work_that_may_be_left_where_it_costs_least() -> None:
    layers = {"dear": _splittable(0, 100.0), "cheap": _splittable(1, 1.0)}
    whole = sum(each.work(None) for each in layers.values())
    for share in (0.9, 0.6, 0.3):
        ranks = choose_ranks(layers, 0, share)
        left = sum(each.work(ranks.get(name)) for name, each in layers.items())
        assert left <= share * whole
        assert all(rank % STEP == 0 for pair in ranks.values() for rank in pair)
    assert list(choose_ranks(layers, 0, 0.8)) == ["cheap"]
    assert choose_ranks(layers, 0, 1.0) == {}
    least = choose_ranks(layers, whole, 0.01)  # out of reach
    assert set(least.values()) == {(STEP, STEP)}


def test_a_graph_in_two_parts_gives_the_same() -> None:
    model = _network(None)
    model.graph.node.append(helper.make_node("Relu", ["a"], ["z"]))  # an output that only what is before gives
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", WIDTH, 8, 8]))
    tensors, behind = part_behind(model, "b")
    assert tensors == ["ar", "z"]
    feeds = _frames(1)[0]
    whole, inner = Part(model, ["y", "z"]).run(feeds), Part(model, tensors).run(feeds)
    np.testing.assert_allclose(Part(behind, ["y"]).run(inner)["y"], whole["y"], rtol=1e-5, atol=1e-6)
