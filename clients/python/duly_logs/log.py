"""What a log is, whatever kind of file it comes from: channels, and messages in the order of their writing."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class LogError(ValueError):
    """The log, or a part of it, cannot be read, or does not fit the model. The message names it and what would do."""


@dataclass(frozen=True, slots=True)
class Channel:
    """The messages of one publisher on one topic."""

    topic: str
    schema: str
    """The schema's name; empty: there is none."""
    message_encoding: str
    """How messages are encoded: cdr, protobuf, json, ..."""
    schema_encoding: str = ""
    schema_data: bytes = field(default=b"", repr=False)
    messages: int = 0
    """How many messages there are."""
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)


class Logged(NamedTuple):
    """One message as it lies in the log."""

    channel: Channel
    time_ns: int
    """When it was logged, ns since 1970 by the clock of the recorder."""
    data: bytes


@dataclass(frozen=True, slots=True)
class Log:
    """A log that was opened. Messages can be read as often as one likes."""

    path: Path
    channels: tuple[Channel, ...]
    damage: str
    """What is wrong with it although a part can be read, and what would be right; empty: nothing."""
    _messages: Callable[[str], Iterator[Logged]]

    def messages(self, topic: str) -> Iterator[Logged]:
        """The messages on a topic, in the order in which they were written. Raises LogError where the log is damaged,
        after all that could be read before.
        """
        return self._messages(topic)

    @property
    def topics(self) -> dict[str, list[Channel]]:
        """Channels by their topic, in the order of names."""
        found: dict[str, list[Channel]] = {}
        for channel in sorted(self.channels, key=lambda channel: channel.topic):
            found.setdefault(channel.topic, []).append(channel)
        return found
