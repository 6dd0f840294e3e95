"""What a config.pbtxt comes to in model.toml, what is noted, and what is refused with its line.

Each story has the file, the model.toml that says the same, and the notes, which tell the line and what has no effect.
"""

import tomllib
from pathlib import Path
from typing import get_args

import pytest
from google.protobuf import text_format

from duly.core.types import StreamClass
from duly.models.config_file import check_settings
from duly.models.errors import BrokenModel
from duly.models.kserve import class_of_priority
from duly.models.spec import DataTypeName, ModelConfig
from duly.models.toml_text import toml_text
from duly.models.triton.config_pbtxt import NOTES_MAX, settings_of
from duly.models.triton.schema import DATA_TYPES
from tests.models.triton.random_configs import random_config

STORIES = sorted((Path(__file__).parent / "stories").glob("*.txt"))


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_story(story: Path) -> None:
    pbtxt, toml, notes = story.read_text().split("----\n")
    settings = settings_of(pbtxt, "model")
    assert toml_text(settings.config) == toml
    assert "".join(f"{note}\n" for note in settings.notes) == notes
    assert check_settings(tomllib.loads(toml)) == settings.config


@pytest.mark.parametrize("seed", range(100))
def test_model_toml_says_what_config_pbtxt_says(seed: int) -> None:
    settings = settings_of(text_format.MessageToString(random_config(seed)), "model")
    again = check_settings(tomllib.loads(toml_text(settings.config)))
    assert again == settings.config
    assert again.model_fields_set == settings.config.model_fields_set


def test_a_model_toml_of_ours_is_written_as_it_was() -> None:
    config = ModelConfig.model_validate(
        {
            "description": 'a "quoted"\\ \n\t\x7f\x01 größe',
            "output_finite": False,
            "default_budget_ms": 1e-7,
            "constants": {"a b": 1.5, "n": True, "": 3},
            "input": [{"name": "x", "encodings": ["JPEG"], "preprocess": [{"op": "resize", "width": 2, "height": 3}]}],
            "variant": [{"name": "a", "file": "a.onnx"}, {"name": "b", "file": "b.onnx"}],
            "checks": {"absolute": 0.5},
            "providers": [{"name": "P", "options": {"o.x": "1", "p": 2}}],
        }
    )
    assert check_settings(tomllib.loads(toml_text(config))) == config


REFUSED = [part.split("----\n") for part in (Path(__file__).parent / "stories" / "refused").read_text().split("====\n")]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_served_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(BrokenModel) as refused:
        settings_of(text, "model")
    assert f"{refused.value}\n" == f"/config.pbtxt: {reason}"


@pytest.mark.parametrize("name", DATA_TYPES)
def test_element_types_are_served_or_named_with_their_line(name: str) -> None:
    text = f'input {{ name: "x"\n data_type: {name} }}'
    if DATA_TYPES[name] in get_args(DataTypeName):
        assert settings_of(text, "m").config.inputs[0].datatype == DATA_TYPES[name]
        return
    with pytest.raises(BrokenModel, match=r"/config.pbtxt: line 2: input\[0\]\.datatype: should be"):
        settings_of(text, "m")


def test_all_element_types_have_a_name_of_triton() -> None:
    assert set(get_args(DataTypeName)) <= set(DATA_TYPES.values())


def test_a_batch_size_without_dims_is_left_to_the_graph() -> None:
    assert settings_of("", "m").config.batched is None
    assert settings_of("max_batch_size: 0", "m").config.batched is False
    assert settings_of('input { name: "x" dims: 2 }', "m").config.batched is False
    assert settings_of('input { name: "x" }', "m").config.batched is None
    assert settings_of("max_batch_size: 1", "m").config.batch_sizes == (1,)


def test_batches_beyond_the_largest_are_split_and_that_is_noted() -> None:
    settings = settings_of("max_batch_size: 1000", "m")
    assert settings.config.batch_sizes == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert settings.config.kserve.max_batch_size == 1000
    assert settings.notes == (
        "/config.pbtxt: line 1: max_batch_size: batches have at most 256 frames, and requests as many rows as a stream "
        "may have frames unanswered (frames_in_flight_max), 1024 at most",
    )


def test_notes_are_bounded() -> None:
    notes = settings_of('parameters { key: "k" value { } }\n' * 3, "m").notes
    assert len(notes) == 1  # a key is one setting
    many = "".join(f'parameters {{ key: "{number}" value {{ }} }}\n' for number in range(100))
    notes = settings_of(many, "m").notes
    assert len(notes) == NOTES_MAX + 1
    assert notes[-1] == "/config.pbtxt: 80 more fields have no effect"


def test_classes_of_priorities() -> None:
    def classes(levels: int) -> list[int | None]:
        return [class_of_priority(priority, levels) for priority in range(levels + 2)]

    _, standard, best_effort = StreamClass
    assert classes(0) == [None, None]
    assert classes(1) == [None, standard, None]
    assert classes(2) == [None, standard, best_effort, None]
    assert classes(3) == [None, standard, standard, best_effort, None]
    assert classes(4) == [None, standard, standard, best_effort, best_effort, None]
