"""Bags of ROS: folders of ROS 2 (SQLite or MCAP) and files of ROS 1, through `rosbags`, without ROS.

Messages of ROS 1 are given as ROS 2 would have written them, with the definitions that stand in the bag.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duly_logs.log import Channel, Log, LogError, Logged

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

BAG_PARTS = (".db3", ".mcap")
"""Files of a bag of ROS 2."""


def open_bag(path: Path) -> Log:
    """Opens a folder of ROS 2 or a .bag of ROS 1. Raises LogError where it is none, or is damaged."""
    if path.is_dir() and not (path / "metadata.yaml").exists():
        parts = sorted(file.name for file in path.iterdir() if file.suffix in BAG_PARTS)
        if not parts:
            raise LogError(f"{path}: a folder without metadata.yaml, which is no bag of ROS 2")
        alone = f", or give {path / parts[0]} alone" if parts[0].endswith(".mcap") else ""
        raise LogError(f"{path}: a bag without metadata.yaml: `ros2 bag reindex {path}` makes it anew{alone}")
    with _opened(path) as reader:
        channels = {connection.id: _channel(reader, connection) for connection in reader.connections}
    return Log(path, tuple(channels.values()), "", lambda topic: _messages(path, topic, channels))


def _opened(path: Path) -> "AnyReader":
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import Stores, get_typestore

    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.LATEST))
        reader.open()
    except (AnyReaderError, OSError, ValueError, KeyError) as error:
        raise LogError(f"{path}: no bag of ROS that can be read ({str(error) or type(error).__name__})") from error
    reader.close()
    return reader


def _channel(reader: "AnyReader", connection: Any) -> Channel:
    try:
        text = str(reader.typestore.generate_msgdef(connection.msgtype, ros_version=2)[0])
    except Exception:  # the bag does not define the type, and `rosbags` does not know it; the decoder says so
        text = ""
    encoding = ("ros2msg", text.encode()) if text else ("", b"")
    return Channel(connection.topic, connection.msgtype, "cdr", *encoding, connection.msgcount)


def _messages(path: Path, topic: str, channels: dict[int, Channel]) -> Iterator[Logged]:
    given = 0
    with _opened(path) as reader:
        wanted = [connection for connection in reader.connections if connection.topic == topic]
        messages = reader.messages(connections=wanted)
        while wanted:
            try:
                connection, time_ns, data = next(messages)
                if not reader.is2:
                    data = bytes(reader.typestore.ros1_to_cdr(data, connection.msgtype))
            except StopIteration:
                return
            except Exception as error:  # of SQLite, of decompressors, of the library
                said = str(error) or type(error).__name__
                raise LogError(f"{path}: damaged after {given} messages on {topic} ({said})") from error
            given += 1
            yield Logged(channels[connection.id], time_ns, bytes(data))
