"""Bags of ROS: folders of ROS 2 (SQLite or MCAP) and files of ROS 1, through `rosbags`, without ROS.

Messages of ROS 1 are given as ROS 2 would have written them, by the definitions that stand in the bag.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duly_logs.log import Channel, Log, LogError, Logged

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys.store import Typestore

BAG_PARTS = (".db3", ".mcap")
"""Files of a bag of ROS 2."""

_HEADER = "std_msgs/msg/Header"


def open_bag(path: Path) -> Log:
    """Opens a folder of ROS 2 or a .bag of ROS 1. Raises LogError where it is none, or is damaged."""
    if path.is_dir() and not (path / "metadata.yaml").exists():
        parts = sorted(file.name for file in path.iterdir() if file.suffix in BAG_PARTS)
        if not parts:
            raise LogError(f"{path}: a folder without metadata.yaml, which is no bag of ROS 2")
        alone = f", or give {path / parts[0]} alone" if parts[0].endswith(".mcap") else ""
        raise LogError(f"{path}: a bag without metadata.yaml: `ros2 bag reindex {path}` makes it anew{alone}")
    with _opened(path) as reader:
        store = _ros2_store(reader)
        channels = {connection.id: _channel(store, connection) for connection in reader.connections}
    return Log(path, tuple(channels.values()), "", lambda topic: _messages(path, topic, channels))


def _opened(path: Path) -> "AnyReader":
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import Stores, get_typestore

    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.LATEST))
        reader.open()
    except (AnyReaderError, OSError, ValueError, KeyError, TypeError) as error:
        raise LogError(f"{path}: no bag of ROS that can be read ({str(error) or type(error).__name__})") from error
    reader.close()
    return reader


def _ros2_store(reader: "AnyReader") -> "Typestore":
    """The types as ROS 2 has them: a header of ROS 1 counts messages, one of ROS 2 does not."""
    from rosbags.typesys import Stores, get_typestore

    if reader.is2:
        return reader.typestore
    types = dict(reader.typestore.fielddefs)
    if _HEADER in types:
        constants, fields = types[_HEADER]
        types[_HEADER] = (constants, [field for field in fields if field[0] != "seq"])
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store


def _channel(store: "Typestore", connection: Any) -> Channel:
    try:
        text = str(store.generate_msgdef(connection.msgtype, ros_version=2)[0])
    except Exception:  # the bag does not define the type, and `rosbags` does not know it; the decoder says so
        text = ""
    encoding = ("ros2msg", text.encode()) if text else ("", b"")
    return Channel(connection.topic, connection.msgtype, "cdr", *encoding, connection.msgcount)


def _messages(path: Path, topic: str, channels: dict[int, Channel]) -> Iterator[Logged]:
    from rosbags.convert.converter import migrate_bytes

    given = 0
    made: dict[str, object] = {}
    with _opened(path) as reader:
        store = _ros2_store(reader)
        wanted = [connection for connection in reader.connections if connection.topic == topic]
        messages = reader.messages(connections=wanted)
        while wanted:
            try:
                connection, time_ns, data = next(messages)
                if not reader.is2:
                    kind = connection.msgtype
                    data = bytes(
                        migrate_bytes(reader.typestore, store, kind, kind, made, data, src_is2=False, dst_is2=True)
                    )
            except StopIteration:
                return
            except Exception as error:  # of SQLite, of decompressors, of the library
                said = str(error) or type(error).__name__
                raise LogError(f"{path}: damaged after {given} messages on {topic} ({said})") from error
            given += 1
            yield Logged(channels[connection.id], time_ns, bytes(data))
