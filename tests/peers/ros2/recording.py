"""A robot's recording as an MCAP: a street's video, a conversation and a watch's motion, as ROS 2 messages."""

import itertools
import wave
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mcap_ros2.writer import Writer

HEADER = """builtin_interfaces/Time stamp
string frame_id"""
TIME = """int32 sec
uint32 nanosec"""
SPEECH_S = 7
"""From when on somebody speaks in the conversation."""
_SEPARATOR = "\n" + "=" * 80 + "\n"
DEFINITIONS = {
    "sensor_msgs/msg/CompressedImage": ("std_msgs/Header header\nstring format\nuint8[] data", {}),
    "audio_common_msgs/msg/AudioDataStamped": (
        "std_msgs/Header header\naudio_common_msgs/AudioData audio",
        {"audio_common_msgs/AudioData": "uint8[] data"},
    ),
    "sensor_msgs/msg/Imu": (
        "std_msgs/Header header\n"
        "geometry_msgs/Quaternion orientation\nfloat64[9] orientation_covariance\n"
        "geometry_msgs/Vector3 angular_velocity\nfloat64[9] angular_velocity_covariance\n"
        "geometry_msgs/Vector3 linear_acceleration\nfloat64[9] linear_acceleration_covariance",
        {
            "geometry_msgs/Quaternion": "float64 x\nfloat64 y\nfloat64 z\nfloat64 w",
            "geometry_msgs/Vector3": "float64 x\nfloat64 y\nfloat64 z",
        },
    ),
}
"""Definitions of messages, with those of what they hold."""


def write(file: Path, video: Path, sound: Path, motion: Path, seconds: float) -> dict[str, int]:
    """Writes the first `seconds` of all three; returns how many messages there are of each topic."""
    messages = [*_pictures(video, seconds), *_chunks(sound, seconds), *_motions(motion, seconds)]
    messages.sort(key=lambda each: each[0])
    counts: dict[str, int] = {}
    with file.open("wb") as content:
        writer = Writer(content)
        schemas = {}
        for kind, (text, further) in DEFINITIONS.items():
            parts = {"std_msgs/Header": HEADER, "builtin_interfaces/Time": TIME} | further
            whole = text + "".join(f"{_SEPARATOR}MSG: {name}\n{each}" for name, each in parts.items())
            schemas[kind] = writer.register_msgdef(kind, whole)
        for time_s, topic, kind, message in messages:
            time_ns = round(time_s * 1e9)
            writer.write_message(topic, schemas[kind], message, log_time=time_ns, publish_time=time_ns)
            counts[topic] = counts.get(topic, 0) + 1
        writer.finish()
    return counts


def _header(frame_id: str) -> dict[str, Any]:
    return {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": frame_id}


def _pictures(video: Path, seconds: float) -> Any:
    capture = cv2.VideoCapture(str(video))
    rate_hz = 5.0
    every = max(1, round(capture.get(cv2.CAP_PROP_FPS) / rate_hz))
    for nth in itertools.count():
        read, picture = capture.read()
        if not read or nth // every / rate_hz >= seconds:
            break
        if nth % every == 0:
            data = cv2.imencode(".jpg", picture)[1].tobytes()
            message = {"header": _header("front_optical"), "format": "jpeg", "data": data}
            yield nth // every / rate_hz, "/camera/front/compressed", "sensor_msgs/msg/CompressedImage", message
    capture.release()


def _chunks(sound: Path, seconds: float) -> Any:
    with wave.open(str(sound)) as recording:
        recording.setpos(SPEECH_S * 16_000)
        for nth in range(int(seconds * 16_000) // 512):
            message = {"header": _header("microphone"), "audio": {"data": recording.readframes(512)}}
            yield nth * 512 / 16_000, "/microphone", "audio_common_msgs/msg/AudioDataStamped", message


def _motions(motion: Path, seconds: float) -> Any:
    lines = [line for line in motion.read_text().splitlines() if line and line[0] not in "#@"]
    channels = [[float(number) for number in part.split(",")] for part in lines[0].split(":")[:6]]
    rows = np.array(channels).T
    for nth in range(int(seconds * 50)):
        row = [float(number) for number in rows[nth % len(rows)]]
        vector = dict(zip("xyz", row[:3], strict=True))
        turn = dict(zip("xyz", row[3:], strict=True))
        still = {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
        message = {
            "header": _header("watch"),
            "orientation": still,
            "orientation_covariance": [0.0] * 9,
            "angular_velocity": turn,
            "angular_velocity_covariance": [0.0] * 9,
            "linear_acceleration": vector,
            "linear_acceleration_covariance": [0.0] * 9,
        }
        yield nth / 50, "/imu", "sensor_msgs/msg/Imu", message
