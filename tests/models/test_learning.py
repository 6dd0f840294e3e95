"""`[learning]` of model.toml: what it may say, and that a slip is named."""

from pathlib import Path

import pytest

from duly.models.repository import Repository
from tests.graphs import doubling, save


def problem_of(root: Path, text: str) -> str:
    save(root, "m", doubling())
    (root / "m" / "model.toml").write_text(text)
    versions, problems = Repository(root).scan()
    assert len(versions) + len(problems) == 1
    return problems[0].reason if problems else ""


def test_a_model_learns_when_it_says_so(tmp_path: Path) -> None:
    save(tmp_path, "m", doubling())
    assert Repository(tmp_path).scan()[0][0].config.learning is None
    (tmp_path / "m" / "model.toml").write_text("[learning]\n")
    learning = Repository(tmp_path).scan()[0][0].config.learning
    assert learning is not None
    assert learning.on
    assert learning.command == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[learning]\nframe_min = 3", "learning.frame_min: there is no such key; did you mean frames_min?"),
        ("[learning]\nkind = 'trees'", "learning.kind: "),
        ("[learning]\nframes_min = 60", "60 frames, of which 0.25 are held out"),
        ("[learning]\nwindow = 300", "learning.window: should be at least frames_min, which is 400"),
        ("[learning.drift]\nfalse_alarms = 1.5", "learning.drift.false_alarms: "),
        ("[learning.trust]\nsource_share_max = 0", "learning.trust.source_share_max: "),
    ],
)
def test_a_slip_is_named(tmp_path: Path, text: str, told: str) -> None:
    assert told in problem_of(tmp_path, text)
