"""`duly demo bedside`: monitors at six beds. An alarm comes for each ectopic heartbeat, half a second after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duly.demo import training
from duly.demo.clips import Clip
from duly.demo.description import Demo, Files
from duly.demo.judgement import probability
from duly.demo.sensors import Sensor
from duly.demo.summary import milliseconds
from duly.demo.tally import Tally
from duly_client import Client, Outcome

RATE_HZ = 250
WINDOW_SAMPLES = 300
HOP_SAMPLES = 25
"""A monitor sends the newest 1.2 s of both leads ten times a second."""
AFTER_SAMPLES = 100
"""An alarm is for a beat that lies between this and this + HOP_SAMPLES before the end of the window: what comes after
it tells it apart."""
ALARM_MIN = 0.5
NEAR_SAMPLES = 40
"""An alarm belongs to a beat that is at most so far (0.16 s) from where the alarm puts it."""

BEDS = 6
BUDGET_MS = 100.0
LEARNT_UNTIL = 300_000
"""Sample at which the first half of the annotated time ends: the model learns from what is before, and is judged by
what comes after."""

_UNITS_PER_MV = 400
_NORMAL, _ECTOPIC = 1, 5
"""Codes of MIT annotation files (WFDB, `annot(5)`): N and V."""

Signal = npt.NDArray[np.float32]


def read_signal(path: Path) -> Signal:
    """Reads two leads of 12 bits a sample (WFDB's format 212) as mV, of shape [2, samples]."""
    octets = np.fromfile(path, np.uint8).reshape(-1, 3).astype(np.int16)
    first = octets[:, 0] | (octets[:, 1] & 0x0F) << 8
    second = octets[:, 2] | (octets[:, 1] & 0xF0) << 4
    leads = np.stack([first, second])
    leads[leads > 2047] -= 4096
    return (leads / _UNITS_PER_MV).astype(np.float32)


def read_beats(path: Path) -> list[tuple[int, bool]]:
    """Reads a file of MIT annotations: sample of each beat, and whether the beat is ectopic.

    Of each pair of bytes the upper six bits are the code and the lower ten the samples since the last annotation.
    """
    words = np.fromfile(path, "<u2").tolist()
    beats, at, now = [], 0, 0
    while at < len(words):
        code, value = words[at] >> 10, words[at] & 0x3FF
        at += 1
        if code == value == 0:
            break
        if code == 59:  # SKIP: the samples follow as four bytes
            now += (words[at] << 16) + words[at + 1]
            at += 2
        elif code == 63:  # AUX: so many bytes of text follow
            at += (value + 1) // 2
        elif code < 59:
            now += value
            if code in (_NORMAL, _ECTOPIC):
                beats.append((now, code == _ECTOPIC))
    return beats


def window(signal: Signal, end: int) -> Signal:
    """What a monitor sends at sample `end`: the newest samples of the first lead, then those of the second."""
    return signal[:, end - WINDOW_SAMPLES : end].reshape(-1)


def _make(files: Files, models: Path) -> None:
    signal, beats = read_signal(files["0201.dat"]), read_beats(files["0201.atr"])
    ends = np.arange(beats[0][0] + WINDOW_SAMPLES, LEARNT_UNTIL, HOP_SAMPLES // 5)
    ectopic = np.array([sample for sample, is_ectopic in beats if is_ectopic])
    age = ends[:, None] - ectopic
    truth = ((age >= AFTER_SAMPLES) & (age < AFTER_SAMPLES + HOP_SAMPLES)).any(axis=1)
    others = np.flatnonzero(~truth)
    chosen = np.concatenate([np.flatnonzero(truth), others[:: len(others) // (12 * int(truth.sum()))]])
    rows = np.stack([window(signal, end) for end in ends[chosen]])
    training.write_classifier(models / "beats/1/model.onnx", rows, truth[chosen], hidden=32)


@dataclass(frozen=True, slots=True)
class _Alarm:
    sample: int
    """Where in the recording the alarm puts the beat."""
    after_ns: int
    """Time from the beat's place in the signal until the alarm was with the client."""


class Monitor:
    """Perceives alarms, and which beats of the recording they are for."""

    def __init__(self, first_end: int, beats: Sequence[tuple[int, bool]]) -> None:
        """`first_end`: sample at which the first window ends. `beats`: those of the recording."""
        self._first_end, self._beats = first_end, beats
        self._ends: list[int] = []
        self.alarms: list[_Alarm] = []

    def take(self, index: int, outcome: Outcome) -> None:
        end = self._first_end + index * HOP_SAMPLES
        self._ends.append(end)
        if probability(outcome) >= ALARM_MIN:
            sample = end - AFTER_SAMPLES - HOP_SAMPLES // 2
            if not self.alarms or abs(sample - self.alarms[-1].sample) > NEAR_SAMPLES:  # two windows may see one beat
                self.alarms.append(_Alarm(sample, (end - sample) * 1_000_000_000 // RATE_HZ + outcome.latency_ns))

    def now(self) -> str:
        if not self._ends:
            return ""
        seen = self._ends[-1] - AFTER_SAMPLES
        if self.alarms and seen - self.alarms[-1].sample < 2 * RATE_HZ:
            return f"ALARM: ectopic beat, {milliseconds(self.alarms[-1].after_ns)} after it"
        passed = sum(self._ends[0] - WINDOW_SAMPLES < sample <= seen for sample, _ in self._beats)
        return f"{passed} beats, {len(self.alarms)} alarms"

    def summary(self) -> str:
        beats, ectopic, found, false = self.judged()
        return f"{found} of {ectopic} ectopic beats among {beats}, {false} false alarms"

    def judged(self) -> tuple[int, int, int, int]:
        """How many beats there were in what was looked at, how many of them ectopic, how many of these an alarm was
        given for, and how many alarms were for none.
        """
        if not self._ends:
            return 0, 0, 0, 0
        oldest, newest = self._ends[0] - AFTER_SAMPLES - HOP_SAMPLES, self._ends[-1] - AFTER_SAMPLES
        inside = [(sample, ectopic) for sample, ectopic in self._beats if oldest < sample <= newest]
        ectopic = [sample for sample, is_ectopic in self._beats if is_ectopic]
        for_one = [alarm for alarm in self.alarms if any(abs(alarm.sample - beat) <= NEAR_SAMPLES for beat in ectopic)]
        found = sum(
            any(abs(alarm.sample - sample) <= NEAR_SAMPLES for alarm in self.alarms)
            for sample, is_ectopic in inside
            if is_ectopic
        )
        return len(inside), sum(is_ectopic for _, is_ectopic in inside), found, len(self.alarms) - len(for_one)


async def _sensors(client: Client, files: Files) -> list[Sensor]:
    signal, beats = read_signal(files["0201.dat"]), read_beats(files["0201.atr"])
    share = (signal.shape[1] - LEARNT_UNTIL) // BEDS
    period_ns = HOP_SAMPLES * 1_000_000_000 // RATE_HZ
    sensors = []
    for bed in range(BEDS):
        first_end = LEARNT_UNTIL + bed * share + WINDOW_SAMPLES
        ends = range(first_end, LEARNT_UNTIL + (bed + 1) * share, HOP_SAMPLES)
        clip = Clip([window(signal, end) for end in ends], period_ns)
        monitor, phase_ns = Monitor(first_end, beats), period_ns * bed // BEDS
        name = f"bed {bed + 1}"
        sensors.append(Sensor(name, "beats", clip, period_ns, phase_ns, BUDGET_MS, "CRITICAL", "ALL", monitor))
    return sensors


def _words(sensors: list[Sensor], seconds: float) -> str:
    return (
        f"Streaming for {seconds:g} s, as fast as hearts beat: at {len(sensors)} beds a monitor sends the newest 1.2 s "
        f"of two leads of ECG {sensors[0].rate_hz:g} times a second, wanted within {sensors[0].budget_ms:g} ms. It is "
        "one real recording (AHA database, record 201), of which each bed plays another 2½ minutes. Cardiologists said "
        "what each beat is. The model learnt from the quarter of an hour before."
    )


def _summary(sensors: list[Sensor]) -> dict[str, str]:
    monitors = [sensor.perception for sensor in sensors if isinstance(sensor.perception, Monitor)]
    judged = np.array([monitor.judged() for monitor in monitors]).sum(axis=0).tolist()
    return {"beats": _beats(*judged), "alarms": _alarms(monitors), "monitors": _monitors([s.tally for s in sensors])}


def _beats(beats: int, ectopic: int, found: int, false: int) -> str:
    if not ectopic:
        return f"None of the {beats} beats that passed was ectopic, by the cardiologists. There were {false} alarms."
    alarms = found + false
    return (
        f"{beats} beats passed, {ectopic} of them ectopic by the cardiologists. For {found} of these an alarm came "
        f"(sensitivity {found / ectopic:.0%}); {false} alarms were for no such beat"
        f"{f' (precision {found / alarms:.0%})' if alarms else ''}."
    )


def _alarms(monitors: list[Monitor]) -> str:
    after_ns = [alarm.after_ns for monitor in monitors for alarm in monitor.alarms]
    if not after_ns:
        return "None."
    return (
        f"They came {milliseconds(float(np.median(after_ns)))} after the beat in the middle, and "
        f"{milliseconds(max(after_ns))} at the latest. {milliseconds(1e9 * AFTER_SAMPLES / RATE_HZ)} of it is the ECG "
        "that has to follow a beat before it can be told."
    )


def _monitors(tallies: list[Tally]) -> str:
    on_time, sent = sum(tally.on_time for tally in tallies), sum(tally.sent for tally in tallies)
    worst_ns = [latency for tally in tallies if (latency := tally.latency_ns(99)) is not None]
    slow = f", 99 of 100 within {milliseconds(max(worst_ns))}" if worst_ns else ""
    return f"{on_time:,} of {sent:,} windows were looked at in time{slow}."


DEMO = Demo(
    name="bedside",
    assets=("0201.dat", "0201.atr"),
    models=("beats",),
    made_by=(Path(__file__),),
    make=_make,
    sensors=_sensors,
    words=_words,
    summary=_summary,
)
