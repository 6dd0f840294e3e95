"""Bags of ROS, written by `rosbags` as ROS itself writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from duly_logs.bag import open_bag
from duly_logs.log import LogError
from duly_logs.messages import Decoder, picture_of, stamp_ns
from duly_logs.opening import open_log
from tests.duly_logs.drives import CAMERA, pictures, times

TYPE = "sensor_msgs/msg/CompressedImage"


def image(store: Any, time_ns: int, jpeg: bytes, **more: int) -> Any:
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](sec=time_ns // 10**9, nanosec=time_ns % 10**9)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera", **more)
    return types[TYPE](header=header, format="jpeg", data=np.frombuffer(jpeg, np.uint8))


def ros2_bag(folder: Path, jpegs: list[bytes], storage: StoragePlugin, version: Any = 9) -> Path:
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Writer2(folder, version=version, storage_plugin=storage) as writer:
        connection = writer.add_connection(CAMERA, TYPE, typestore=store)
        for time_ns, jpeg in zip(times(len(jpegs)), jpegs, strict=True):
            writer.write(connection, time_ns, store.serialize_cdr(image(store, time_ns, jpeg), TYPE))
    return folder


def ros1_bag(file: Path, jpegs: list[bytes]) -> Path:
    store = get_typestore(Stores.ROS1_NOETIC)
    with Writer1(file) as writer:
        connection = writer.add_connection(CAMERA, TYPE, typestore=store)
        for number, (time_ns, jpeg) in enumerate(zip(times(len(jpegs)), jpegs, strict=True)):
            message = image(store, time_ns, jpeg, seq=number)
            writer.write(connection, time_ns, store.serialize_ros1(message, TYPE))
    return file


def read(path: Path) -> tuple[list[int], list[bytes], list[int]]:
    log, decoder = open_log(path), Decoder()
    messages = list(log.messages(CAMERA))
    decoded = [decoder.decode(message.channel, message.data) for message in messages]
    found = [picture_of(message) for message in decoded]
    assert all(isinstance(picture, bytes) for picture in found)
    return [message.time_ns for message in messages], found, [stamp_ns(message) for message in decoded]  # type: ignore[return-value]


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("version", [8, 9])
def test_ros2(tmp_path: Path, storage: StoragePlugin, version: int) -> None:
    """Version 8 of a bag in SQLite has no definitions of its types: they are those that ROS ships."""
    jpegs = pictures(5)
    folder = ros2_bag(tmp_path / "bag", jpegs, storage, version)
    assert read(folder) == (times(5), jpegs, times(5))
    assert open_log(folder).channels[0].messages == 5


def test_ros1(tmp_path: Path) -> None:
    jpegs = pictures(5)
    file = ros1_bag(tmp_path / "drive.bag", jpegs)
    assert read(file) == (times(5), jpegs, times(5))
    channel = open_log(file).channels[0]
    assert (channel.schema, channel.message_encoding, channel.schema_encoding) == (TYPE, "cdr", "ros2msg")


def test_a_folder_without_metadata_says_how_to_make_it(tmp_path: Path) -> None:
    folder = ros2_bag(tmp_path / "bag", pictures(2), StoragePlugin.SQLITE3)
    (folder / "metadata.yaml").unlink()
    with pytest.raises(LogError, match=rf"a bag without metadata.yaml: `ros2 bag reindex {folder}` makes it anew$"):
        open_log(folder)
    with pytest.raises(LogError, match="a part of a bag of ROS 2; give its folder"):
        open_log(next(folder.glob("*.db3")))


def test_the_mcap_of_a_bag_without_metadata_can_be_read_alone(tmp_path: Path) -> None:
    folder = ros2_bag(tmp_path / "bag", pictures(2), StoragePlugin.MCAP)
    (folder / "metadata.yaml").unlink()
    (part,) = folder.glob("*.mcap")
    with pytest.raises(LogError, match=rf", or give {part} alone$"):
        open_log(folder)
    assert read(part)[0] == times(2)


def test_what_is_no_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"a folder without metadata\.yaml, which is no bag of ROS 2"):
        open_bag(tmp_path)
    (tmp_path / "metadata.yaml").write_text("a: 1\n")
    with pytest.raises(LogError, match="no bag of ROS that can be read"):
        open_bag(tmp_path)
    file = tmp_path / "drive.bag"
    file.write_bytes(b"no bag at all")
    with pytest.raises(LogError, match="no bag of ROS that can be read"):
        open_log(file)


def test_a_bag_that_is_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    folder = ros2_bag(tmp_path / "bag", pictures(400), StoragePlugin.SQLITE3)
    (part,) = folder.glob("*.db3")
    data = bytearray(part.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    part.write_bytes(data)
    with pytest.raises(LogError, match=r"damaged after \d+ messages on|no bag of ROS"):
        list(open_log(folder).messages(CAMERA))
