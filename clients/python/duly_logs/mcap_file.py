"""MCAP files (https://mcap.dev/spec): whole ones by their index, others from their beginning as far as they go."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import lz4.frame
import zstandard
from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.reader import SeekingReader
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.summary import Summary

from duly_logs.log import Channel, Log, LogError, Logged

RECORD_BYTES_MAX = 1 << 30
"""The longest record that is read; chunks of recorders have some megabytes."""
CHUNK_BYTES_MAX = 256 << 20
"""The most that a chunk is unpacked to; a few kilobytes could hold gigabytes otherwise."""
MAGIC = b"\x89MCAP0\r\n"
RECOVER = "`mcap recover` makes a whole log of what is left"


def open_mcap(path: Path) -> Log:
    """Opens an MCAP file. One that is cut off is read as far as it goes, and `Log.damage` says so. Raises LogError
    where nothing of it can be read, and OSError.
    """
    with path.open("rb") as file:
        head = file.read(len(MAGIC))
        if head != MAGIC:
            raise LogError(f"{path}: {f'begins with {head!r}, which is no MCAP' if head else 'an empty file'}")
        summary = _summary(file)
        if summary is not None and summary.statistics is not None and summary.chunk_indexes:
            counts = summary.statistics.channel_message_counts
            channels = {number: _channel(found, summary.schemas) for number, found in summary.channels.items()}
            chunks = sorted(summary.chunk_indexes, key=lambda index: index.chunk_start_offset)
            return Log(path, _counted(channels, counts), "", lambda topic: _indexed(path, topic, channels, chunks))
        file.seek(0)
        channels, counted, damage = _looked_through(file)
    if damage:
        damage = f"{path}: cut off or damaged after {counted.total()} messages ({damage}); {RECOVER}"
    if damage and not counted:
        raise LogError(damage)
    return Log(path, _counted(channels, counted), damage, lambda topic: _from_the_beginning(path, topic))


def _summary(file: IO[bytes]) -> Summary | None:
    """What stands at the end of a whole log; None: it cannot be read."""
    try:
        file.seek(0)
        return SeekingReader(file, record_size_limit=RECORD_BYTES_MAX).get_summary()
    except Exception:  # the library does not say what it raises; the log is read from its beginning instead
        return None


def _channel(found: records.Channel, schemas: dict[int, records.Schema]) -> Channel:
    schema = schemas.get(found.schema_id)
    named = (schema.name, schema.encoding, schema.data) if schema else ("", "", b"")
    return Channel(found.topic, named[0], found.message_encoding, named[1], named[2], 0, found.metadata)


def _counted(channels: dict[int, Channel], counts: dict[int, int] | Counter[int]) -> tuple[Channel, ...]:
    return tuple(
        Channel(c.topic, c.schema, c.message_encoding, c.schema_encoding, c.schema_data, counts.get(n, 0), c.metadata)
        for n, c in channels.items()
    )


def _looked_through(file: IO[bytes]) -> tuple[dict[int, Channel], Counter[int], str]:
    """Channels, numbers of messages, and what ended the reading too soon."""
    channels: dict[int, Channel] = {}
    counted: Counter[int] = Counter()
    try:
        for number, channel, message in _read(file):
            channels.setdefault(number, channel)
            if message is not None:
                counted[number] += 1
    except Exception as error:  # of the container and of two decompressors, none of which says what it raises
        return channels, counted, _said(error)
    return channels, counted, ""


def _read(file: IO[bytes]) -> Iterator[tuple[int, Channel, records.Message | None]]:
    """Channels as they are declared, and messages, from the beginning."""
    schemas: dict[int, records.Schema] = {}
    channels: dict[int, Channel] = {}
    for record in _records(file):
        if isinstance(record, records.Schema):
            schemas[record.id] = record
        elif isinstance(record, records.Channel) and record.id not in channels:
            channels[record.id] = _channel(record, schemas)
            yield record.id, channels[record.id], None
        elif isinstance(record, records.Message):
            yield record.channel_id, channels[record.channel_id], record


def _records(file: IO[bytes]) -> Iterator[records.McapRecord]:
    """All records, those in chunks in place of the chunks."""
    reader = StreamReader(file, emit_chunks=True, validate_crcs=True, record_size_limit=RECORD_BYTES_MAX)
    for record in reader.records:
        if isinstance(record, records.Chunk):
            yield from _unpacked(record)
        else:
            yield record


def _unpacked(chunk: records.Chunk) -> list[records.McapRecord]:
    """The records of a chunk. Raises ValueError where it holds more than it states or than is read, and what the
    decompressors raise.
    """
    size_bytes = chunk.uncompressed_size
    if size_bytes > CHUNK_BYTES_MAX:
        raise ValueError(f"a chunk of {size_bytes} bytes, at most {CHUNK_BYTES_MAX} are read")
    data = chunk.data
    if chunk.compression == "zstd":
        with zstandard.ZstdDecompressor().stream_reader(data) as unpacked:
            data = unpacked.read(size_bytes + 1)
    elif chunk.compression == "lz4":
        data = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size_bytes + 1)
    elif chunk.compression:
        raise ValueError(f"a chunk is compressed as {chunk.compression[:32]!r}; zstd and lz4 are read")
    if len(data) > size_bytes:
        raise ValueError(f"a chunk holds more than the {size_bytes} bytes that it states")
    return breakup_chunk(replace(chunk, compression="", data=data), validate_crc=True)


def _from_the_beginning(path: Path, topic: str) -> Iterator[Logged]:
    with path.open("rb") as file:
        messages = _read(file)
        while True:
            try:
                _, channel, message = next(messages)
            except StopIteration:
                return
            except Exception:  # `Log.damage` has told so
                return
            if message is not None and channel.topic == topic:
                yield Logged(channel, message.log_time, message.data)


def _indexed(
    path: Path, topic: str, channels: dict[int, Channel], chunks: list[records.ChunkIndex]
) -> Iterator[Logged]:
    """Chunk by chunk, of which one is in memory at a time, and only those that have messages on the topic."""
    wanted = {number for number, channel in channels.items() if channel.topic == topic}
    given = 0
    with path.open("rb") as file:
        for index in chunks:
            offsets = index.message_index_offsets
            if offsets and wanted.isdisjoint(offsets):
                continue
            try:
                file.seek(index.chunk_start_offset + 1 + 8)  # behind the record's kind and length
                found = _unpacked(records.Chunk.read(ReadDataStream(file)))
            except Exception as error:  # as above
                told = f"{path}: damaged after {given} messages on {topic} ({_said(error)}); {RECOVER}"
                raise LogError(told) from error
            for record in found:
                if isinstance(record, records.Message) and record.channel_id in wanted:
                    given += 1
                    yield Logged(channels[record.channel_id], record.log_time, record.data)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def metadata_of(path: Path, name: str) -> dict[str, str]:
    """The metadata record of this name; empty: there is none, or the log is cut off before it."""
    try:
        with path.open("rb") as file:
            for found in SeekingReader(file, record_size_limit=RECORD_BYTES_MAX).iter_metadata():
                if found.name == name:
                    return dict(found.metadata)
    except OSError:
        raise
    except Exception:  # what the library raises of a log that is cut off
        return {}
    return {}
