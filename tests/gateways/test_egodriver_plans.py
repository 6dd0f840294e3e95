"""What a model's plan means as way points, what a route means as an input, and which budget a step gives."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly_client import Chunk, TensorSpec
from duly_client.convert import DTYPES
from duly_gateways import settings_file
from duly_gateways.egodriver.plans import POINTS_MAX, BadPlan, braking, points_of, route_rows
from duly_gateways.egodriver.settings import Settings, read_settings
from duly_gateways.settings_file import SettingsError

MS = 1_000_000


def test_a_plan_with_headings_is_taken_as_it_is() -> None:
    plan = np.float32([[0, 0, 0.5], [1, 2, 0.25]])
    first, second = points_of(plan, Chunk("plan", 100 * MS, 200 * MS, 2), 5_000_000)
    assert (first.at_us, first.x_m, first.y_m, first.yaw_rad) == (5_100_000, 0, 0, 0.5)
    assert (second.at_us, second.x_m, second.y_m, second.yaw_rad) == (5_300_000, 1, 2, 0.25)


def test_without_headings_the_vehicle_heads_where_it_goes() -> None:
    plan = np.float32([[1, 0], [2, 1], [2, 1], [2, 2]])
    headings = [point.yaw_rad for point in points_of(plan, Chunk("plan", MS, MS, 4), 0)]
    assert headings == pytest.approx([0, math.pi / 4, math.pi / 4, math.pi / 2])


def test_points_before_the_observation_are_left_out() -> None:
    points = points_of(np.zeros((3, 2)), Chunk("plan", 0, 100 * MS, 3), 7)
    assert [point.at_us for point in points] == [100_007, 200_007]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (np.zeros(3), "the plan has the shape [3], expected [n, 2]"),
        (np.zeros((3, 4)), "the plan has the shape [3, 4]"),
        (np.float32([[np.nan, 0]]), "NaN or infinities"),
        (np.zeros((0, 2)), "no way point"),
        (np.zeros((1, 2)), "no way point after the observation"),
    ],
)
def test_what_is_no_plan_is_named(plan: np.ndarray, words: str) -> None:
    with pytest.raises(BadPlan) as told:
        points_of(plan, Chunk("plan", 0, MS, len(plan)), 0)
    assert words in str(told.value)


@given(
    st.integers(1, 50), st.integers(0, 10**9), st.integers(1, 10**10), st.integers(0, 10**12), st.sampled_from([2, 3])
)
def test_times_rise_and_come_after_the_observation(
    count: int, t0_ns: int, dt_ns: int, now_us: int, columns: int
) -> None:
    plan = np.arange(count * columns, dtype=np.float32).reshape(count, columns)
    try:
        points = points_of(plan, Chunk("plan", t0_ns, dt_ns, count), now_us)
    except BadPlan:
        assert count * dt_ns // 1000 + t0_ns // 1000 <= dt_ns // 1000 + 1
        return
    times = [point.at_us for point in points]
    assert times == sorted(set(times))
    assert times[0] > now_us
    assert len(points_of(np.zeros((5000, 2)), Chunk("plan", MS, MS, 5000), 0)) == POINTS_MAX


def test_braking_ends_where_the_vehicle_stands() -> None:
    assert braking(0.0, 3.0, 0) == []
    points = braking(6.0, 3.0, 1_000_000)
    assert points[-1].x_m == pytest.approx(6.0**2 / 2 / 3.0, rel=1e-6)
    assert points[-1].at_us == 1_000_000 + 2_000_000
    assert {(point.y_m, point.yaw_rad) for point in points} == {(0, 0)}


def spec(*shape: int) -> TensorSpec:
    return TensorSpec("route", "FP32", DTYPES["FP32"], shape)


def test_a_route_is_cut_off_or_goes_on_with_its_last_point() -> None:
    route = np.float64([[1, 2, 3], [4, 5, 6]])
    assert route_rows(route, spec(1, 2)).tolist() == [[1, 2]]
    assert route_rows(route, spec(4, 3)).tolist() == [[1, 2, 3], [4, 5, 6], [4, 5, 6], [4, 5, 6]]
    assert route_rows(route, spec(-1, 2)).tolist() == [[1, 2], [4, 5]]
    assert route_rows(route, spec(4, 2)).dtype == np.float32
    for wrong, words in ((spec(4), "a route is"), (spec(4, 5), "a route is")):
        with pytest.raises(BadPlan, match=words):
            route_rows(route, wrong)
    with pytest.raises(BadPlan, match="no route yet"):
        route_rows(np.zeros((0, 3)), spec(4, 2))


def test_a_step_of_the_simulation_is_the_deadline() -> None:
    assert Settings("m").budget_ms(100_000) == pytest.approx(80)
    assert Settings("m", real_time_factor=0.5).budget_ms(100_000) == pytest.approx(160)
    assert Settings("m", step_ms=50, share=1.0).budget_ms(0) == pytest.approx(50)
    assert Settings("m", step_ms=50, share=1.0).budget_ms(-5) == pytest.approx(50)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--model: is missing"),
        ('model = "m"\nshare = 2.0\n', "share: should be 0.01 to 1, got 2"),
        ('model = "m"\n[inputs]\nx = "lidar"\n', "inputs.x: should be one of route, speed, camera:NAME, got 'lidar'"),
        ('model = "m"\nsteps = 3\n', "steps: there is no such key"),
    ],
)
def test_settings_name_the_key(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "e.toml").write_text(text)
    with pytest.raises(SettingsError) as told:
        read_settings(settings_file.read(tmp_path / "e.toml"), "")
    assert words in str(told.value)
