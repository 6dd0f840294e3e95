"""Stages run one after the other within the time that there is, and what goes wrong in one is noted and stays there."""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.gpu.stages import (
    INSTALL,
    LEFT_OUT,
    RUN_SECONDS,
    STAGES,
    SUMMARY_SECONDS,
    Asked,
    Ended,
    Stage,
    interruptible,
    own_seconds,
    run_all,
)

LONG = SUMMARY_SECONDS + 400


def ran(
    folder: Path, scripts: Mapping[str, str], run_seconds: float = LONG, first: Stage | None = None
) -> tuple[list[Ended], dict[str, float]]:
    """Runs a stage of 10 s for each script of Python. Returns what became of each, and what time each was given."""
    given: dict[str, float] = {}
    stages = [Stage(name, name, 10) for name in scripts]
    if first is not None:
        stages[0] = first

    def launch(stage: Stage, seconds: float) -> tuple[list[str], Mapping[str, str]]:
        given[stage.key] = seconds
        return [sys.executable, "-c", scripts[stage.key]], os.environ

    return [*run_all(stages, launch, folder, time.monotonic(), lambda line: None, run_seconds)], given


def statuses(ended: list[Ended]) -> dict[str, str]:
    return {each.key: each.status for each in ended}


def alive(pid: int) -> bool:
    """Whether the process runs: one that has ended may still be listed until its parent has seen that."""
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_stage_that_fails_is_noted_with_its_last_lines_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    ended, _ = ran(tmp_path, {"bad": "print('before'); raise SystemExit('no such device')", "good": "print('well')"})
    assert statuses(ended) == {"bad": "failed", "good": "done"}
    assert ended[0].reason == "before\nno such device"


def test_a_stage_that_does_not_apply_is_left_out_with_its_reason(tmp_path: Path) -> None:
    ended, _ = ran(tmp_path, {"one": f"print('so'); print('there is no TensorRT'); raise SystemExit({LEFT_OUT})"})
    assert statuses(ended) == {"one": "left out"}
    assert ended[0].reason == "there is no TensorRT"


def test_a_stage_whose_time_is_over_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "child"
    script = (
        "import subprocess, sys, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"open({str(note)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    ended, _ = ran(tmp_path, {"slow": script, "next": "print('well')"}, run_seconds=SUMMARY_SECONDS + 16)
    assert statuses(ended) == {"slow": "stopped", "next": "done"}
    assert "was over" in ended[0].reason
    while alive(int(note.read_text())):
        os.sched_yield()  # it was killed, and may be on its way


def test_what_a_stage_leaves_over_helps_those_that_come_and_none_takes_from_another(tmp_path: Path) -> None:
    _, given = ran(tmp_path, {"quick": "", "second": "", "third": ""}, run_seconds=SUMMARY_SECONDS + 300)
    assert given["quick"] <= 100
    assert given["second"] > given["quick"]
    assert given["third"] > given["second"]
    assert given["third"] <= 300


def test_a_stage_for_which_no_time_is_left_is_left_out(tmp_path: Path) -> None:
    ended, _ = ran(tmp_path, {"one": "print('well')"}, run_seconds=SUMMARY_SECONDS - 1)
    assert statuses(ended) == {"one": "left out"}
    assert ended[0].reason == "no time was left for it"


def test_nothing_runs_where_nothing_could_be_installed(tmp_path: Path) -> None:
    ended, given = ran(tmp_path, {"install": "raise SystemExit('a part is missing')", "next": ""}, first=INSTALL)
    assert statuses(ended) == {"install": "failed", "next": "left out"}
    assert [*given] == ["install"]


def test_an_installation_whose_time_is_over_says_how_it_is_given_more(tmp_path: Path) -> None:
    script = "import time; time.sleep(600)"
    ended, _ = ran(tmp_path, {"install": script, "next": ""}, run_seconds=SUMMARY_SECONDS + 2, first=INSTALL)
    assert statuses(ended) == {"install": "stopped", "next": "left out"}
    assert "make gpu GPU_ARGS=--prepare" in ended[0].reason


def test_the_shares_of_all_stages_are_what_a_run_may_take() -> None:
    assert sum(stage.seconds for stage in (INSTALL, *STAGES)) == RUN_SECONDS - SUMMARY_SECONDS
    assert {seconds: own_seconds(seconds) for seconds in (10.0, 20.0, 35.0)} == {10.0: 5.0, 20.0: 10.0, 35.0: 25.0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_stage_and_those_behind_it_and_all_are_told(
    tmp_path: Path, number: signal.Signals
) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)

    def interrupt() -> None:
        ready.read_text()  # returns once the stage has opened and closed it
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    script = f"import time; open({str(ready)!r}, 'w').close(); time.sleep(600)"
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        ended, given = ran(tmp_path, {"before": "", "held": script, "behind": ""})
    thread.join()
    assert statuses(ended) == {"before": "done", "held": "interrupted", "behind": "interrupted"}
    assert [*given] == ["before", "held"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stage_is_told_by_text_and_keeps_whole_results_only(tmp_path: Path) -> None:
    asked = Asked("key", "cuda:0", "", tmp_path, tmp_path / "scratch", 1.5, False)
    assert Asked.from_json(asked.to_json()) == asked
    asked.write({"rows": [1]})
    with pytest.raises(TypeError):
        asked.write({"rows": [object()]})
    assert (tmp_path / "key.json").read_text() == '{\n "rows": [\n  1\n ]\n}\n'
