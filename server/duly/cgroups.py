"""What the control groups that bind this process say, by version 1 and by version 2 of them."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_UNIFIED = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
"""Where version 2 of control groups is mounted: alone, or beside version 1."""
_SPLIT = "sys/fs/cgroup"
"""Where version 1 has a folder for each controller, or for several: `cpu,cpuacct`, or the other way round."""


def group_settings(controller: str, unified: str, *split: str) -> Iterator[str]:
    """Yields a setting of `controller` as it stands in this process's own group and in all groups above it.

    `unified`: its file in version 2. `split`: its files in version 1, whose texts are put together with a blank.

    A container may see the name that its group has on the host, though its own group is what is mounted as the root.
    Hence groups that are not there are passed over, and the root is always looked at.
    """
    for line in _text(_ROOT / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        together = controllers.split(",")
        group = PurePosixPath(name.lstrip("/"))
        groups = (group, *group.parents)
        if hierarchy == "0":
            yield from (_text(_ROOT / mount / above / unified) for mount in _UNIFIED for above in groups)
        elif controller in together:
            mounts = {controller, controllers, ",".join(reversed(together))}
            places = [_ROOT / _SPLIT / mount / above for mount in sorted(mounts) for above in groups]
            yield from (" ".join(_text(place / file).strip() for file in split) for place in places)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
