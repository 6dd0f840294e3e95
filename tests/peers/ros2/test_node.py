"""The node between real publishers and subscribers of rclpy and a real server: what goes in, what comes out, and what
it says of what it cannot use."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.ros2.conftest import Run
from tests.peers.ros2.processes import Listener, Sensors, server

Listen = Callable[..., Listener]
IMAGE = "sensor_msgs/msg/Image"
IMU = "sensor_msgs/msg/Imu"
BUDGET_MS = 60_000
PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8)


def camera(address: str, **more: Any) -> dict[str, Any]:
    stream = {"model": "copy", "topic": "/camera", "type": "Image", "budget_ms": BUDGET_MS, "qos": {"depth": 20}}
    return {"server": address, "streams": {"front": stream | {"publish": {"tensors": "~/front/tensors"}} | more}}


def image(encoding: str = "rgb8", step: int = 9, data: bytes = PIXELS.tobytes()) -> dict[str, Any]:
    return {"height": 2, "width": 3, "encoding": encoding, "step": step, "data": list(data)}


def imu(turn: float) -> dict[str, Any]:
    return {"angular_velocity": {"x": turn, "y": 2.0, "z": 3.0}, "linear_acceleration": {"x": 4.0, "y": 5.0, "z": 6.0}}


def picture_of(message: dict[str, Any]) -> np.ndarray:
    (tensor,) = message["tensors"]
    return np.frombuffer(bytes.fromhex(tensor["data"]), np.uint8).reshape(tensor["shape"])


def test_pictures_come_back_as_they_were_and_what_cannot_be_read_is_named(
    address: str, sensors: Sensors, listen: Listen, run: Run
) -> None:
    listener = listen(**{"/duly/front/tensors": "duly_msgs/msg/Tensors"})
    run(camera(address))
    listener.warm_up(sensors, "/camera", IMAGE, image(), "/duly/front/tensors")
    header = {"frame_id": "front_optical"}
    padded = b"".join(row.tobytes() + b"\xff\xff" for row in PIXELS.reshape(2, 9))
    for fields in (
        image(),
        image("bgr8"),
        image("rgb8", 11, padded),
        image("mono8", 3, bytes(range(6))),
        image("rgb8", 3),
        image("bayer_rggb8", 3, bytes(range(6))),
    ):
        sensors.publish("/camera", IMAGE, fields={"header": header, **fields}, stamp_ms=-5)
    sensors.publish("/camera", IMAGE, fields={"header": header, **image()}, stamp_ms=3_600_000)
    outcomes = listener.count("/duly/outcomes", 7)
    assert sorted(outcome["status_name"] for outcome in outcomes) == ["INVALID"] * 2 + ["ON_TIME"] * 5
    assert {outcome["header"]["frame_id"] for outcome in outcomes} == {"front_optical"}
    unread = [outcome["reason"] for outcome in outcomes if outcome["status_name"] == "INVALID"]
    assert any("'bayer_rggb8'; expected one of rgb8, bgr8, mono8, 16UC1, 32FC1" in reason for reason in unread)
    tensors = listener.count("/duly/front/tensors", 5)
    want = PIXELS.reshape(2, 3, 3)
    grey = np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3, 1), 3, axis=2)
    for message, pixels in zip(tensors, (want, want[:, :, ::-1], want, grey, want), strict=True):
        np.testing.assert_array_equal(picture_of(message), pixels)
    assert tensors[0]["header"]["frame_id"] == "front_optical"
    stamps = [outcome["header"]["stamp"] for outcome in outcomes if outcome["status_name"] == "ON_TIME"]
    assert [message["header"]["stamp"] for message in tensors] == stamps

    assert "bayer_rggb8" in listener.diagnosis("bayer_rggb8")["message"]
    future = listener.diagnosis("in the future")
    keys = {value["key"] for value in future["values"]}
    assert keys >= {
        "is_processing_time_ms_in_expected_range",
        "processing_time_ms",
        "is_consecutive_processing_delay_in_range",
        "consecutive_processing_delay_ms",
        "processing_time/execution",
        "drop_ratio",
        "clock_offset_ms",
    }


def test_a_topic_of_another_type_and_a_publisher_that_is_not_heard_are_named(
    address: str, sensors: Sensors, listen: Listen, run: Run
) -> None:
    listener = listen()
    settings = camera(address)
    settings["streams"]["turn"] = {"model": "imu", "topic": "/imu", "type": "Imu", "budget_ms": BUDGET_MS}
    settings["streams"]["turn"]["fields"] = ["angular_velocity", "linear_acceleration"]
    run(settings)
    sensors.publish("/camera", "sensor_msgs/msg/CompressedImage", fields={"format": "jpeg"}, waits=False)
    wrong = listener.diagnosis("is published as")
    assert wrong["level"] in ("02", 2)
    assert (
        "/camera: is published as sensor_msgs/msg/CompressedImage, and type says sensor_msgs/msg/Image"
        in wrong["message"]
    )
    sensors.publish("/imu", IMU, fields=imu(1.0), stamp_ms=0, reliability="best_effort", waits=False)
    assert "reliability" in listener.diagnosis("/imu: a publisher offers another")["message"]


def test_inputs_of_two_topics_are_joined_and_what_finds_no_partner_is_answered(
    address: str, sensors: Sensors, listen: Listen, run: Run
) -> None:
    listener = listen(**{"/duly/both/tensors": "duly_msgs/msg/Tensors"})
    motion = {
        "topic": "/imu",
        "type": "Imu",
        "fields": ["angular_velocity", "linear_acceleration"],
        "qos": {"depth": 20},
    }
    distance = {"topic": "/range", "type": "Range", "qos": {"depth": 20}}
    stream = {
        "model": "both",
        "inputs": {"motion": motion, "distance": distance},
        "join": {"tolerance_ms": 10, "queue": 3},
        "budget_ms": 5000,
        "publish": {"tensors": "~/both/tensors"},
    }
    run({"server": address, "streams": {"both": stream}})
    listener.warm_up(sensors, "/range", "sensor_msgs/msg/Range", {"range": 1.0})
    listener.warm_up(sensors, "/imu", IMU, imu(0.0))
    now_ns = time.time_ns()
    sensors.publish("/range", "sensor_msgs/msg/Range", fields={"range": 10.0}, stamp_ns=now_ns + 4_000_000)
    sensors.publish("/imu", IMU, fields=imu(1.0), stamp_ns=now_ns)
    joined = listener.count("/duly/outcomes", 2)
    assert {(outcome["topic"], outcome["frame_id"]) for outcome in joined} == {("/imu", 1), ("/range", 1)}
    for nth in range(5):
        sensors.publish("/imu", IMU, fields=imu(nth), stamp_ns=now_ns + (nth + 1) * 20_000_000)
    alone = listener.count("/duly/outcomes", 7)[2:]
    assert sorted(outcome["status_name"] for outcome in alone) == ["EXPIRED"] * 3 + ["SUPERSEDED"] * 2
    assert any("no message on /range within 10 ms" in outcome["reason"] for outcome in alone)
    if joined[0]["status_name"] in ("ON_TIME", "LATE"):
        (tensor,) = listener.count("/duly/both/tensors", 1)[0]["tensors"]
        values = np.frombuffer(bytes.fromhex(tensor["data"]), np.float32)
        assert values.tolist() == [11.0, 12.0, 13.0, 14.0, 15.0, 16.0]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_node_ends_and_starts_again(
    address: str, sensors: Sensors, listen: Listen, run: Run, how: signal.Signals
) -> None:
    listener = listen()
    for count in (1, 2):
        node = run(camera(address))
        listener.warm_up(sensors, "/camera", IMAGE, image())
        sensors.publish("/camera", IMAGE, fields=image(), stamp_ms=0)
        assert listener.count("/duly/outcomes", count)[-1]["status_name"] == "ON_TIME"
        status = node.end(how)
        assert status == (0 if how is signal.SIGTERM else -how), node.lines


def test_the_server_ends_and_starts_again_while_pictures_come(
    models: Path, sensors: Sensors, listen: Listen, run: Run
) -> None:
    listener = listen()
    sent = 0

    def pictures_until(status: str) -> None:
        nonlocal sent
        for _ in range(600):
            sensors.publish("/camera", IMAGE, fields=image(), stamp_ms=0)
            sent += 1
            if listener.count("/duly/outcomes", sent)[-1]["status_name"] == status:
                return
        raise AssertionError(f"none of {sent} pictures was {status}")

    with server(models) as (process, address):
        node = run(camera(address, budget_ms=2000))
        listener.warm_up(sensors, "/camera", IMAGE, image())
        pictures_until("ON_TIME")
        process.close()
        pictures_until("CANCELLED")
    with server(models, int(address.rpartition(":")[2])):
        pictures_until("ON_TIME")
    assert node.end() == 0, node.lines
    assert len(listener.all("/duly/outcomes")) == sent


def test_a_node_without_a_server_says_so_and_starts_when_it_is_there(
    models: Path, sensors: Sensors, listen: Listen, run: Run
) -> None:
    with server(models) as (_, address):
        pass
    listener = listen()
    settings = camera(address) | {"open_timeout_s": 1.0}
    node = run(settings, opens=False)
    assert address in listener.diagnosis("connect")["message"]
    with server(models, int(address.rpartition(":")[2])):
        node.until(lambda line: "is open" in line, "open stream")
        listener.warm_up(sensors, "/camera", IMAGE, image())
        sensors.publish("/camera", IMAGE, fields=image(), stamp_ms=0)
        assert listener.count("/duly/outcomes", 1)[0]["status_name"] == "ON_TIME"
