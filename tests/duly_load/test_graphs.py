"""The benchmark's models load, take any batch size, and are the same every time."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from duly.models.spec import ModelConfig
from duly_load.bench.bare_run import open_session, run_times_ns
from duly_load.models.graphs import MLP, MODELS, WIDE, BenchModel, write_repository


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_repository(folder)
    return folder


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_rows_of_a_batch_do_not_depend_on_each_other(repository: Path, model: BenchModel) -> None:
    session = open_session(model.file(repository), threads=1)
    name = session.get_inputs()[0].name
    frames = np.random.default_rng(7).uniform(-1, 1, (3, *model.input_shape)).astype(np.float32)
    (batched,) = session.run(None, {name: frames})
    alone = [session.run(None, {name: frames[i : i + 1]})[0] for i in range(3)]
    np.testing.assert_allclose(batched, np.concatenate(alone), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_model_toml_is_valid(repository: Path, model: BenchModel) -> None:
    written = tomllib.loads((repository / model.name / "model.toml").read_text())
    config = ModelConfig.model_validate(written)
    assert config.batch_sizes == model.batch_sizes
    assert config.threads == 1


def test_frames_are_of_the_sizes_that_the_figures_speak_of() -> None:
    assert [model.frame_bytes for model in MODELS] == [1_024, 150_000, 602_112]


def test_models_are_the_same_every_time(repository: Path, tmp_path: Path) -> None:
    write_repository(tmp_path)
    assert MLP.file(tmp_path).read_bytes() == MLP.file(repository).read_bytes()


def test_bare_run_times_at_least_one_run(repository: Path) -> None:
    times_ns = run_times_ns(open_session(WIDE.file(repository), threads=1), seconds=0.0)
    assert times_ns.shape == (1,)
    assert times_ns[0] > 0
