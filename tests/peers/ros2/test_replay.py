"""A recording of a street, a conversation and motion is replayed at its rate through the node to real models: boxes are
published, and every message is answered, whatever became of it.
"""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from duly.demo.assets import fetch
from duly.demo.prepare import prepare_models
from tests import graphs
from tests.peers.ros2.conftest import Run
from tests.peers.ros2.processes import Listener, Sensors, server
from tests.peers.ros2.recording import write

SECONDS = 6.0
TOPICS = {
    "/duly/front/boxes": "vision_msgs/msg/Detection2DArray",
    "/duly/ear/speech": "vision_msgs/msg/Classification",
    "/duly/body/tensors": "duly_msgs/msg/Tensors",
}


def test_a_recording_is_replayed_and_every_message_is_answered(
    sensors: Sensors, listen: Callable[..., Listener], run: Run, tmp_path: Path
) -> None:
    assets = fetch(["bikes.mp4", "sample.wav", "BasicMotions_TEST.ts"])
    sent = write(tmp_path / "log.mcap", *(assets[name] for name in assets), SECONDS)
    models = tmp_path / "models"
    shutil.copytree(prepare_models(), models)
    graphs.save(models, "motion", graphs.doubling(("N", 6)))
    streams = {
        "front": {
            "model": "yolo",
            "topic": "/camera/front/compressed",
            "type": "CompressedImage",
            "budget_ms": 3000,
            "qos": {"depth": 1},
            "publish": {"detections": "~/front/boxes"},
        },
        "ear": {
            "model": "vad",
            "topic": "/microphone",
            "type": "AudioDataStamped",
            "budget_ms": 3000,
            "qos": {"history": "keep_all"},
            "publish": {"classification": "~/ear/speech"},
        },
        "body": {
            "model": "motion",
            "topic": "/imu",
            "type": "Imu",
            "fields": ["linear_acceleration", "angular_velocity"],
            "budget_ms": 3000,
            "qos": {"depth": 50},
            "publish": {"tensors": "~/body/tensors"},
        },
    }
    listener = listen(**TOPICS)
    with server(models) as (_, address):
        run({"server": address, "streams": streams})
        no_picture = {"format": "png", "data": list(b"\x89PNG")}
        listener.warm_up(sensors, "/camera/front/compressed", "sensor_msgs/msg/CompressedImage", no_picture)
        listener.warm_up(
            sensors, "/microphone", "audio_common_msgs/msg/AudioDataStamped", {"audio": {"data": [0, 0] * 512}}
        )
        listener.warm_up(sensors, "/imu", "sensor_msgs/msg/Imu", {}, "/duly/body/tensors")
        sensors.do({"replay": str(tmp_path / "log.mcap"), "rate": 1.0})
        outcomes = listener.count("/duly/outcomes", sum(sent.values()))
    answered = Counter(outcome["topic"] for outcome in outcomes)
    assert answered == sent, "one outcome for each message"
    statuses = {topic: Counter(o["status_name"] for o in outcomes if o["topic"] == topic) for topic in sent}
    results = {topic: counts["ON_TIME"] + counts["LATE"] for topic, counts in statuses.items()}
    assert all(results.values()), statuses
    assert set(statuses["/camera/front/compressed"]) <= {"ON_TIME", "LATE", "SUPERSEDED", "EXPIRED", "SHED"}

    boxes = listener.all("/duly/front/boxes")
    found = [box for message in boxes for box in message["detections"]]
    names = Counter(box["results"][0]["hypothesis"]["class_id"] for box in found)
    assert names & Counter(["person", "bicycle", "car", "truck", "bus", "motorbike"]), names
    assert all(box["bbox"]["size_x"] > 1 for box in found), "in pixels"
    assert {message["header"]["frame_id"] for message in boxes} == {"front_optical"}
    speech = [message["results"][0]["score"] for message in listener.all("/duly/ear/speech")]
    assert max(speech) > 0.5, "somebody speaks in this recording"
