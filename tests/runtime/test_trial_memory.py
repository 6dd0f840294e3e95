"""What is remembered of trials over a restart, whatever lies in the file."""

import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig
from duly.models.trial import Trial
from duly.runtime.trial_memory import ENDED_MAX, FILE, FILE_BYTES_MAX, StateInUse, TrialMemory
from duly.trials.trial import Stage


def versions(*numbers: int, trial: bool = True) -> list[ModelVersion]:
    config = ModelConfig(trial=Trial() if trial else None)
    return [ModelVersion("m", str(number), Path(), Path(), config, ()) for number in numbers]


def first(memory: TrialMemory, *numbers: int, trial: bool = True) -> list[str]:
    return [version.version for version in memory.first(versions(*numbers, trial=trial))]


async def test_what_was_active_serves_again_and_what_did_not_pass_stays_out(tmp_path: Path) -> None:
    memory = TrialMemory(tmp_path)
    assert first(memory, 3, 2, 1) == ["3", "2", "1"], "nothing is known"
    memory.activated("m", "2")
    memory.not_passed("m/3", Stage.ROLLED_BACK, "less than asked for")
    await memory.close()
    again = TrialMemory(tmp_path)
    assert first(again, 4, 3, 2, 1) == ["2", "1"]
    assert first(again, 4, 3, 1) == ["4", "1"], "what was active is gone"
    assert first(again, 3) == ["3"], "there is nothing else"
    assert first(again, 4, 3, 2, trial=False) == ["4", "3", "2"]
    ended = again.ended("m/3")
    assert ended is not None
    assert (ended.stage, ended.reason) == (Stage.ROLLED_BACK, "less than asked for")
    again.tried_again("m/3")
    await again.close()
    assert TrialMemory(tmp_path).ended("m/3") is None
    assert os.listdir(tmp_path) == [FILE], "nothing is left beside it"


@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}", "\0", "\ud800"])
async def test_it_is_bounded_and_forgets_the_oldest(tmp_path: Path, letter: str) -> None:
    memory = TrialMemory(tmp_path)
    for number in range(ENDED_MAX + 5):
        memory.not_passed(f"m/{number}", Stage.VETOED, letter * 10_000)
    await memory.close()
    again = TrialMemory(tmp_path)
    assert again.ended("m/4") is None
    assert again.ended("m/5") is not None
    assert (tmp_path / FILE).stat().st_size < FILE_BYTES_MAX


async def test_versions_that_wait_for_a_trial_are_named_at_the_start(tmp_path: Path) -> None:
    memory = TrialMemory(tmp_path)
    memory.activated("m", "2")
    with capture_logs() as logs:
        assert first(memory, 5, 4, 2, 1) == ["2", "1"]
    (line,) = logs
    assert (line["log_level"], line["model"], line["versions"]) == ("warning", "m", "5,4")
    assert line["how"] == "--watch activate tries the newest; by hand: duly models try m 5"
    with capture_logs() as logs:
        assert first(memory, 2, 1) == ["2", "1"]
    assert not logs
    memory.not_passed("m/5", Stage.ROLLED_BACK, "slow")
    with capture_logs() as logs:
        first(memory, 5, 2)
    assert not logs, "that one is not tried by itself"
    await memory.close()


async def test_without_a_folder_nothing_is_written() -> None:
    memory = TrialMemory(None)
    memory.not_passed("m/1", Stage.VETOED, "no")
    memory.activated("m", "2")
    await memory.close()
    assert not memory.lasts
    assert memory.ended("m/1") is not None


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{}",
        b"[]",
        b"no JSON",
        b"\xff",
        b'{"active": {"m": "x"}, "ended": {}}',
        b'{"active": {}, "ended": {"m/1": {"stage": "NONE", "reason": "", "unix_s": 1}}}',
        b'{"active": {}, "ended": {"m/1": 7}}',
        b'{"active": {"m": 1e999}, "ended": {}}',
        b'{"active": {}, "ended": {"m/1": {"stage": "VETOED", "reason": "", "unix_s": 1e999}}}',
        b"[" * 100_000,
        b" " * (FILE_BYTES_MAX + 1),
    ],
)
async def test_a_file_that_makes_no_sense_is_told_and_counts_as_none(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / FILE).write_bytes(contents)
    with capture_logs() as logs:
        memory = TrialMemory(tmp_path)
    assert [line["event"] for line in logs] == ["the file of trials cannot be read, nothing is remembered"]
    assert first(memory, 2, 1) == ["2", "1"]
    memory.activated("m", "1")
    await memory.close()
    assert json.loads((tmp_path / FILE).read_text())["active"] == {"m": "1"}


async def test_a_folder_is_kept_from_other_servers_until_the_end(tmp_path: Path) -> None:
    memory, other = TrialMemory(tmp_path), TrialMemory(tmp_path)
    memory.keep()
    with pytest.raises(StateInUse, match="another server remembers in this folder"):
        other.keep()
    await memory.close()
    other.keep()
    await other.close()


async def test_a_disk_that_takes_nothing_is_told_and_harms_nobody(tmp_path: Path) -> None:
    memory = TrialMemory(tmp_path / "gone")
    with capture_logs() as logs:
        memory.activated("m", "1")
        await memory.close()
    assert [(line["event"], line["file"]) for line in logs] == [("the file of trials cannot be written", FILE)]
