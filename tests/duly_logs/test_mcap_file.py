"""MCAP files as recorders write them, and as they are found after a power cut."""

import struct
import tracemalloc
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from duly_logs.log import LogError
from duly_logs.opening import open_log
from tests.duly_logs.drives import CAMERA, START_NS, pictures, ros2_drive, times


@pytest.mark.parametrize("compression", list(CompressionType))
def test_whole_logs_are_read_by_their_index(tmp_path: Path, compression: CompressionType) -> None:
    jpegs = pictures(30)
    log = open_log(ros2_drive(tmp_path / "drive.mcap", jpegs, compression=compression, chunk_size=2000))
    assert not log.damage
    assert {topic: channels[0].messages for topic, channels in log.topics.items()} == {CAMERA: 30, "/imu": 300}
    messages = list(log.messages(CAMERA))
    assert [message.time_ns for message in messages] == times(30)
    assert all(jpeg in message.data for jpeg, message in zip(jpegs, messages, strict=True))
    assert messages[0].channel.schema == "sensor_msgs/msg/CompressedImage"


def test_messages_come_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    """The clock of the recorder was set back between two of them."""
    at_ns = [START_NS, START_NS + 10**8, START_NS - 10**12, START_NS - 10**12 + 10**8]
    log = open_log(ros2_drive(tmp_path / "drive.mcap", pictures(4), at_ns, imu=False, chunk_size=1))
    assert [message.time_ns for message in log.messages(CAMERA)] == at_ns


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.9999])
def test_a_log_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path, share: float) -> None:
    file = ros2_drive(tmp_path / "drive.mcap", pictures(40), imu=False, chunk_size=1000)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    log = open_log(file)
    count = log.channels[0].messages
    assert 5 < count <= 40
    assert log.damage.startswith(f"{file}: cut off or damaged after {count} messages (")
    assert log.damage.endswith("`mcap recover` makes a whole log of what is left")
    assert [message.time_ns for message in log.messages(CAMERA)] == times(40)[:count]


def test_a_log_without_an_index_is_read_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "plain.mcap"
    with file.open("wb") as out:
        writer = McapWriter(
            out, use_chunking=False, use_statistics=False, use_summary_offsets=False, repeat_channels=False
        )
        writer.start()
        channel = writer.register_channel("/a", "json", 0)
        for number in range(3):
            writer.add_message(channel, number, b"{}", number)
        writer.finish()
    log = open_log(file)
    assert (log.damage, log.channels[0].messages) == ("", 3)
    assert [message.time_ns for message in log.messages("/a")] == [0, 1, 2]
    assert list(log.messages("/b")) == []


def test_a_damaged_chunk_ends_the_reading_and_is_named(tmp_path: Path) -> None:
    file = ros2_drive(tmp_path / "drive.mcap", pictures(20), imu=False, chunk_size=1000)
    with file.open("rb") as opened:
        summary = make_reader(opened).get_summary()
    assert summary is not None
    chunk = summary.chunk_indexes[len(summary.chunk_indexes) // 2]
    data = bytearray(file.read_bytes())
    data[chunk.chunk_start_offset + chunk.chunk_length // 2] ^= 0xFF
    file.write_bytes(data)
    read = []
    messages = map(read.append, open_log(file).messages(CAMERA))
    with pytest.raises(LogError, match=rf"damaged after \d+ messages on {CAMERA} \(.+\); `mcap recover`"):
        list(messages)
    assert 0 < len(read) < 20


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "an empty file"),
        (b"PK\3\4 a zip archive", r"begins with b'PK.*', which is no MCAP"),
        (b"\x89MCAP0\r\n", "cut off or damaged after 0 messages"),
        (b"\x89MCAP0\r\n" + struct.pack("<BQ", 6, 2**62), "cut off or damaged after 0 messages"),
    ],
)
def test_what_is_no_log_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "drive.mcap"
    file.write_bytes(content)
    with pytest.raises(LogError, match=why):
        open_log(file)


def test_there_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_log(tmp_path / "drive.mcap")


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("stated_bytes", [1000, 1 << 40])
@pytest.mark.parametrize("whole", [True, False])
def test_a_chunk_that_unpacks_to_far_more_is_not_unpacked(
    tmp_path: Path, compression: str, stated_bytes: int, whole: bool
) -> None:
    """4 KB that would be a message of 64 MB, in a log with and without its index."""
    file = tmp_path / "bomb.mcap"
    zeros = bytes(64 << 20)
    packed = zstandard.compress(zeros) if compression == "zstd" else lz4.frame.compress(zeros)
    name = compression.encode()
    fields = struct.pack("<QQQII", 7, 7, stated_bytes, 0, len(name)) + name + struct.pack("<Q", len(packed)) + packed
    chunk = b"\x06" + struct.pack("<Q", len(fields)) + fields
    with file.open("wb") as out:
        writer = McapWriter(out, compression=CompressionType.NONE)
        writer.start()
        channel = writer.register_channel("/a", "json", 0)
        writer.add_message(channel, 7, b"{}", 7)
        writer.add_attachment(7, 7, "bomb", "", chunk)
        writer.finish()
    with file.open("rb") as written:
        summary = make_reader(written).get_summary()
    assert summary is not None
    (index,) = summary.chunk_indexes
    at, length = index.chunk_start_offset, index.chunk_length
    data = file.read_bytes()
    if whole:  # its index says that the chunk is where the attachment is
        there = struct.pack("<QQ", data.index(chunk), len(chunk))
        data = data.replace(struct.pack("<QQ", at, length), there)
    else:
        data = data[:at] + chunk
    file.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(LogError, match="damaged after 0 messages"):
            list(open_log(file).messages("/a"))
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
