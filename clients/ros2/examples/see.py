"""A camera of one picture, and somebody who looks at what comes of it: `see.py picture.jpg`."""

import array
import sys
from contextlib import suppress
from pathlib import Path

import rclpy
from duly_msgs.msg import Outcome
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import CompressedImage
from vision_msgs.msg import Detection2DArray


def outcome(message: Outcome) -> None:
    print(message.status_name, f"{message.latency_ms:.1f} ms {message.reason}".rstrip())


def seen(message: Detection2DArray) -> None:
    for box in message.detections:
        centre = box.bbox.center.position
        print(f"  {box.results[0].hypothesis.class_id} at {centre.x:.0f}, {centre.y:.0f}")


if len(sys.argv) != 2:
    sys.exit("usage: see.py picture.jpg")
rclpy.init()
node = rclpy.create_node("camera")
picture = CompressedImage(format="jpeg", data=array.array("B", Path(sys.argv[1]).read_bytes()))
picture.header.frame_id = "front_optical"
camera = node.create_publisher(CompressedImage, "/camera/front/compressed", 10)


def expose() -> None:
    picture.header.stamp = node.get_clock().now().to_msg()
    camera.publish(picture)


node.create_subscription(Outcome, "/duly/outcomes", outcome, 100)
node.create_subscription(Detection2DArray, "/duly/front/detections", seen, 10)
node.create_timer(0.2, expose)
with suppress(KeyboardInterrupt, ExternalShutdownException):
    rclpy.spin(node)
