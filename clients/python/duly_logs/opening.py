"""Opens logs of all kinds."""

from pathlib import Path

from duly_logs.bag import open_bag
from duly_logs.log import Log, LogError
from duly_logs.mcap_file import open_mcap


def open_log(path: Path) -> Log:
    """Opens an MCAP file, a .bag of ROS 1, or the folder of a bag of ROS 2. Raises LogError, OSError."""
    if not path.exists():
        raise FileNotFoundError(2, "no such file or folder", str(path))
    if path.suffix == ".db3" and path.is_file():
        raise LogError(f"{path}: a part of a bag of ROS 2; give its folder, {path.parent}, which has a metadata.yaml")
    return open_bag(path) if path.is_dir() or path.suffix == ".bag" else open_mcap(path)
