"""`duly demo street`: a camera and a microphone, each at the rate of its recording, on one machine."""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from duly.demo import darknet
from duly.demo.clips import Clip, read_clip
from duly.demo.description import Demo, Files
from duly.demo.perception import Hearing, Sight
from duly.demo.sensors import Sensor
from duly.demo.summary import heard, milliseconds, perceived
from duly_client import Client, Status, StreamTerms
from duly_client.types import BacklogPolicy, StreamClass

YOLO_ASSETS = ("yolov2-tiny.cfg", "yolov2-tiny.weights", "coco.names")
MODEL_ASSETS = (*YOLO_ASSETS, "silero_vad.onnx")
"""Names in `assets.ASSETS` of what the models are made of."""
CLIP_ASSETS = ("bikes.mp4", "sample.wav", "sample.rttm")
"""Names in `assets.ASSETS` of what the clips are made of."""
CAMERA_FRAMES = (30, 241)
"""First frame of bikes.mp4 that is used, and the one behind the last: a street with cars and people. Other scenes come
before and after it."""
MICROPHONE_CHUNKS = (156, 937)
"""First chunk of sample.wav that is used, and the one behind the last: all but the first five seconds, in which nobody
speaks."""

CAMERA_BUDGET_MS = 250.0
MICROPHONE_BUDGET_MS = 200.0
RUNS_IN_BUDGET = 4
"""On a slow machine a budget is this many planned runs of a picture. A frame may have to wait for one run before its
own; the other two allow for plans that grow because something else keeps the machine busy."""

_NS = 1_000_000_000


def make_yolo(files: Files, models: Path) -> None:
    """Puts the detector into the repository `models`."""
    shutil.copyfile(files["coco.names"], models / "yolo/coco.names")
    darknet.convert(files["yolov2-tiny.cfg"], files["yolov2-tiny.weights"], models / "yolo/1/model.onnx")


def _make(files: Files, models: Path) -> None:
    make_yolo(files, models)
    shutil.copyfile(files["silero_vad.onnx"], models / "vad/1/model.onnx")


# ---- clips and sensors ----


@dataclass(frozen=True, slots=True)
class Clips:
    """The recordings in a street."""

    camera: Clip
    """JPEG pictures, for the model yolo."""
    camera_terms: StreamTerms
    """Terms of a stream to yolo."""
    microphone: Clip
    """Chunks of PCM_S16LE, for the model vad."""
    speech: list[bool]
    """For each chunk, whether somebody truly speaks in it."""


async def load_clips(client: Client, files: Files) -> Clips:
    """Reads the clips, in the form that the server's models take, which takes a second.

    Raises:
        DulyError: the server does not serve the models.
    """
    async with client.stream("yolo") as camera, client.stream("vad") as microphone:
        pictures = await asyncio.to_thread(read_clip, files["bikes.mp4"], camera.opened, *CAMERA_FRAMES)
        sound = await asyncio.to_thread(read_clip, files["sample.wav"], microphone.opened, *MICROPHONE_CHUNKS)
        terms = camera.opened
    turns = speaker_turns(files["sample.rttm"].read_text("utf-8"))
    speech = [_speaks(turns, index, sound.period_ns) for index in range(*MICROPHONE_CHUNKS)]
    return Clips(pictures, terms, sound, speech)


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


def labels_of(terms: StreamTerms) -> tuple[str, ...]:
    """Names of the classes that the detector knows."""
    return next(output.labels for output in terms.outputs if output.labels)


def camera(
    clips: Clips,
    name: str = "camera",
    *,
    planned_ns: int,
    period_ns: int,
    phase_ns: int = 0,
    stream_class: StreamClass = "STANDARD",
    backlog: BacklogPolicy = "LATEST",
    watched: bool = True,
) -> Sensor:
    """A sensor that sends in each period the picture that the clip shows at that time. `planned_ns`: planned execution
    time of a picture, which bounds the budget from below. `watched`: what it sees is put into words.
    """
    sight = Sight(labels_of(clips.camera_terms)) if watched else None
    budget = budget_ms(CAMERA_BUDGET_MS, planned_ns)
    return Sensor(name, "yolo", clips.camera, period_ns, phase_ns, budget, stream_class, backlog, sight)


def microphone(clips: Clips, *, planned_ns: int) -> Sensor:
    """A sensor that sends every chunk of the clip, at the clip's rate. `planned_ns`: that of the pictures beside it."""
    clip = clips.microphone
    budget, hearing = budget_ms(MICROPHONE_BUDGET_MS, planned_ns), Hearing(clips.speech)
    return Sensor("microphone", "vad", clip, clip.period_ns, 0, budget, "CRITICAL", "ALL", hearing)


def budget_ms(least_ms: float, planned_ns: int) -> float:
    """A budget of at least `least_ms` that pictures beside the stream, of `planned_ns` each, leave within reach."""
    return max(least_ms, round(RUNS_IN_BUDGET * planned_ns / 1e6))


async def _sensors(client: Client, files: Files) -> list[Sensor]:
    clips = await load_clips(client, files)
    planned_ns = clips.camera_terms.planned_latency_ns
    eye = camera(clips, period_ns=clips.camera.period_ns, planned_ns=planned_ns)
    return [eye, microphone(clips, planned_ns=planned_ns)]


# ---- words ----


def _words(sensors: list[Sensor], seconds: float) -> str:
    eye, ear = sensors
    return (
        f"Streaming for {seconds:g} s: a camera with {eye.rate_hz:g} pictures a second, each wanted within "
        f"{eye.budget_ms:g} ms of its capture, and a microphone with {ear.rate_hz:g} chunks of sound a second, "
        f"each wanted within {ear.budget_ms:g} ms."
    )


def _summary(sensors: list[Sensor]) -> dict[str, str]:
    eye, ear = sensors
    return {"camera": watched(eye), "microphone": heard(ear)}


def watched(sensor: Sensor) -> str:
    """Says how many pictures were looked at in time, and what was in them."""
    tally = sensor.tally
    superseded = tally.by_status[Status.SUPERSEDED]
    sentences = [f"{tally.on_time:,} of {tally.sent:,} pictures were looked at in time."]
    if superseded:
        sentences.append(f"{superseded:,} were superseded: a newer one took the place of one that still waited.")
    if tally.run_mean_ns is not None and tally.run_mean_ns > sensor.period_ns:
        sentences.append(
            f"That is as it should be: a picture comes every {milliseconds(sensor.period_ns)} and takes "
            f"{milliseconds(tally.run_mean_ns)} here, and the newest is worth most."
        )
    if tally.age_mean_ns is not None:
        sentences.append(f"The newest result was {milliseconds(tally.age_mean_ns)} old on average.")
    dropped = tally.by_status[Status.EXPIRED] + tally.by_status[Status.SHED]
    if dropped:
        sentences.append(f"{dropped:,} could no longer be done in time, and were not run.")
    return " ".join((*sentences, perceived(sensor)))


DEMO = Demo(
    name="street",
    assets=(*MODEL_ASSETS, *CLIP_ASSETS),
    models=("yolo", "vad"),
    made_by=(Path(darknet.__file__), Path(__file__)),
    make=_make,
    sensors=_sensors,
    words=_words,
    summary=_summary,
)
