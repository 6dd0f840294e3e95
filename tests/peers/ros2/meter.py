"""Times one picture at a time, in a process of rclpy: published on a topic and heard there, through a relay in another
process, or through the node. A line of JSON each on stdin: {"way", "count"}; it answers with milliseconds.

`meter.py relay` is the relay: it takes pictures and publishes their headers, as plain a node as there can be.
"""

import array
import json
import sys
import time

import rclpy
from duly_msgs.msg import Outcome
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

WIDTH, HEIGHT = 640, 480
LOST_S = 1.0
WAYS = {
    "self": ("/self", Image, "/self"),
    "relay": ("/relayed", Header, "/relay"),
    "node": ("/duly/outcomes", Outcome, "/camera"),
}
"""Of each way: the topic that is listened to and its type, and the topic that pictures go to."""


def relay():
    node = rclpy.create_node("relay")
    headers = node.create_publisher(Header, "/relayed", QoSProfile(depth=10))
    node.create_subscription(Image, "/relay", lambda picture: headers.publish(picture.header), QoSProfile(depth=10))
    rclpy.spin(node)


class Meter:
    def __init__(self):
        self.node = rclpy.create_node("meter", enable_rosout=False, start_parameter_services=False)
        self.executor = rclpy.executors.SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.heard_ns = 0
        self.wanted = 0
        pixels = array.array("B", bytes(range(256)) * (WIDTH * HEIGHT * 3 // 256))
        self.picture = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3, data=pixels)

    def heard(self, message):
        stamp = (message if isinstance(message, Header) else message.header).stamp
        if stamp.sec * 1_000_000_000 + stamp.nanosec == self.wanted:
            self.heard_ns = time.monotonic_ns()

    def times(self, way, count):
        heard, kind, sent = WAYS[way]
        subscription = self.node.create_subscription(kind, heard, self.heard, QoSProfile(depth=10))
        publisher = self.node.create_publisher(Image, sent, QoSProfile(depth=10))
        found = []
        tries = 0
        while len(found) < count and tries < 3 * count + 60:
            tries += 1
            self.wanted, self.heard_ns = time.time_ns(), 0
            self.picture.header.stamp.sec, self.picture.header.stamp.nanosec = divmod(self.wanted, 1_000_000_000)
            began_ns = time.monotonic_ns()
            publisher.publish(self.picture)
            while not self.heard_ns and time.monotonic_ns() - began_ns < LOST_S * 1e9:
                self.executor.spin_once(timeout_sec=0.1)
            if self.heard_ns:
                found.append((self.heard_ns - began_ns) / 1e6)
            time.sleep(0.002)
        self.node.destroy_subscription(subscription)
        self.node.destroy_publisher(publisher)
        return found[min(10, len(found) // 2) :]


def main():
    rclpy.init()
    if sys.argv[1:] == ["relay"]:
        relay()
        return
    meter = Meter()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        print(json.dumps({"times": meter.times(told["way"], told["count"])}), flush=True)


main()
