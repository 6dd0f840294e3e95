"""A small file system of a test's own, which can be full, read-only, or gone."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Mount = Callable[[str], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Mount]]:
    """A folder with a file system of 256 KiB, and what mounts it again with other options, such as "ro"."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)

    try:
        mount("size=256k,mode=700")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems can be mounted by root alone")
    yield folder, lambda options: mount(f"remount,size=256k,{options}")
    subprocess.run(["umount", "--lazy", folder], check=True)
