"""What a robot logged on one topic: when its messages came, and what they hold (`duly_logs.messages`).

Out of scope: bags, and logs without an index. `duly replay` reads these.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from duly_logs.log import Channel, LogError

if TYPE_CHECKING:
    from mcap.reader import McapReader
    from mcap.summary import Summary

    from duly_logs.messages import Message

MESSAGES_MAX = 2**20
"""The most messages of one topic whose times are read."""


@lru_cache(maxsize=32)
def _times_ns(file: Path, topic: str, changed_ns: int) -> NDArray[np.int64]:
    del changed_ns  # of the file: another one is read anew
    with _opened(file) as (reader, summary):
        topic = _chosen(summary, topic)
        if summary.statistics is None:
            raise LogError("has no statistics at its end; `mcap recover` makes a whole log of it")
        begin_ns = summary.statistics.message_start_time
        logged = reader.iter_messages(topics=[topic])
        times_ns = np.fromiter((message.log_time - begin_ns for *_, message in islice(logged, MESSAGES_MAX)), np.int64)
        if next(logged, None) is not None:
            raise LogError(f"has more than {MESSAGES_MAX} messages on {topic}")
        if not len(times_ns):
            raise LogError(f"has no messages on {topic}")
    times_ns.setflags(write=False)
    return times_ns


def message_times_ns(file: Path, topic: str) -> NDArray[np.int64]:
    """When messages of `topic` were logged, ns since the log's first message, of whatever topic: so sensors of one log
    keep their phases. `topic` may be empty where the log has only one. Raises LogError, OSError.
    """
    return _times_ns(file, topic, file.stat().st_mtime_ns)


def read_messages(file: Path, topic: str, count: int) -> "Iterator[Message]":
    """The first `count` messages of `topic` in the order of time, decoded; `topic` may be empty where the log has only
    one. Raises LogError, OSError.
    """
    try:
        from duly_logs.messages import Decoder
    except ImportError as error:
        raise LogError(
            "reading messages needs the packages mcap-protobuf-support and mcap-ros2-support: pip install 'duly[load]'"
        ) from error
    decoder, channels = Decoder(), dict[int, Channel]()
    with _opened(file) as (reader, summary):
        for schema, channel, message in islice(reader.iter_messages(topics=[_chosen(summary, topic)]), count):
            if channel.id not in channels:
                described = (schema.name, channel.message_encoding, schema.encoding, schema.data) if schema else ()
                channels[channel.id] = Channel(channel.topic, *(described or ("", channel.message_encoding)))
            yield decoder.decode(channels[channel.id], message.data)


@contextmanager
def _opened(file: Path) -> "Iterator[tuple[McapReader, Summary]]":
    try:
        from mcap.reader import SeekingReader
    except ImportError as error:
        raise LogError("reading .mcap needs the package mcap: pip install 'duly[load]'") from error
    with file.open("rb") as content:
        try:
            reader = SeekingReader(content)
            summary = reader.get_summary()
            if summary is None or not summary.chunk_indexes:
                raise LogError("has no messages, or no index of them; `mcap recover` makes a log with an index of it")
            yield reader, summary
        except (LogError, OSError):
            raise
        except Exception as error:  # of the container and of two decompressors, none of which says what it raises
            said = str(error) or type(error).__name__
            raise LogError(f"is damaged or no MCAP ({said}); `mcap doctor` says more") from error


def _chosen(summary: "Summary", topic: str) -> str:
    topics = sorted({channel.topic for channel in summary.channels.values()})
    if topic in topics:
        return topic
    if not topic and len(topics) == 1:
        return topics[0]
    shown = ", ".join([*topics[:20], *(["..."] if len(topics) > 20 else [])]) or "none"
    raise LogError(f"{f'has no topic {topic!r}' if topic else 'needs a topic'}; it has {shown}")
