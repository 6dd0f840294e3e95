"""Every story of `tests/stories` comes out as it is told.

`REWRITE_STORIES=1 pytest tests/core/test_stories.py` writes what the scheduler does now into the files instead; the
diff is then for a person to judge.
"""

import os
import re
from pathlib import Path

import pytest

from tests.core.story import Story

STORIES = sorted((Path(__file__).parent.parent / "stories").glob("*.txt"))
SCENE = """lane cpu:0
model detect/1 lane=cpu:0 1=10ms
stream 1 model=detect/1 budget=100ms
"""


def test_there_are_stories() -> None:
    assert STORIES


@pytest.mark.parametrize("start_ns", [0, 4_611_686_018_427_387_847], ids=["clock at zero", "clock anywhere"])
@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path: Path, start_ns: int) -> None:
    story = Story(start_ns)
    told = path.read_text()
    happened = story.replay(told)
    if os.environ.get("REWRITE_STORIES"):
        path.write_text(happened)
    else:
        assert happened == told
    assert story.unanswered() == [], "a story ends when every frame has its outcome"
    story.witness.assert_replays()


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("frame 1/1 colour=red", "nobody knows ['colour']"),
        ("frame 1/1 quickly", "nobody knows ['quickly']"),
        ("dance", "nobody knows the command 'dance'"),
        ("fail 1", "needs reason="),
        ("close", "needs one more word"),
        ("frame 1/1 budget=3", "a time is a number and one of ns, us, ms, s, got '3'"),
        ("advance at=3ms\nadvance at=2ms", "time never goes back: it is 3ms, not 2ms"),
    ],
)
def test_a_story_with_a_mistake_is_refused(command: str, error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        Story(0).replay(f"{SCENE}{command}\n----\nok\n")


def test_a_story_that_comes_out_otherwise_is_told_as_it_happened() -> None:
    happened = Story(0).replay(f"{SCENE}frame 1/1\nfinish 1 at=9.5ms\n----\nok\n")
    assert happened.split("----\n")[1] == (
        "0ms dispatch batch 1 on cpu:0: detect/1 frames 1/1, planned 10.1ms\n9.5ms frame 1/1 ON_TIME\n"
    )
