"""A trainer is held to its limits, by whoever it is started, and leaves nothing behind."""

import ctypes
import os
import resource
import select
import subprocess
import sys
from pathlib import Path

import pytest

from duly_learn.learner.limited import TrainerFailed, run_limited

PR_CAPBSET_DROP, CAP_SYS_RESOURCE = 24, 24  # linux/prctl.h, linux/capability.h
HARD_BYTES = 2 << 30
LIMITED = f"""
import os, resource, sys
from pathlib import Path
from duly_learn.learner.limited import run_limited
resource.setrlimit(resource.RLIMIT_AS, ({HARD_BYTES}, {HARD_BYTES}))
says = "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[1]); raise SystemExit(3)"
run_limited([sys.executable, "-c", says], {HARD_BYTES} * 4, 60, os.environ, Path(sys.argv[1]))
"""


def without_the_right_to_more() -> None:
    """Has no right to raise a hard limit from its next execve on, also where this is run by root."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0)


def test_a_hard_limit_of_the_learner_is_that_of_its_trainer_too(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        preexec_fn=without_the_right_to_more, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert f"exit status 3; its last lines: {HARD_BYTES}" in ran.stderr, ran.stderr


def test_a_trainer_may_have_more_than_the_learner(tmp_path: Path) -> None:
    """The learner has no more than a soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, hard))
    says = "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0]); raise SystemExit(3)"
    try:
        with pytest.raises(TrainerFailed, match=f"exit status 3; its last lines: {16 << 30}"):
            run_limited([sys.executable, "-c", says], 16 << 30, 60, os.environ, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_what_a_trainer_leaves_running_ends_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    says = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']); "
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))"
    )
    run_limited([sys.executable, "-c", says], 8 << 30, 60, os.environ, tmp_path)
    try:
        left = os.pidfd_open(int(pid_file.read_text()))
    except ProcessLookupError:
        return
    assert select.select([left], [], [], 30)[0], "it runs still"
    os.close(left)
