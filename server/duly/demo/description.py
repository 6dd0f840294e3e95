"""What a demo is: its data, how its models are made of them, what streams, and what it says at the end."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from duly.demo.sensors import Sensor
from duly.demo.serving import Event
from duly_client import Client

Files = Mapping[str, Path]
"""Where each asset lies, by its name."""


@dataclass(frozen=True, slots=True)
class Demo:
    """One demo. `duly.demo.run` runs each of them alike."""

    name: str
    assets: tuple[str, ...]
    """Names in `assets.ASSETS` of all that it needs."""
    models: tuple[str, ...]
    """Folders below `models/` whose `model.toml`, and what lies beside it, begin the repository."""
    made_by: tuple[Path, ...]
    """Source files that decide what the models are. Where one changes, the models are made anew."""
    make: Callable[[Files, Path], None]
    """Puts the graphs into the repository: `make(files, folder)`. It is seeded and takes seconds."""
    sensors: Callable[[Client, Files], Awaitable[list[Sensor]]]
    """What streams, and the ground truth by which it is judged. Nothing of it was trained on."""
    words: Callable[[list[Sensor], float], str]
    """What is shown before: `words(sensors, seconds)` says what streams, and what of it is real."""
    summary: Callable[[list[Sensor]], dict[str, str]]
    """The paragraphs of the summary by their headings."""
    learnt: Callable[[list[Sensor], Sequence[Event]], dict[str, str]] | None = None
    """Where it is given, the server learns from the labels of the sensors, and this says what came of it, by what the
    server's log told. The repository is a copy then, as new versions come into it."""
