"""Memory that was freed stays with the process, unless the operator wants it otherwise, and can be given back."""

import ctypes
import os
import subprocess
import sys

import pytest

FRAMES = 50
FRAME_PAGES = 146
"""Of 600 KB."""

# A process of its own, as what is set holds for all of it. Its arrays lie at the end of the heap, where glibc by itself
# gives back and takes again the memory of each frame.
COUNTS_FAULTS = """
import resource, sys
from duly import freed_memory

def frame():
    parts = [bytearray(600_000) for _ in range(4)]

def faults(frames):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(frames):
        frame()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

freed_memory.keep()
frame()
print(faults(int(sys.argv[1])))
freed_memory.give_back()
print(faults(1))
"""

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")


def page_faults(**variables: str) -> tuple[int, int]:
    """Returns the page faults of FRAMES frames, and of one more after memory was given back."""
    command = [sys.executable, "-c", COUNTS_FAULTS, str(FRAMES)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | variables)
    first, last = run.stdout.split()
    return int(first), int(last)


def test_frames_use_the_memory_of_those_before_them_until_it_is_given_back() -> None:
    frames, after = page_faults()
    assert frames < FRAMES
    assert after > FRAME_PAGES


@pytest.mark.parametrize(
    "variable", [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")]
)
def test_what_the_operator_has_set_stays(variable: tuple[str, str]) -> None:
    frames, _ = page_faults(**dict([variable]))
    assert frames > FRAMES * FRAME_PAGES
