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
"""Names in `assets.ASSETS` of what the clips are made of."""
CAMERA_FRAMES = (30, 241)
"""First frame of bikes.mp4 that is used, and the one behind the last: a street with cars and people. Other scenes come
before and after it."""
MICROPHONE_CHUNKS = (156, 937)
"""First chunk of sample.wav that is used, and the one behind the last: all but the first five seconds, in which nobody
speaks."""

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording in memory, at the rate of its sensor; it begins again when it ends."""

    payloads: list[Payload]
    period_ns: int
    encoding: Encoding | None
    terms: StreamTerms
    """Terms of a stream to the model that the clip is for: what it takes and gives."""

    def at(self, elapsed_ns: int) -> tuple[int, Payload]:
        """Index and payload of what the sensor captures `elapsed_ns` after its start."""
        index = elapsed_ns // self.period_ns % len(self.payloads)
        return index, self.payloads[index]


@dataclass(frozen=True, slots=True)
class Clips:
    """All recordings of the demo."""

    camera: Clip
    """JPEG pictures, for the model yolo."""
    microphone: Clip
    """Chunks of PCM_S16LE, for the model vad."""
    speech: list[bool]
    """For each chunk, whether somebody truly speaks in it."""


async def load_clips(client: Client) -> Clips:
    """Reads the clips, in the form that the server's models take, which takes a second.

    Raises:
        AssetError: a recording cannot be fetched.
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
    """Begin and end of each speaker turn in a Rich Transcription Time Marked file (NIST, 2009), ns."""
    turns = []
    for line in rttm.splitlines():
        fields = line.split()
        if fields and fields[0] == "SPEAKER":
            begin_ns = round(float(fields[3]) * _NS)
            turns.append((begin_ns, begin_ns + round(float(fields[4]) * _NS)))
    return turns


def _speaks(turns: list[tuple[int, int]], index: int, period_ns: int) -> bool:
    """Whether the middle of the chunk lies in a turn."""
    middle_ns = index * period_ns + period_ns // 2
    return any(begin_ns <= middle_ns < end_ns for begin_ns, end_ns in turns)
