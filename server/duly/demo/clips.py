"""The demo's recordings, as the sensors stream them: a camera in a street, a microphone in a conversation."""

import asyncio
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from duly.demo.assets import fetch
from duly_client import Client, StreamTerms
from duly_client.recordings import open_recording
from duly_client.types import Encoding, Payload

CLIP_ASSETS = ("bikes.mp4", "sample.wav", "sample.rttm")
"""What the clips are made of, as named in `assets.ASSETS`."""
CAMERA_FRAMES = (30, 241)
"""Of bikes.mp4: a street with cars and people. What comes before and after is other scenes."""
MICROPHONE_CHUNKS = (156, 937)
"""Of sample.wav: all but its first five seconds, in which nobody speaks."""

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording in memory, at the rate of its sensor; it begins again when it ends."""

    payloads: list[Payload]
    period_ns: int
    encoding: Encoding | None
    terms: StreamTerms
    """What the model that it is for takes and gives."""

    def at(self, elapsed_ns: int) -> tuple[int, Payload]:
        """What the sensor captures so long after its start, and which of the payloads that is."""
        index = elapsed_ns // self.period_ns % len(self.payloads)
        return index, self.payloads[index]


@dataclass(frozen=True, slots=True)
class Clips:
    camera: Clip
    """JPEG pictures, for the model yolo."""
    microphone: Clip
    """Chunks of PCM_S16LE, for the model vad."""
    speech: list[bool]
    """The truth: whether somebody speaks, for each chunk."""


async def load_clips(client: Client) -> Clips:
    """The clips, in the form that the server's models take. It takes a second.

    Raises:
        AssetError: a recording can't be had.
        DulyError: the server does not serve the models.
    """
    files = await asyncio.to_thread(fetch, CLIP_ASSETS)
    async with client.stream("yolo") as camera, client.stream("vad") as microphone:
        pictures = await asyncio.to_thread(_read, files["bikes.mp4"], camera.opened, *CAMERA_FRAMES)
        sound = await asyncio.to_thread(_read, files["sample.wav"], microphone.opened, *MICROPHONE_CHUNKS)
    turns = speaker_turns(files["sample.rttm"].read_text("utf-8"))
    speech = [_speaks(turns, index, sound.period_ns) for index in range(*MICROPHONE_CHUNKS)]
    return Clips(pictures, sound, speech)


def _read(path: Path, terms: StreamTerms, start: int, stop: int) -> Clip:
    recording = open_recording(path, terms)
    return Clip(list(islice(recording, start, stop)), round(recording.period_s * _NS), recording.encoding, terms)


def speaker_turns(rttm: str) -> list[tuple[int, int]]:
    """Begin and end of each speaker turn, ns, of a Rich Transcription Time Marked file (NIST, 2009)."""
    turns = []
    for line in rttm.splitlines():
        fields = line.split()
        if fields and fields[0] == "SPEAKER":
            begin_ns = round(float(fields[3]) * _NS)
            turns.append((begin_ns, begin_ns + round(float(fields[4]) * _NS)))
    return turns


def _speaks(turns: list[tuple[int, int]], index: int, period_ns: int) -> bool:
    """Whether the middle of that chunk lies in a turn."""
    middle_ns = index * period_ns + period_ns // 2
    return any(begin_ns <= middle_ns < end_ns for begin_ns, end_ns in turns)
