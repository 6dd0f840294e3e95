"""Prints what detectors make of another time, and of other recordings, with the figures of docs/guards.md:

    python docs/measure_guards.py [yolo] [vad] [beats] [--street FILE] [--speech FILE] [--out FOLDER]

Each is fitted by `duly models optimize --guards` to the first part of a recording, and measured by `duly models guards`
on the part that comes after a pause: blocks of one recording that lie between others are like these, an hour later is
not. `--street` is a video of a camera that stands still, such as vtest.avi of Debian's opencv-doc, `--speech` a
recording of other people, such as those of Debian's pocketsphinx-testdata. It needs the extras demo and learn.
"""

import argparse
import shutil
import subprocess
import sys
import wave
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from measure_optimize import beats, vad, yolo

from duly.demo.assets import fetch

FIRST, LATER = 0.6, 0.65
"""Up to where a recording is fitted to, and from where it judges, as shares of it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="Models; none: all.")
    parser.add_argument("--street", type=Path, action="append", default=[], help="More recordings for yolo.")
    parser.add_argument("--speech", type=Path, action="append", default=[], help="Other recordings for vad.")
    parser.add_argument("--frames-max", default="300", help="Frames that are used of each part.")
    parser.add_argument("--out", type=Path, default=Path("build/guards"), help="Folder for models and parts.")
    given = parser.parse_args()
    for name in given.names or ("yolo", "vad", "beats"):
        folder = given.out / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "models").mkdir(parents=True)
        make = {"yolo": yolo, "vad": vad, "beats": beats}[name]
        recordings = make(folder / "models")
        if name == "yolo":
            recordings = [*given.street, *recordings, fetch(("carphone_pristine.mp4",))["carphone_pristine.mp4"]]
        for nth, recording in enumerate(recordings):
            print(f"## {name}, {recording.name}", flush=True)
            models = folder / f"models-{nth}"
            shutil.copytree(folder / "models", models)
            first, later = cut(recording, folder / f"parts-{nth}")
            command = ["optimize", str(models), name, "--guards", "--frames", str(first)]
            duly(*command, "--frames-max", given.frames_max, "--report", str(folder / f"{nth}.html"))
            for place in [later, *(given.speech if name == "vad" else ())]:
                print(f"### {place.name}", flush=True)
                measured = ["guards", str(models), name, "--frames", str(place), "--held-out", "1"]
                duly(*measured, "--frames-max", given.frames_max)


def duly(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "duly.cli", "models", *words], check=False)


def cut(recording: Path, folder: Path) -> tuple[Path, Path]:
    """Writes the first part of a recording, and a later one."""
    folder.mkdir()
    first, later = folder / "first", folder / "later"
    if recording.suffix == ".npz":
        arrays = np.load(recording)
        for path, low, high in ((first, 0.0, FIRST), (later, LATER, 1.0)):
            np.savez(path, **{name: _part(arrays[name], low, high) for name in arrays.files})
        return first.with_suffix(".npz"), later.with_suffix(".npz")
    if recording.suffix == ".wav":
        with wave.open(str(recording)) as sound:
            terms, samples = sound.getparams(), np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
        for path, low, high in ((first, 0.0, FIRST), (later, LATER, 1.0)):
            with wave.open(str(path.with_suffix(".wav")), "wb") as written:
                written.setparams(terms)
                written.writeframes(_part(samples, low, high).tobytes())
        return first.with_suffix(".wav"), later.with_suffix(".wav")
    pictures = _pictures(recording)
    for path, low, high in ((first, 0.0, FIRST), (later, LATER, 1.0)):
        path.mkdir()
        for index, picture in enumerate(_part(pictures, low, high)):
            cv2.imwrite(str(path / f"{index:05}.png"), picture)
    return first, later


def _part(values: Sequence[np.ndarray] | np.ndarray, low: float, high: float) -> np.ndarray:
    return values[int(low * len(values)) : int(high * len(values))]


def _pictures(recording: Path) -> list[np.ndarray]:
    video, pictures = cv2.VideoCapture(str(recording)), []
    while True:
        there, picture = video.read()
        if not there:
            return pictures
        pictures.append(picture)


if __name__ == "__main__":
    main()
